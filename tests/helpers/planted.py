"""Ports with planted mistakes: the operations of `npsiglip.verify` in an honest arithmetic, some of them replaced.

That these operations are the reference's is tested in tests/verify/test_operations.py.
"""

import functools

import numpy as np

from npsiglip import Checkpoint
from npsiglip.params import cast
from npsiglip.verify import operations as right
from npsiglip.verify.arithmetic import HONEST
from npsiglip.verify.compare import Truth, compare_taps, ranked
from npsiglip.verify.mistakes import BY_NAME, CATALOGUE, Mistake
from npsiglip.verify.operations import IDS, PIXELS, Context, run

TEXTS = ["a red circle", "two blue squares on a white background", "hello"]


@functools.cache
def truth_of(folder, seed=0):
    """A model with random pixels and padded texts; and its taps."""
    checkpoint = Checkpoint.open(folder)
    config, rng = checkpoint.config, np.random.default_rng(seed)
    pixels = rng.uniform(-1, 1, (2, 3, config.image.image_size, config.image.image_size)).astype(np.float32)
    ids = rng.integers(2, config.text.vocab_size, (3, config.text.seq_len))
    for row, length in zip(ids, (5, 9, 3), strict=True):  # padded as SigLIP pads
        row[length:] = 1
    truth = Truth(config, cast(checkpoint, np.float64), pixels, ids)
    return truth, truth.taps()


def port(truth, dtype, mistakes=(), variant=0):
    """The taps of a port in this dtype, with these mistakes."""
    context, env = Context(truth.config, truth.params, HONEST[dtype][variant]), dict(truth.inputs)
    env[PIXELS] = env[PIXELS].astype(np.float32)
    for op in truth.ops:
        changes = [(m, change) for m in mistakes if (change := m.change(op)) is not None]
        with np.errstate(all="ignore"):
            if changes:
                mistake, change = changes[0]
                env[op.tap] = run(context, op._replace(inputs=(*op.inputs, *mistake.reads)), env, change)
            else:
                env[op.tap] = run(context, op, env)
    return {tap: value for tap, value in env.items() if tap not in (PIXELS, IDS)}


def candidate(folder, mistake=None, dtype="float32"):
    """The taps of a port of the model in a folder, with a mistake of the catalogue."""
    truth, _ = truth_of(folder)
    return port(truth, dtype, [BY_NAME[mistake]] if mistake else [])


def acts_at(truth, golden, mistake):
    """The taps that a mistake changes; None if it cannot be made in this model."""
    context, found = Context(truth.config, truth.params), []
    for op in truth.ops:
        change = mistake.change(op)
        if change is None:
            continue
        with np.errstate(all="ignore"):
            value = run(context, op._replace(inputs=(*op.inputs, *mistake.reads)), golden, change)
        if value.shape != golden[op.tap].shape:
            return None
        if np.abs(value - golden[op.tap]).max() > 1e-13 * np.abs(golden[op.tap]).max():
            found.append(op.tap)
    return found


def usable(folder):
    """The names of the mistakes that change anything in this model, and where."""
    truth, golden = truth_of(folder)
    return {mistake.name: taps for mistake in CATALOGUE if (taps := acts_at(truth, golden, mistake))}


def judged(truth, golden, candidate, dtype):
    """The first tap that diverges, or None; the names of the diagnosis; and all taps."""
    taps = compare_taps(truth, golden, candidate, dtype)
    first = next((tap.tap for tap in taps if tap.diverges), None)
    return first, [match.name for match in ranked(taps)], taps


def _times(factor):
    return lambda c, op, *x: right.FORWARD[op.kind](c, op, *x) * c.number(factor)


def _sigmoid_attention(c, op, q, k):
    return np.asarray(1 / (1 + np.exp(-right.scores(c, op, q, k))))


def _distant_less(c, op, q, k):
    away = np.abs(np.arange(q.shape[1])[:, None] - np.arange(k.shape[1]))
    return right.softmax(right.scores(c, op, q, k) - c.number(0.1) * away.astype(c.arithmetic.dtype))


def _windowed(c, op, q, k):
    near = np.abs(np.arange(q.shape[1])[:, None] - np.arange(k.shape[1])) < 9
    return right.softmax(np.where(near, right.scores(c, op, q, k), c.number(-1e30)))


def _head_width_off_by_one(c, op, q, k):
    width = q.shape[-1] // c.tower(op).num_heads
    return right.softmax(right.scores(c, op, q, k) * c.number((width / (width + 1)) ** 0.5))


def _last_channels_zero(c, op, *x):
    found = np.array(right.FORWARD[op.kind](c, op, *x))
    found[..., -4:] = 0
    return found


def _dropped_out(c, op, x, y):
    return x + y * (np.random.default_rng(1).random(y.shape) > 0.1).astype(y.dtype)


def _heads_moved_on(c, op, weights, v):
    return np.roll(right.mix(c, op, weights, v), v.shape[-1] // c.tower(op).num_heads, axis=-1)


def _temperature_squared(c, op, zimg, ztxt):
    return np.exp(c.number(2) * c.param("t_prime")) * c.matmul(zimg, ztxt.T) + c.param("bias")


# Written after the catalogue, and in none of its lines.
UNKNOWN = [
    Mistake(name, "", changes)
    for name, changes in {
        "head width off by one": {"*.attn.probs": _head_width_off_by_one},
        "less attention to what is far": {"text.*.attn.probs": _distant_less},
        "sigmoid attention": {"*.blocks.01.attn.probs": _sigmoid_attention},
        "a window of attention": {"image.*.attn.probs": _windowed},
        "GELU clipped at 1": {"*.mlp.gelu": lambda c, op, x: np.minimum(right.gelu(c, op, x), c.number(1))},
        "GELU scaled": {"*.mlp.gelu": _times(1.01)},
        "LayerNorm with an epsilon of 1e-3": {"*.ln1": lambda c, op, x: right.normalised(c, op, x, 1e-3)},
        "dropout left on": {"*.blocks.00.+mlp": _dropped_out},
        "branches scaled": {"*.+attn": lambda c, op, x, y: x + c.number(0.9) * y},
        "positions halved": {
            "image.embed": lambda c, op, x, pixels: x + c.number(0.5) * (right.image_embed(c, op, x, pixels) - x)
        },
        "values too large by a thousandth": {"image.blocks.01.attn.v": _times(1.001)},
        "heads in the wrong place": {"*.attn.mix": _heads_moved_on},
        "the last channels zero": {"*.attn.mix": _last_channels_zero},
        "a layer's last columns missing": {"*.blocks.01.mlp.fc1": _last_channels_zero},
        "the pooled vector doubled": {"image.pooled": _times(2)},
        "the temperature squared": {"logits": _temperature_squared},
        "embeddings of unit L1 norm": {"zimg": lambda c, op, x: x / np.abs(x).sum(-1, keepdims=True)},
    }.items()
]
