"""The gradients of training on kernels beside those of torch's float32 autograd, all of them against float64.

Both are given the same weights and pairs, torch in transformers' SiglipModel with SDPA attention, and both are compared
with `npsiglip.reference`, which test_backward_parity.py holds to torch in double precision. The bar: for every
parameter, float32 kernels are no worse than torch's float32.

It is a statement about luck, too. Errors of gradients are not as independent as those of activations: an error of the
loss's gradient, or of what all images have in common, goes into every sum over a batch, so a bias of a thousand numbers
may be a single draw, and a parameter may be better ten times in one draw and worse ten times in the next. So the ratio
of errors is taken for several models (weights and pairs), and

- the geometric mean of the ratios is at most 1 in the median over the parameters, and for each of the large ones:
  matrices and tables, whose errors are many draws;
- of the others, vectors and scalars, none is larger than its own scatter from model to model explains (Student's t of
  the logarithms at 1 in 10,000, as some 200 of them are looked at). Measured: they are below 1, too.

The mean is that of logarithms because models differ in how much they amplify errors, alike for both sides: a plain mean
would be that of the worst model alone.
"""

import numpy as np
import pytest
import torch

from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.formats.hf_names import layout
from npsiglip.params import param_shapes, random_params
from npsiglip.reference import siglip_loss_and_gradients
from npsiglip.save import save_folder
from npsiglip.train.flat import Flat
from npsiglip.train.step import Gradients
from tests.parity.hf_taps import hf_model

PAIRS = 16
LARGE = 1000  # numbers
T_OF_ONE_IN_10_000 = {8: 7.1, 32: 4.2}  # Student's t, one degree of freedom less than models
BEGIN, END = (10.0, -10.0), (117.0, -12.9)  # temperature and bias of training

# B/16 in small: heads of 64 numbers, a patch of 16, an MLP of four times the width.
SMALL = SigLIPConfig(
    ImageConfig(width=128, depth=3, num_heads=2, mlp_dim=512, image_size=96, patch_size=16),
    TextConfig(width=128, depth=2, num_heads=2, mlp_dim=512, seq_len=16, vocab_size=300, projection_dim=128),
)


def pairs_of(config, seed):
    """Images of a colour each, and noise; texts of several lengths, padded."""
    rng = np.random.default_rng(seed)
    size, text = config.image.image_size, config.text
    pixels = rng.uniform(-0.5, 0.5, (PAIRS, 3, size, size)) + rng.uniform(-0.5, 0.5, (PAIRS, 3, 1, 1))
    ids = rng.integers(0, text.vocab_size, (PAIRS, text.seq_len), np.int32)
    for row, length in zip(ids, rng.integers(2, text.seq_len, PAIRS), strict=True):
        row[length:] = 1
    return pixels.astype(np.float32), ids


def our_gradients(config, params, pixels, ids):
    """By kernels."""
    values, grads = Flat(param_shapes(config)), Flat(param_shapes(config))
    for name, value in params.items():
        values.views[name][...] = value
    Gradients(config, *ids.shape).step(values, pixels, ids, grads)
    return grads.views


def torch_gradients(folder, shapes, pixels, ids):
    """By torch's autograd in float32."""
    model = hf_model(folder, torch.float32).train()
    inputs = torch.from_numpy(pixels), torch.from_numpy(ids.astype(np.int64))
    model(pixel_values=inputs[0], input_ids=inputs[1], return_loss=True).loss.backward()
    tensors, grads = dict(model.named_parameters()), {}
    for name, shape in shapes.items():
        where = layout(name, shape)
        grads[name] = where.view(tensors[where.key].grad.numpy().reshape(where.shape)).reshape(shape)
    return grads


def distance(x, truth):
    """|x - truth|, also where the truth is zero but for rounding, as it is for the bias of keys."""
    return np.linalg.norm(x.astype(np.float64) - truth)


def error_ratios(config, params_of, folder, temperature, models):
    """Parameter name -> the ratio of our error to torch's, for each model."""
    shapes = param_shapes(config)
    ratios = {name: [] for name in shapes}
    for seed in range(models):
        params = params_of(seed) | {
            "t_prime": np.float32(np.log(temperature[0])), "bias": np.float32(temperature[1])
        }  # fmt: skip
        save_folder(folder, config, params, "float32")
        pixels, ids = pairs_of(config, seed)
        wide = {name: np.asarray(value, np.float64) for name, value in params.items()}
        _, truth = siglip_loss_and_gradients(wide, config, pixels.astype(np.float64), ids)
        ours, theirs = our_gradients(config, params, pixels, ids), torch_gradients(folder, shapes, pixels, ids)
        for name, values in ratios.items():
            values.append(distance(ours[name], truth[name]) / distance(theirs[name], truth[name]))
    return ratios


def check(case, config, ratios):
    """The bars; prints the median and the largest."""
    logs = {name: np.log(values) for name, values in ratios.items()}
    means = {name: float(np.exp(values.mean())) for name, values in logs.items()}
    shapes = param_shapes(config)
    large = [name for name, shape in shapes.items() if np.prod(shape) >= LARGE]
    assert len(large) > len(means) / 3
    worst, worst_large = max(means, key=means.get), max(large, key=means.get)
    middle = np.median(list(means.values()))
    print(
        f"\n{case}: median ratio {middle:.2f}, largest {means[worst]:.2f} ({worst}), of matrices and tables "
        f"{means[worst_large]:.2f} ({worst_large})"
    )
    assert middle <= 1
    assert {name: means[name] for name in large if not means[name] <= 1} == {}
    scatter = {name: values.std(ddof=1) / np.sqrt(len(values)) for name, values in logs.items()}
    limit = T_OF_ONE_IN_10_000[len(ratios["t_prime"])]
    assert {name: means[name] for name in means if not logs[name].mean() <= limit * scatter[name]} == {}


@pytest.mark.parametrize("temperature", [BEGIN, END], ids=["begin", "end"])
def test_base_in_small(tmp_path, temperature):
    ratios = error_ratios(SMALL, lambda seed: random_params(SMALL, seed), tmp_path, temperature, 8)
    check(f"small, t = {temperature[0]:.0f}", SMALL, ratios)


@pytest.mark.parametrize("temperature", [BEGIN, END], ids=["begin", "end"])
def test_tiny_golden_model(tmp_path, tiny_config, tiny_params, temperature):
    """Its own weights, and other pairs each time."""
    ratios = error_ratios(tiny_config, lambda seed: dict(tiny_params), tmp_path, temperature, 32)
    check(f"tiny, t = {temperature[0]:.0f}", tiny_config, ratios)
