"""AdamW as big_vision has it: clipped by the global norm, decay decoupled and scaled by the schedule alone.

With g the gradients, scaled down to `clip_norm` if their norm is larger, and s the schedule's part of the peak:

    m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
    x = x - s (rate m' / (sqrt(v') + eps) + weight_decay x)

where m' = m / (1 - beta1^n) and v' = v / (1 - beta2^n) after n steps. `weight_decay` is not multiplied with the rate,
as it is in torch's AdamW: there it would be weight_decay / rate. It applies to the weights of linear layers (and of
the patch embedding) alone: not to biases, LayerNorms, embeddings, the probe, t' or the bias.

Source: big_vision's `optax.py` (the chain of clipping, Adam, rate, `add_decayed_weights` with `wd_mults` for
".*/kernel", schedule). Left out: rates of their own for parts of the model, the first moment in bfloat16.
"""

from __future__ import annotations

import numpy as np

from npsiglip.kernels import adamw
from npsiglip.kernels.jit import computing
from npsiglip.params import Shape
from npsiglip.train.config import OptimizerSettings
from npsiglip.train.flat import Flat


def decays(name: str) -> bool:
    """Whether weight decay applies to the parameter `name`."""
    return name.endswith(".w")


class AdamW:
    """The optimiser's state, and its step.

    Attributes:
        m: the first moments.
        v: the second moments.
        count: the steps made.

    Args:
        shapes: of the parameters.
        settings: see `OptimizerSettings`.
        locked: names of parameters that keep their values; they do not count in the norm either.
    """

    def __init__(
        self, shapes: dict[str, Shape], settings: OptimizerSettings, locked: frozenset[str] = frozenset()
    ) -> None:
        self.settings = settings
        self.m, self.v = Flat(shapes), Flat(shapes)
        self.count = 0
        cuts = {name: adamw.blocks([span]) for name, span in self.m.spans.items() if name not in locked}
        self._cuts = np.concatenate([*cuts.values(), np.empty((0, 2), np.int64)])
        self._decays = np.repeat(
            np.array([decays(name) for name in cuts], np.float32), [len(part) for part in cuts.values()]
        )

    @staticmethod
    def memory(total: int) -> int:
        """The bytes that the state of `total` parameters needs."""
        return 8 * total

    def norm(self, grads: Flat) -> float:
        """The norm of all gradients of parameters that are not locked; NaN or infinite if one of them is."""
        with computing(None):
            return float(adamw.norm(grads.vector, self._cuts))

    def step(self, params: Flat, grads: Flat, norm: float, part: float) -> None:
        """Change the parameters.

        Args:
            params: changed in place.
            grads: of the loss; they stay as they are.
            norm: their norm.
            part: the schedule's part of the peak rate.
        """
        s = self.settings
        self.count += 1
        scale = min(1.0, s.clip_norm / norm) if norm else 1.0
        with computing(None):
            adamw.step(
                params.vector, grads.vector, self.m.vector, self.v.vector, self._cuts, self._decays, self.count,
                scale, s.beta1, s.beta2, part * s.rate, s.eps, part * s.weight_decay,
            )  # fmt: skip
