"""Training a SigLIP model from nothing, or from another model, on the pictures of `npsiglip.world`.

`config` reads the settings, `data` draws batches in processes of their own, `step` computes gradients, `optimizer`
and `schedule` make steps of them, `saving` keeps checkpoints, `trainer` puts them together, `export` writes the model
folder and `measure` measures it.
"""

from npsiglip.errors import NpsiglipError


class TrainingError(NpsiglipError):
    """Training cannot go on; the last good checkpoint is kept."""
