"""The settings of a training run, read from a TOML file: strict, so that a slip of the pen is no silent default.

Every section is a frozen dataclass; a setting's type and range stand beside its name. What [model], [data],
[optimizer] and [train] say decides the weights, bit for bit; what [run] says does not, and may differ when a run is
resumed.

Defaults are big_vision's for SigLIP, as its paper (arXiv:2303.15343, sections 3 and 4) and configurations have them:
beta2 0.95, gradients clipped at norm 1, t' = log 10, bias -10, decay of the weights of linear layers alone.
"""

from __future__ import annotations

import difflib
import inspect
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from itertools import pairwise
from math import ceil, isfinite, log
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import CheckpointError, InputError


@dataclass(frozen=True)
class Range:
    """low <= x <= high, or low < x with `above`."""

    low: float
    high: float = float("inf")
    above: bool = False

    def __contains__(self, x: float) -> bool:
        return (self.low < x if self.above else self.low <= x) and x <= self.high

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:g}"
        return low if self.high == float("inf") else f"{low} and at most {self.high:g}"


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1, above=True)]
Momentum = Annotated[float, Range(0, 0.999999)]


@dataclass(frozen=True)
class ImageSettings:
    """[model.image]: the image tower, as `npsiglip.ImageConfig` has it."""

    width: Count
    depth: Count
    num_heads: Count
    mlp_dim: Count
    image_size: Count
    patch_size: Count


@dataclass(frozen=True)
class TextSettings:
    """[model.text]: the text tower, whose projection ends in the width of the image tower."""

    width: Count
    depth: Count
    num_heads: Count
    mlp_dim: Count
    seq_len: Count
    vocab_size: Annotated[int, Range(64)]


@dataclass(frozen=True)
class ModelSettings:
    """[model]."""

    image: ImageSettings
    text: TextSettings


@dataclass(frozen=True)
class Phase:
    """[[data.phases]]: a stretch of the training, and what the world is like meanwhile.

    `fraction` of all steps, or `pairs`; the last phase lasts to the end and needs neither. Everything else is given to
    the world as it is.
    """

    fraction: Share | None = None
    pairs: Count | None = None
    world: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSettings:
    """[data]."""

    seed: Natural = 0
    """Of the world; [train] has that of the weights."""
    phases: tuple[Phase, ...] = (Phase(),)
    tokenizer: str = ""
    """A spiece.model; empty: one is trained on captions of the world."""
    tokenizer_captions: Annotated[int, Range(100)] = 10_000
    """How many, in equal shares from all phases."""
    label_noise: Annotated[float, Range(0, 1)] = 0.0
    """The share of a batch's pairs that exchange their captions (`npsiglip.train.data.mislabelled`)."""


@dataclass(frozen=True)
class OptimizerSettings:
    """[optimizer]."""

    rate: Positive = 1e-3
    """The learning rate at its peak."""
    beta1: Momentum = 0.9
    beta2: Momentum = 0.95
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Range(0, 1)] = 1e-4
    """Of a step at the schedule's peak, not multiplied with the rate."""
    clip_norm: Positive = 1.0
    warmup: Natural = 0
    """Steps until the peak."""
    floor: Annotated[float, Range(0, 1)] = 0.0
    """Where the cosine ends, as a part of the peak."""


@dataclass(frozen=True)
class TrainSettings:
    """[train]."""

    steps: Count
    batch: Annotated[int, Range(2)]
    seed: Natural = 0
    loss: Literal["sigmoid", "softmax"] = "sigmoid"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What products are computed in; parameters, gradients and moments are float32."""
    t_prime: Annotated[float, Range(-10, 10)] = log(10.0)
    bias: Annotated[float, Range(-100, 100)] = -10.0
    patch_embed: Literal["lecun", "whiten"] = "lecun"
    """How it starts: at random, as big_vision's, or from the pictures (`npsiglip.train.initial.whitening`)."""
    whiten_scale: Positive = 4.0
    """The deviation of what a whitening patch embedding gives."""
    pool: Literal["map", "mean"] = "map"
    """How tokens become one vector: weighed by the MAP head's attention; or all alike, for which the query's weights
    are zero and, like the probe, locked."""
    lock: Literal["", "image"] = ""
    """A tower that keeps its weights: the SigLiT recipe."""
    init: str = ""
    """A model folder to start from: its locked tower, or all of it if none is locked."""


@dataclass(frozen=True)
class RunSettings:
    """[run]: what changes no weight."""

    threads: Natural = 0
    """0: all cores."""
    workers: Count = 2
    """Processes that draw, at the lowest priority."""
    ahead: Count = 3
    """Batches that each of them draws ahead."""
    checkpoint_minutes: Positive = 5.0
    log_every: Count = 10
    """Steps from one line of metrics to the next."""
    eval_every: Natural = 500
    """Steps from one evaluation to the next; 0: at the end only."""
    eval_pictures: Count = 512
    """Of seen and of held-out combinations, each."""
    final_pictures: Natural = 2048
    """As many for what is measured of the finished model; 0: only what is measured on the way."""
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    """What the finished model is stored in."""


@dataclass(frozen=True)
class Config:
    """All settings."""

    model: ModelSettings
    train: TrainSettings
    data: DataSettings = DataSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    run: RunSettings = RunSettings()

    @property
    def siglip(self) -> SigLIPConfig:
        """The model's shapes."""
        image, text = asdict(self.model.image), asdict(self.model.text)
        return SigLIPConfig(ImageConfig(**image), TextConfig(**text, projection_dim=self.model.image.width))

    def phase_ends(self) -> list[int]:
        """The step behind each phase's last one."""
        ends: list[int] = []
        for phase in self.data.phases[:-1]:
            steps = self.train.steps * phase.fraction if phase.fraction else ceil((phase.pairs or 0) / self.train.batch)
            ends.append((ends[-1] if ends else 0) + max(1, round(steps)))
        return [*ends, self.train.steps]

    def deciding(self) -> dict[str, Any]:
        """Dotted name -> value of everything that decides the weights, as JSON gives it back."""
        return {name: value for name, value in _flat(asdict(self)).items() if not name.startswith("run.")}


def defaults() -> dict[str, Any]:
    """Dotted name -> default, of every setting that has one."""
    return {
        f"{section}.{entry.name}": entry.default
        for section, kind in get_type_hints(Config).items()
        for entry in fields(kind)
        if entry.default is not MISSING
    }


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return {k: v for key, item in items for k, v in _flat(item, f"{name}.{key}" if name else str(key)).items()}
    return {name: value}


# -- from tables to dataclasses ---------------------------------------------------------------------------------------


def _unknown(key: str, known: Sequence[str], where: str) -> InputError:
    """An error that names the key and the one that was probably meant."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(known)}"
    return InputError(f"{where} has the unknown key `{key}`: {hint}")


def _number(value: Any, kind: type, limits: Range | None, name: str) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not (kind is float and isinstance(value, float) and isfinite(value)):
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} must be {what}{f' {limits}' if limits else ''}, got {value!r}")
    if limits and value not in limits:
        raise InputError(f"{name} must be {limits}, got {value!r}")
    return kind(value)


def _value(value: Any, hint: Any, name: str) -> Any:
    """`value` checked against a type as the dataclasses above have them."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _number(value, args[0], args[1], name)
    if hint in (int, float):
        return _number(value, hint, None, name)
    if origin in (Union, UnionType):
        return _value(value, args[0], name)
    if origin is Literal:
        if value not in args:
            raise InputError(f"{name} must be one of {', '.join(map(repr, args))}; got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list) or not value:
            raise InputError(f"{name} must be one or more tables, as [[{name}]]; got {value!r}")
        return tuple(_section(part, args[0], f"{name}[{i}]") for i, part in enumerate(value))
    if hint is str:
        if not isinstance(value, str):
            raise InputError(f"{name} must be text, got {value!r}")
        return value
    return _section(value, hint, name)


def _section(table: Any, kind: Any, name: str) -> Any:
    if not isinstance(table, Mapping):
        raise InputError(f"{name} must be a table, got {table!r}")
    if kind is Phase:
        own = {key: value for key, value in table.items() if key in ("fraction", "pairs")}
        extra: dict[str, Any] = {"world": {key: value for key, value in table.items() if key not in own}}
        table = own
    else:
        extra = {}
    hints = get_type_hints(kind, include_extras=True)
    for key in table:
        if key not in hints:
            raise _unknown(key, list(hints), f"[{name}]" if name else "the configuration")
    for entry in fields(kind):
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and entry.name not in table:
            raise InputError(f"[{name}] lacks `{entry.name}`" if name else f"the configuration lacks [{entry.name}]")
    values = {k: _value(v, hints[k], f"{name}.{k}" if name else k) for k, v in table.items()}
    return kind(**values, **extra)


def _check_phases(config: Config) -> None:
    phases = config.data.phases
    for i, phase in enumerate(phases):
        if phase.fraction and phase.pairs:
            raise InputError(f"data.phases[{i}] has both `fraction` and `pairs`: which of them is it?")
        if not phase.fraction and not phase.pairs and i < len(phases) - 1:
            raise InputError(f"data.phases[{i}] needs `fraction` or `pairs`: only the last phase lasts to the end")
    total = sum(phase.fraction or 0.0 for phase in phases)
    if phases[-1].fraction and abs(total - 1.0) > 1e-6:
        raise InputError(f"the fractions of data.phases must add up to 1, got {total:g}; leave out that of the last")
    ends = [0, *config.phase_ends()]
    if any(end <= start for start, end in pairwise(ends)):
        raise InputError(
            f"data.phases end at the steps {ends[1:]}: nothing is left of the {config.train.steps} for some"
        )


def mislabelled_count(share: float, batch: int) -> int:
    """How many pairs of a batch have another one's caption."""
    return round(share * batch)


def _check(config: Config) -> None:
    """What concerns more than one setting."""
    try:
        _ = config.siglip
    except CheckpointError as error:
        raise InputError(f"[model]: {error}") from None
    _check_phases(config)
    if config.optimizer.warmup >= config.train.steps:
        raise InputError(
            f"optimizer.warmup {config.optimizer.warmup} must be less than the {config.train.steps} of train.steps"
        )
    if config.train.lock and not config.train.init:
        raise InputError(
            f"train.lock {config.train.lock!r} needs a trained tower to lock: give its model folder as train.init "
            "or --init"
        )
    if config.train.lock and config.train.pool == "mean":
        raise InputError(
            "train.pool 'mean' changes the image tower, and train.lock keeps it as it is: leave out one of the two"
        )
    noise, batch = config.data.label_noise, config.train.batch
    if noise and mislabelled_count(noise, batch) < 2:
        raise InputError(
            f"data.label_noise {noise:g} of a batch of {batch} is less than two pairs, and one alone has nothing to "
            "exchange: give more noise, a larger batch, or 0"
        )


def check_world_settings(config: Config, world: Callable[..., Any]) -> None:
    """Refuse phases with a setting that the world does not have.

    Raises:
        InputError: naming the setting, and the one that was probably meant.
    """
    ours = ("self", "seed", "image_size", "split")
    known = [name for name in inspect.signature(world).parameters if name not in ours]
    for i, phase in enumerate(config.data.phases):
        for key in phase.world:
            if key not in known:
                raise _unknown(key, ["fraction", "pairs", *known], f"[data.phases[{i}]]")


def read_config(content: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Config:
    """The settings in the tables of a TOML file.

    Args:
        content: section -> settings.
        changes: settings of [train] that go before those of the file.

    Raises:
        InputError: an unknown key, a value of another type or out of range, or settings that do not fit each other.
    """
    known = [entry.name for entry in fields(Config)]
    for key in content:
        if key not in known:
            raise _unknown(key, known, "the configuration")
    train = content.get("train", {})
    if changes and isinstance(train, Mapping):
        content = {**content, "train": {**train, **changes}}
    config: Config = _section(content, Config, "")
    _check(config)
    return config


def load_config(path: str | Path, changes: Mapping[str, Any] | None = None) -> Config:
    """Read a TOML file; see `read_config`.

    Raises:
        InputError: as `read_config`; a file that cannot be read or is not TOML.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}; expected a TOML file with the training's settings") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    try:
        return read_config(content, changes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def with_run(config: Config, **settings: Any) -> Config:
    """The same with other settings of [run]."""
    return replace(config, run=replace(config.run, **settings))
