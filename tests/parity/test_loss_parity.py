"""The reference's sigmoid loss against torch's autograd in double, and against SiglipModel's own loss."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import npsiglip
from npsiglip.reference import sigmoid_loss
from tests.helpers.embeddings import pairs
from tests.helpers.golden_data import above
from tests.parity.hf_taps import hf_model

# float64 against float64; sums whose terms cancel (d_t_prime, d_bias) are held to this relative to their terms.
BOUND = 1e-12


def torch_loss(zimg, ztxt, t_prime, bias):
    """Loss, gradients, and for the two scalar gradients the sum of their terms' magnitudes."""
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (zimg, ztxt, t_prime, bias)]
    similarity = leaves[0] @ leaves[1].T
    z = similarity * leaves[2].exp() + leaves[3]
    z.retain_grad()
    y = 2.0 * torch.eye(len(z), dtype=torch.float64) - 1.0
    loss = -F.logsigmoid(y * z).sum() / len(z)
    loss.backward()
    names = ("d_zimg", "d_ztxt", "d_t_prime", "d_bias")
    result = {"loss": loss.detach().numpy()} | {n: leaf.grad.numpy() for n, leaf in zip(names, leaves, strict=True)}
    terms = z.grad.abs()
    scale = (terms * similarity.detach().abs()).sum().item() * np.exp(t_prime), terms.sum().item()
    return result, dict(zip(("d_t_prime", "d_bias"), scale, strict=True))


@given(
    size=st.integers(1, 40),
    width=st.integers(1, 70),
    t=st.floats(0.01, 300.0),  # an error of 1e-16 in a cosine is one of 1e-16 t in a saturated loss, relatively
    bias=st.floats(-60.0, 60.0),
    alike=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_loss_and_gradients(size, width, t, bias, alike, seed):
    zimg, ztxt = pairs(size, width, seed, alike)
    t_prime = float(np.log(t))

    theirs, scales = torch_loss(zimg, ztxt, t_prime, bias)
    ours = {name: np.asarray(value) for name, value in sigmoid_loss(zimg, ztxt, t_prime, bias)._asdict().items()}
    for name, scale in scales.items():
        assert abs(ours.pop(name) - theirs.pop(name)) <= BOUND * scale, name
    assert above(BOUND, ours, theirs) == {}


@pytest.mark.parametrize("chunk", [None, 7, 64])
@pytest.mark.parametrize(("t", "bias"), [(10.0, -10.0), (117.0, -12.9)])
@pytest.mark.parametrize(("size", "width"), [(30, 36), (100, 768)])
def test_kernels_within_a_millionth_of_torch_in_double(size, width, t, bias, chunk):
    """The bar of the project; measured 2e-7 at most for the gradients, 1e-14 for the scalars."""
    rng = np.random.default_rng(size)
    zimg, ztxt = rng.standard_normal((2, size, width))
    ztxt = 0.5 * zimg + 0.5 * ztxt
    zimg, ztxt = ((z / np.linalg.norm(z, axis=-1, keepdims=True)).astype(np.float32) for z in (zimg, ztxt))
    theirs, _ = torch_loss(zimg, ztxt, float(np.log(t)), bias)
    ours = npsiglip.sigmoid_loss(zimg, ztxt, float(np.log(t)), bias, chunk)._asdict()
    assert above(1e-6, {name: np.asarray(value) for name, value in ours.items()}, theirs) == {}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_return_loss_of_siglip_model(tiny_folder, golden, size):
    with torch.no_grad():
        output = hf_model(tiny_folder, "float64")(
            pixel_values=torch.from_numpy(golden["inputs.pixel_values"][:size]),
            input_ids=torch.from_numpy(golden["inputs.input_ids"][:size]),
            return_loss=True,
        )
        t_prime, bias = golden["loss.model.t_prime"], golden["loss.model.bias"]
    ours = sigmoid_loss(output.image_embeds.numpy(), output.text_embeds.numpy(), t_prime, bias).loss
    np.testing.assert_allclose(ours, output.loss.item(), rtol=BOUND)
