"""AdamW against torch's, whose decay is multiplied with the rate: there it is weight_decay / rate. In float32, both."""

import numpy as np
import pytest
import torch

from npsiglip.train.config import OptimizerSettings
from npsiglip.train.flat import Flat
from npsiglip.train.optimizer import AdamW
from npsiglip.train.schedule import schedule
from tests.helpers.arrays import normal

SHAPES = {"a.w": (90, 70), "a.b": (70,), "b.w": (70, 300)}
STEPS = 20


def torch_steps(start, gradients, s, parts):
    """The same with torch, a group of parameters that decay and one of others; norms, and the parameters at the end."""
    params = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    groups = [
        {"params": [p for name, p in params.items() if name.endswith(".w")], "weight_decay": s.weight_decay / s.rate},
        {"params": [p for name, p in params.items() if not name.endswith(".w")], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=s.rate, betas=(s.beta1, s.beta2), eps=s.eps)
    norms = []
    for gradient, part in zip(gradients, parts, strict=True):
        for name, p in params.items():
            p.grad = torch.tensor(gradient[name])
        norms.append(torch.nn.utils.clip_grad_norm_(params.values(), s.clip_norm).item())
        for group in optimizer.param_groups:
            group["lr"] = s.rate * part
        optimizer.step()
    return norms, {name: p.detach().numpy() for name, p in params.items()}


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_twenty_steps(scale):
    s = OptimizerSettings(rate=0.01, weight_decay=1e-3, clip_norm=1.0)
    parts = [schedule(i, STEPS, 5) for i in range(STEPS)]
    params = Flat(SHAPES)
    params.vector[:] = normal(0, params.vector.size)
    start = {name: view.copy() for name, view in params.views.items()}
    gradients = [
        {name: scale * normal([i, j], *shape) for j, (name, shape) in enumerate(SHAPES.items())} for i in range(STEPS)
    ]
    norms, truth = torch_steps(start, gradients, s, parts)
    ours, grads = AdamW(SHAPES, s), Flat(SHAPES)
    for gradient, part, norm in zip(gradients, parts, norms, strict=True):
        for name, view in grads.views.items():
            view[...] = gradient[name]
        assert ours.norm(grads) == pytest.approx(norm, rel=1e-5)
        ours.step(params, grads, ours.norm(grads), part)
    for name, value in truth.items():
        moved = np.abs(value - start[name]).max()
        assert moved > 0.05
        # a rounding of the parameters for each step; torch adds 1e-6 to the norm that it divides by
        assert np.abs(params.views[name] - value).max() <= STEPS * 2.0**-24 * np.abs(value).max() + 1e-5 * moved, name
