"""Inputs through a tower, batch by batch: embeddings, intermediates, logits of classes.

A pass holds the lock of the kernels, see `npsiglip.kernels.threads`; between two passes another thread may compute.
What comes out is finite, or an error names the input.
Dimensions: N inputs, D width, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from npsiglip.finite import NO_DIRECTION, check_results
from npsiglip.inputs import Inputs
from npsiglip.kernels import similarity
from npsiglip.kernels.jit import computing
from npsiglip.outputs import TowerOutput, put_together, tower_output, tower_taps
from npsiglip.towers.blocks import shape_taps
from npsiglip.towers.image import Classifier, ImageTower
from npsiglip.towers.text import TextTower
from npsiglip.trace import FORGET, Forget, Selected, Trace

Array = NDArray[np.float32]
Tower = ImageTower | TextTower


def embeddings(tower: Tower, inputs: Inputs, threads: int | None, normalize: bool, trace: Forget = FORGET) -> Array:
    """Embeddings [N, D] of all inputs, of unit norm if that is asked for.

    With a `Trace`, which must come with inputs in one batch: nothing is checked, and its taps get their shapes.
    """
    traced = isinstance(trace, Trace)
    result = np.empty((0, 0), np.float32)
    for places, batch in inputs.batches:
        with computing(threads):
            part = tower(batch, trace)
            if not traced:
                check_results(part, places, inputs.name)
            if normalize and part.ndim == 2:
                similarity.l2_normalize(part, part)
        if not traced:
            check_results(part, places, inputs.name, why=NO_DIRECTION)
        if not result.size:
            result = np.empty((inputs.number, *part.shape[1:]), np.float32)
        result[places] = part
    if isinstance(trace, Trace):
        shape_taps(trace, tower.name, inputs.number)
    return result


def output(tower: Tower, inputs: Inputs, threads: int | None, hidden_states: bool, attentions: bool) -> TowerOutput:
    """What is asked for of every batch, put together."""
    depth = tower.config.depth
    names, found = tower_taps(tower.name, depth, hidden_states, attentions), []
    for places, batch in inputs.batches:
        taps = Selected(names)
        with computing(threads):
            tower(batch, taps)
        shape_taps(taps, tower.name, len(places))
        for name in taps:
            check_results(taps[name], places, inputs.name, f"intermediate {name} is")
        found.append((places, taps))
    return tower_output(put_together(inputs.number, found), tower.name, depth)


def class_logits(tower: ImageTower, classifier: Classifier, pooled: bool, inputs: Inputs, threads: int | None) -> Array:
    """Logits [N, K] of a classifier on the mean of an image's tokens, or, if `pooled`, on its vector."""
    logits = np.empty((inputs.number, classifier.classes), np.float32)
    for places, batch in inputs.batches:
        with computing(threads):
            tokens = tower(batch, FORGET, pooled=pooled)
            # one vector is the mean of itself
            logits[places] = classifier(tokens[:, None] if pooled else tokens, FORGET)
        check_results(logits[places], places, inputs.name, "logits are")
    return logits
