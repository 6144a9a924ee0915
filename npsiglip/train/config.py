"""The settings of a training run, read from a TOML file: strict, so that a slip of the pen is no silent default.

Every section is a frozen dataclass; a setting's type and range stand beside its name. What [model], [data],
[optimizer] and [train] say decides the weights, bit for bit; what [run] says does not, and may differ when a run is
resumed.

Defaults are big_vision's for SigLIP, as its paper (arXiv:2303.15343, sections 3 and 4) and configurations have them:
beta2 0.95, gradients clipped at norm 1, t' = log 10, bias -10, decay of the weights of linear layers alone.
"""

from __future__ import annotations

import functools
import inspect
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from itertools import pairwise
from math import ceil, log
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import CheckpointError, InputError
from npsiglip.pairs.fields import REST, Count, Momentum, Natural, Positive, Range, Share, flat, section, unknown_key
from npsiglip.pairs.settings import SourceSettings, check_source
from npsiglip.train.starting import other, with_shapes


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
    """[[data.phases]]: a stretch of the training, what it is made of, and what the world is like meanwhile.

    `fraction` of all steps, or `pairs`; the last phase lasts to the end and needs neither. `shares` are weights of
    sources, by their names, instead of those that the sources have. Everything else is given to the world as it is.
    """

    fraction: Share | None = None
    pairs: Count | None = None
    shares: Mapping[str, Annotated[float, Range(0)]] = field(default_factory=dict)
    world: Mapping[str, Any] = field(default_factory=dict, metadata={REST: True})


@dataclass(frozen=True)
class DataSettings:
    """[data]."""

    seed: Natural = 0
    """Of the world; [train] has that of the weights."""
    phases: tuple[Phase, ...] = (Phase(),)
    sources: tuple[SourceSettings, ...] = ()
    """Where pairs come from; none: the world alone."""
    tests: tuple[SourceSettings, ...] = ()
    """What the model is measured on meanwhile: pictures of classes, against the names of all classes."""
    tokenizer: str = ""
    """A spiece.model; empty: one is trained on captions of the sources."""
    tokenizer_captions: Annotated[int, Range(100)] = 10_000
    """How many, in equal shares from all phases."""
    label_noise: Annotated[float, Range(0, 1)] = 0.0
    """The share of a batch's pairs that exchange their captions (`npsiglip.train.worlds.mislabelled`)."""
    embedded: Natural = 0
    """With a locked image tower: how many pictures of each source are embedded once, at the start, and come again and
    again with other captions (`npsiglip.train.pool`). 0: every picture is drawn and embedded anew."""


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
    lock: Literal["", "image", "text"] = ""
    """A tower that keeps its weights. SigLiT locks the image tower."""
    init: str = ""
    """A model to start from, a folder, an npz or a name: all of it, but for the tower that is `new`."""
    new: Literal["", "image", "text"] | None = None
    """The tower that starts anew though there is `init`. Not set: the one beside the locked tower, if its shapes are
    given."""
    blocks: Natural | None = None
    """How many of the last blocks of each tower are trained, with what follows them; not set: everything."""


@dataclass(frozen=True)
class RunSettings:
    """[run]: what changes no weight."""

    threads: Natural = 0
    """0: all cores."""
    workers: Count = 2
    """Processes that draw, at the lowest priority."""
    ahead: Count = 3
    """Batches that each of them draws ahead."""
    until: Natural = 0
    """The step to end at, with the model as it is then and a schedule that would have gone on; 0: the last."""
    checkpoint_minutes: Positive = 5.0
    log_every: Count = 10
    """Steps from one line of metrics to the next."""
    eval_every: Natural = 500
    """Steps from one evaluation to the next; 0: at the end only."""
    eval_pictures: Count = 512
    """Of seen and of held-out combinations, each."""
    final_pictures: Natural = 2048
    """As many for what is measured of the finished model; 0: only what is measured on the way."""
    duplicate_seconds: Annotated[float, Range(0)] = 20.0
    """How long to look, at the start, for pictures of the tests that are in the sources as well; 0: not at all."""
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

    @property
    def new_tower(self) -> str:
        """The tower that does not start from `train.init`; empty if both do, or neither."""
        new = self.train.new
        return other(self.train.lock) if new is None else new

    @property
    def end(self) -> int:
        """The step that the run ends at."""
        return min(self.train.steps, self.run.until or self.train.steps)

    def phase_ends(self) -> list[int]:
        """The step behind each phase's last one."""
        ends: list[int] = []
        for phase in self.data.phases[:-1]:
            steps = self.train.steps * phase.fraction if phase.fraction else ceil((phase.pairs or 0) / self.train.batch)
            ends.append((ends[-1] if ends else 0) + max(1, round(steps)))
        return [*ends, self.train.steps]

    def deciding(self) -> dict[str, Any]:
        """Dotted name -> value of everything that decides the weights, as JSON gives it back."""
        return {
            name: value for name, value in flat(asdict(self)).items() if not name.startswith(("run.", "data.tests."))
        }


def defaults() -> dict[str, Any]:
    """Dotted name -> default, of every setting that has one."""
    return {
        f"{section}.{entry.name}": entry.default
        for section, kind in get_type_hints(Config).items()
        for entry in fields(kind)
        if entry.default is not MISSING
    }


@functools.cache
def _defaults() -> dict[str, Any]:
    """Those of every setting, and those of a source, without `data.sources.` and its number."""
    return defaults() | flat(asdict(SourceSettings("world")))


def default_of(key: str) -> Any:
    """The default of a setting by its dotted name; None if it has none."""
    return _defaults().get(re.sub(r"^data\.sources\.\d+\.", "", key))


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


def _check_sources(config: Config) -> None:
    sources = config.data.sources
    for section_name, listed in (("sources", sources), ("tests", config.data.tests)):
        count = Counter(source.name or source.kind for source in listed)
        if twice := [name for name in count if count[name] > 1]:
            raise InputError(f"data.{section_name} has {twice[0]!r} more than once: give each a `name` of its own")
        for i, source in enumerate(listed):
            check_source(source, f"data.{section_name}[{i}]")
    names = [source.name or source.kind for source in sources]
    for i, phase in enumerate(config.data.phases):
        for name in phase.shares:
            if name not in names:
                raise unknown_key(
                    name, names or ["none, since there are no [[data.sources]]"], f"data.phases[{i}].shares"
                )
        if sources and not any(
            phase.shares.get(name, source.weight) for name, source in zip(names, sources, strict=True)
        ):
            raise InputError(f"data.phases[{i}].shares leave no source with a weight above 0")


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
    _check_sources(config)
    if config.optimizer.warmup >= config.train.steps:
        raise InputError(
            f"optimizer.warmup {config.optimizer.warmup} must be less than the {config.train.steps} of train.steps"
        )
    _check_start(config)
    noise, batch = config.data.label_noise, config.train.batch
    if noise and mislabelled_count(noise, batch) < 2:
        raise InputError(
            f"data.label_noise {noise:g} of a batch of {batch} is less than two pairs, and one alone has nothing to "
            "exchange: give more noise, a larger batch, or 0"
        )


def _check_start(config: Config) -> None:
    """What concerns a model to start from, and what of it is trained."""
    if config.train.lock and not config.train.init:
        raise InputError(
            f"train.lock {config.train.lock!r} needs a trained tower to lock: give its model folder as train.init "
            "or --init"
        )
    if config.train.blocks is not None and not config.train.init:
        raise InputError(
            "train.blocks keeps the blocks before the last as they are, which needs trained ones: give their model "
            "folder as train.init or --init"
        )
    if config.train.lock == "image" and config.train.pool == "mean":
        raise InputError(
            "train.pool 'mean' changes the image tower, and train.lock keeps it as it is: leave out one of the two"
        )
    if config.data.embedded and config.train.lock != "image":
        raise InputError(
            f"data.embedded {config.data.embedded} keeps what the image tower makes of pictures, which changes with "
            f"every step unless train.lock is 'image', and it is {config.train.lock!r}: lock the image tower, or leave "
            "out data.embedded"
        )
    if config.train.new and not config.train.init:
        raise InputError(
            "train.new says which tower does not start from train.init, which is not set: without it both begin anew"
        )
    if config.train.new and config.train.new == config.train.lock:
        raise InputError(f"train.new and train.lock are both {config.train.lock!r}: a new tower cannot stay as it is")
    if config.train.blocks is not None and config.new_tower:
        raise InputError(
            f"train.blocks keeps blocks as they are, and the {config.new_tower} tower begins anew, with nothing worth "
            "keeping: leave out one of the two"
        )


def check_world_settings(config: Config, world: Callable[..., Any]) -> None:
    """Check that the world has all settings that phases give it.

    Raises:
        InputError: naming the setting, and the one that was probably meant.
    """
    ours = ("self", "seed", "image_size", "split")
    known = [name for name in inspect.signature(world).parameters if name not in ours]
    for i, phase in enumerate(config.data.phases):
        for key in phase.world:
            if key not in known:
                raise unknown_key(key, ["fraction", "pairs", *known], f"[data.phases[{i}]]")


def read_config(content: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Config:
    """The settings in the tables of a TOML file.

    Args:
        content: section -> settings.
        changes: settings of [train] that go before those of the file.

    Raises:
        InputError: an unknown key, a value of another type or out of range, or settings that do not fit each other.
        CheckpointError: the model to start from, which is opened for shapes that [model] leaves out, cannot be used.
    """
    known = [entry.name for entry in fields(Config)]
    for key in content:
        if key not in known:
            raise unknown_key(key, known, "the configuration")
    train = content.get("train", {})
    if changes and isinstance(train, Mapping):
        content = {**content, "train": {**train, **changes}}
    content = with_shapes(content)
    config: Config = section(content, Config, "")
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
