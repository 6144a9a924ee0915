"""Names, shapes and counts of the parameters, and the random ones.

Covers variants.py as well.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.params import StoredParams, cast, count_params, param_shapes, random_params, release, rows_of
from npsiglip.variants import VARIANTS, variant
from tests.helpers.golden_data import ROOT

TINY = SigLIPConfig(
    ImageConfig(width=12, depth=2, num_heads=3, mlp_dim=20, image_size=17, patch_size=4),
    TextConfig(width=8, depth=1, num_heads=2, mlp_dim=14, seq_len=5, vocab_size=11, projection_dim=12),
)


@pytest.mark.parametrize("name", VARIANTS)
def test_released_sizes_to_the_unit(name):
    assert count_params(variant(name)) == VARIANTS[name].params


def test_names_and_shapes():
    shapes = param_shapes(TINY)
    assert shapes["image.patch_embed.w"] == (48, 12)
    assert shapes["image.pos_embed"] == (16, 12)
    assert shapes["image.blocks.01.mlp.fc1.w"] == (12, 20)
    assert shapes["image.blocks.01.ln2.scale"] == (12,)
    assert shapes["image.map_head.probe"] == (12,)
    assert shapes["text.token_embed"] == (11, 8)
    assert shapes["text.blocks.00.attn.out.b"] == (8,)
    assert shapes["text.head.w"] == (8, 12)
    assert shapes["t_prime"] == shapes["bias"] == ()
    assert "text.blocks.01.ln1.scale" not in shapes and "image.blocks.02.ln1.scale" not in shapes


def test_shapes_are_in_the_order_of_the_forward_pass():
    names = list(param_shapes(TINY))
    landmarks = ["image.patch_embed.w", "image.pos_embed", "image.blocks.00.ln1.scale", "image.blocks.01.mlp.fc2.b"]
    landmarks += ["image.final_ln.scale", "image.map_head.probe", "text.token_embed", "text.head.w", "t_prime", "bias"]
    assert [names.index(name) for name in landmarks] == sorted(names.index(name) for name in landmarks)


def test_towers_alone_have_no_scalars():
    image, text = SigLIPConfig(TINY.image, None), SigLIPConfig(None, TINY.text)
    assert count_params(image) + count_params(text) + 2 == count_params(TINY)
    assert all(name.startswith("image.") for name in param_shapes(image))
    assert all(name.startswith("text.") for name in param_shapes(text))


def test_cast():
    assert {value.dtype for value in cast(random_params(TINY, 0), np.float64).values()} == {np.dtype(np.float64)}


@given(st.integers(0, 2**63))
def test_random_params_are_deterministic_and_all_different(seed):
    first, second = random_params(TINY, seed), random_params(TINY, seed)
    assert list(first) == list(second) == list(param_shapes(TINY))
    for name, shape in param_shapes(TINY).items():
        assert first[name].shape == shape and first[name].dtype == np.float32
        np.testing.assert_array_equal(first[name], second[name])
        assert (first[name] != 0).all() and (first[name] != 1).all()
    for shape in set(param_shapes(TINY).values()) - {()}:
        same = [value.tobytes() for value in first.values() if value.shape == shape]
        assert len(set(same)) == len(same)


def test_seeds_differ():
    first, second = random_params(TINY, 0), random_params(TINY, 1)
    assert all((first[name] != second[name]).any() for name in first if name not in ("t_prime", "bias"))


def test_one_shape_does_not_move_the_others():
    """Every parameter has its own stream."""
    other = SigLIPConfig(TINY.image, TextConfig(8, 1, 2, 14, seq_len=5, vocab_size=12, projection_dim=12))
    first, second = random_params(TINY, 4), random_params(other, 4)
    for name in first.keys() - {"text.token_embed"}:
        np.testing.assert_array_equal(first[name], second[name])
    np.testing.assert_array_equal(first["text.token_embed"], second["text.token_embed"][:11])


def test_types_are_roundings_of_one_draw():
    wide = random_params(TINY, 4, dtype=np.float64)
    for name, value in random_params(TINY, 4).items():
        np.testing.assert_array_equal(value, wide[name].astype(np.float32))


def test_ranges_of_a_trained_model():
    big = SigLIPConfig(ImageConfig(96, 2, 4, 200, image_size=32, patch_size=4), None)
    params = random_params(big, 7)
    for name, expected in {
        "image.blocks.00.mlp.fc2.w": 200**-0.5,
        "image.blocks.01.attn.v.w": 96**-0.5,
        "image.blocks.01.attn.q.w": 2 * 96**-0.5,
        "image.blocks.01.attn.k.w": 2 * 96**-0.5,
        "image.patch_embed.w": 48**-0.5,
        "image.pos_embed": 0.5,
    }.items():
        assert params[name].std() == pytest.approx(expected, rel=0.05), name
    assert params["image.blocks.00.ln1.scale"].mean() == pytest.approx(1, abs=0.1)
    assert params["image.blocks.00.mlp.fc1.b"].std() == pytest.approx(0.1, rel=0.2)


def test_scalars_are_where_training_ends():
    params = random_params(TINY, 0, dtype=np.float64)
    assert np.exp(params["t_prime"]) == pytest.approx(117) and params["bias"] == -12.9


def test_outliers_leave_alone_what_does_not_touch_the_residual_streams():
    plain, spiked = (random_params(TINY, 5, outlier) for outlier in (1.0, 100.0))
    changed = {name for name in plain if (plain[name] != spiked[name]).any()}
    for tower in ("image.", "text."):
        assert any(name.startswith(tower) for name in changed)
    inside = (".q.", ".k.", ".v.", ".fc1.", "map_head.", "text.head.", "t_prime", "bias")
    assert [name for name in changed if any(part in name for part in inside)] == []
    assert all(np.isfinite(value).all() for value in spiked.values())


class Filed(StoredParams):
    """Parameters that lie elsewhere, and what was asked of them."""

    def __init__(self, values):
        self.values, self.asked = values, []

    def __getitem__(self, name):
        return self.values[name]

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)

    def rows(self, name, rows):
        self.asked.append(("rows", name))
        return self.values[name][rows]

    def release(self, name):
        self.asked.append(("release", name))


def test_parameters_in_files_and_in_memory():
    """Rows of a table are the same from both; what lies in memory cannot be let go, and nobody minds."""
    values = {"table": np.arange(12.0).reshape(6, 2), "w": np.zeros(3)}
    rows = np.array([[5, 0], [2, 2]])
    filed = Filed(values)
    for params in (values, filed):
        np.testing.assert_array_equal(rows_of(params, "table", rows), values["table"][rows])
        release(params, ["w", "table"])
    assert filed.asked == [("rows", "table"), ("release", "w"), ("release", "table")]
    assert isinstance(Checkpoint.open(ROOT / "golden" / "tiny"), StoredParams)
