"""What a run needs before its first step: a folder, a source, a vocabulary, and parameters to start from.

Leaves out: the checkpoint's own format (`saving`), and what single parameters start as (`initial`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.atomic import write_all
from npsiglip.errors import CheckpointError, InputError
from npsiglip.kernels.jit import max_threads
from npsiglip.params import param_shapes
from npsiglip.texts.siglip import MODEL_FILE
from npsiglip.train import saving
from npsiglip.train.config import Config, check_world_settings
from npsiglip.train.data import Source
from npsiglip.train.initial import POOLING, fitting, initial_params, params_of, whitening
from npsiglip.train.memory import check_memory
from npsiglip.train.mixture import Mixture
from npsiglip.train.progress import Watcher
from npsiglip.train.saving import State
from npsiglip.train.starting import other, vocabulary_of
from npsiglip.train.tokenizer import train_tokenizer
from npsiglip.train.worlds import WorldSource


def check_run(config: Config, folder: Path, resume: bool, in_world: bool, watcher: Watcher) -> State | None:
    """Check that a run of `config` can begin in `folder`, which is made, or go on there: from the state that is given.

    Args:
        config: the settings.
        folder: of the run.
        resume: go on from the folder's checkpoint, if there is one.
        in_world: whether pictures are drawn of the world and of nothing else.
        watcher: is told how much memory it takes.

    Raises:
        InputError: settings that cannot be, that differ from the checkpoint's, or too large for memory; a folder that
            cannot be made, or has a run already; a model to start from that does not fit.
        CheckpointError: the checkpoint, or the model to start from, cannot be used.
    """
    if config.run.threads > max_threads():
        raise InputError(
            f"run.threads must be at most {max_threads()} here (NUMBA_NUM_THREADS, or the number of cores), "
            f"got {config.run.threads}"
        )
    if in_world or any(source.kind == "world" for source in config.data.sources):
        from npsiglip.world import World

        check_world_settings(config, World)
        for phase in range(len(config.data.phases)):
            WorldSource(config).world(phase)  # which looks at the values
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error}") from None
    saved = saving.load_state(folder)
    if saved and not resume:
        raise InputError(
            f"{folder} holds a run already, at step {saved.step} of {saved.settings.get('train.steps')}: go "
            "on with --resume, or choose another folder"
        )
    if saved:
        saving.check_settings(saved, config.deciding(), folder)
    elif config.train.init:
        fitting(config.train.init, config.siglip, other(config.new_tower))
    watcher.tell(check_memory(config))
    saving.clean(folder)
    return saved


def open_source(config: Config, watcher: Watcher) -> Source:
    """What draws: the sources of the settings, or the world."""
    if not config.data.sources and not config.data.embedded:
        return WorldSource(config)
    watcher.say("Opening the sources")
    mixture = Mixture(config)
    for line in mixture.describe():
        watcher.tell(line)
    return mixture


def resumed_tokenizer(folder: Path, state: State) -> Path:
    """The vocabulary in the folder of a run that goes on.

    Raises:
        CheckpointError: it is not that of the checkpoint.
    """
    path = folder / MODEL_FILE
    if not path.exists() or saving.file_hash(path) != state.tokenizer:
        raise CheckpointError(f"{path} is not the tokenizer that the checkpoint was trained with: restore it")
    return path


def first_tokenizer(config: Config, folder: Path, source: Source, watcher: Watcher) -> Path:
    """The vocabulary of a new run, in its folder: that of the settings, of the model to start from, or a new one.

    Raises:
        InputError: it cannot be copied or written, or has more pieces than the model has rows for.
    """
    path, train = folder / MODEL_FILE, config.train
    of_the_model = train.init and config.new_tower != "text"
    given = config.data.tokenizer or (vocabulary_of(train.init) if of_the_model else "")
    try:
        if given:
            data = Path(given).read_bytes()
            write_all(folder, {MODEL_FILE: lambda place: place.write_bytes(data)})
        else:
            watcher.say("Drawing captions for the tokenizer")
            train_tokenizer(source.captions(config.data.tokenizer_captions), config.model.text.vocab_size, path)
    except OSError as error:
        raise InputError(f"the tokenizer {given or path} cannot be copied or written: {error}") from None
    _check_vocabulary(path, config.model.text.vocab_size)
    return path


def _check_vocabulary(path: Path, rows: int) -> None:
    from npsiglip.texts.siglip import Tokenizer

    pieces = Tokenizer(path).vocab_size
    if pieces > rows:
        raise InputError(f"the tokenizer has {pieces} pieces, the model {rows} rows for them (text.vocab_size)")


def first_params(config: Config, source: Source) -> dict[str, NDArray[Any]]:
    """Name -> values of all parameters, which a new run starts from.

    Raises:
        InputError, CheckpointError: the model to start from does not fit, or cannot be used.
    """
    train, shapes = config.train, param_shapes(config.siglip)
    values: dict[str, NDArray[Any]] = dict(initial_params(config.siglip, train.seed, train.t_prime, train.bias))
    if train.patch_embed == "whiten":
        image = config.model.image
        pictures, _ = source.batch(0)
        values |= whitening(pictures, image.patch_size, image.width, train.whiten_scale)
    if train.init:
        values |= params_of(train.init, config.siglip, other(config.new_tower))
    if train.pool == "mean":
        values |= {name: np.zeros(shapes[name], np.float32) for name in POOLING if ".q." in name}
    return values
