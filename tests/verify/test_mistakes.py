"""Planted mistakes: found at the right operation, and named; what is not in the catalogue is called unknown.

Covers verify/catalogue.py, verify/mistakes_blocks.py, verify/mistakes_ends.py, verify/arithmetic.py, verify/replay.py,
verify/diagnose.py and verify/compare.py as well.
benchmarks/verify_mistakes.py does the same with the built-in model, in bfloat16, in pairs, and with taps left out.
"""

import numpy as np
import pytest

from npsiglip.verify.arithmetic import HONEST
from npsiglip.verify.mistakes import BY_NAME, CATALOGUE
from tests.helpers.golden_data import TINY
from tests.helpers.planted import UNKNOWN, acts_at, judged, port, truth_of, usable

USABLE = usable(TINY)
# Their differences are far below what bfloat16 rounds, also where all taps are taken together.
TOO_FINE = {"layer_norm_eps_1e-5", "layer_norm_eps_1e-12", "eps_outside_the_root", "erf_gelu"}


def test_the_catalogue_has_names_once_and_words_for_each():
    assert len({mistake.name for mistake in CATALOGUE}) == len(CATALOGUE) >= 70
    assert all(mistake.summary and mistake.changes for mistake in CATALOGUE)


@pytest.mark.parametrize("dtype, variant", [(dtype, i) for dtype in HONEST for i in range(len(HONEST[dtype]))])
def test_honest_arithmetics_conform(dtype, variant):
    truth, golden = truth_of(TINY)
    first, names, taps = judged(truth, golden, port(truth, dtype, variant=variant), dtype)
    assert (first, names) == (None, [])
    assert all(np.isfinite(tap.added) and tap.floor > 0 for tap in taps)


@pytest.mark.parametrize("name", USABLE)
def test_it_is_found_and_named(name):
    truth, golden = truth_of(TINY)
    first, names, _ = judged(truth, golden, port(truth, "float32", [BY_NAME[name]]), "float32")
    assert (first, names[:1]) == (USABLE[name][0], [name])


@pytest.mark.parametrize("name", [name for name in USABLE if name not in TOO_FINE][::3])
def test_it_is_found_in_bfloat16(name):
    truth, golden = truth_of(TINY)
    first, names, _ = judged(truth, golden, port(truth, "bfloat16", [BY_NAME[name]]), "bfloat16")
    assert (first, names[:1]) == (USABLE[name][0], [name])


@pytest.mark.parametrize("mistake", UNKNOWN, ids=lambda mistake: mistake.name)
def test_what_is_not_known_is_located_and_not_named(mistake):
    truth, golden = truth_of(TINY)
    first, names, _ = judged(truth, golden, port(truth, "float32", [mistake]), "float32")
    assert (first, names) == (acts_at(truth, golden, mistake)[0], [])


def test_two_are_both_named():
    truth, golden = truth_of(TINY)
    rng, done = np.random.default_rng(5), 0
    order = [op.tap for op in truth.ops]
    while done < 8:
        one, other = (BY_NAME[str(name)] for name in rng.choice(list(USABLE), 2, replace=False))
        if any(one.change(op) and other.change(op) for op in truth.ops):
            continue
        done += 1
        first, names, _ = judged(truth, golden, port(truth, "float32", [one, other]), "float32")
        assert first == min(USABLE[one.name][0], USABLE[other.name][0], key=order.index)
        assert {one.name, other.name} <= set(names)


@pytest.mark.parametrize("name", list(USABLE)[::6])
def test_it_is_found_between_the_taps_that_are_shown(name):
    truth, golden = truth_of(TINY)
    candidate, rng = port(truth, "float32", [BY_NAME[name]]), np.random.default_rng(len(name))
    shown = {tap: value for tap, value in candidate.items() if rng.random() < 0.5}
    first, _, taps = judged(truth, golden, shown, "float32")
    acting = set(USABLE[name])
    assert first == next((tap.tap for tap in taps if acting & set(tap.stretch)), None)


@pytest.mark.parametrize(
    "name, tap", [("heads_12", "image.blocks.00.attn.mix"), ("heads_doubled", "text.blocks.00.attn.mix")]
)
def test_another_number_of_heads_is_found_where_probabilities_are_not_shown(name, tap):
    """They have another shape, and so cannot be planted as the others are."""
    truth, golden = truth_of(TINY)
    assert name not in USABLE
    taps = port(truth, "float32", [BY_NAME[name]])
    first, names, _ = judged(truth, golden, {t: x for t, x in taps.items() if not t.endswith(".probs")}, "float32")
    assert names[:1] == [name]
    assert first.endswith(".attn.mix") and tap in {t for t in taps if not np.array_equal(taps[t], golden[t])}


@pytest.mark.parametrize("name", ["mean_pooling", "first_token_pooled", "max_pooling", "text_end_pooled"])
def test_pooling_is_named_where_the_pooled_vector_is_not_shown(name):
    truth, golden = truth_of(TINY)
    taps = port(truth, "float32", [BY_NAME[name]])
    shown = {t: x for t, x in taps.items() if not t.endswith((".pooled", ".head")) and ".map_head." not in t}
    _, names, _ = judged(truth, golden, shown, "float32")
    assert names == [name]


@pytest.mark.parametrize("place", ["image.blocks.02", "text.blocks.00"])
def test_a_block_that_is_left_out_and_not_shown(place):
    """As where the last hidden state but one is taken: between the stream before and what follows."""
    truth, golden = truth_of(TINY)
    one = BY_NAME["block_missing"]
    changes = {f"{place}.{part}": one.changes[f"*.blocks.*.{part}"] for part in ("+attn", "+mlp")}
    taps = port(truth, "float32", [one._replace(changes=changes)])
    first, names, _ = judged(truth, golden, {t: x for t, x in taps.items() if not t.startswith(place)}, "float32")
    assert names == ["block_missing"]
    assert first in ("image.final_ln", "text.blocks.01.ln1", "text.blocks.01.+attn")


def test_what_is_not_finite_diverges():
    truth, golden = truth_of(TINY)
    candidate = port(truth, "float32")
    candidate["image.blocks.01.mlp.gelu"][0, 3, 5] = np.inf
    first, names, taps = judged(truth, golden, candidate, "float32")
    assert (first, names) == ("image.blocks.01.mlp.gelu", [])
    found = next(tap for tap in taps if tap.diverges)
    assert found.where == "1 of 2,600 values are not finite, the first at [0, 3, 5]"
    assert sum(tap.diverges for tap in taps) == 1  # what follows was computed from finite numbers
