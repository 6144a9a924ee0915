"""Training a SigLIP model from nothing, or from another model, on the pictures of `npsiglip.world`.

`config` reads the settings, `preparing` makes of them what a run begins with, `data` draws batches in processes of
their own, `step` computes gradients (with `towers` of `layers`), `optimizer` and `schedule` make steps of them,
`pool` has pictures that a locked tower embeds once, `saving` writes checkpoints, `trainer` puts them together and tells
of its `progress`, `export` writes the model folder and `measure` measures it.
"""

from npsiglip.errors import NpsiglipError


class TrainingError(NpsiglipError):
    """Training cannot go on; the last good checkpoint is kept."""
