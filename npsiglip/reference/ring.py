"""Losses of a batch that lies on several devices, played through on one, with exact books of memory and traffic.

`ring_sigmoid_loss` is section 3.3 (and figure 1) of arXiv:2303.15343: each of D devices has b = B / D images and
their texts; it compares its images with its texts, passes the texts on to its neighbour, compares its images with
the texts that arrive, and so on D - 1 times. There is never more than a block of b x b logits on a device.
`gathered_softmax_loss` is CLIP's loss as it is commonly computed: every device collects all embeddings.

The paper says how the loss travels and leaves the gradients to automatic differentiation. Here they travel behind:
a pair's gradient is complete as soon as its logit is known, so the texts that visit a device leave with what its
images add to their gradient.

What is counted, in numbers of `number_bytes` each (the arithmetic itself is float64):
- held: embeddings, their gradients, one block of logits (g = d loss / d z takes the place of z), and while neighbours
  exchange something, room for what arrives beside what leaves. Not the temporary arrays of a formula.
- sent: each array that goes to the neighbour, and the sums (loss, d_t_prime, d_bias), which everybody tells everybody
  and adds up in the same order, so that all devices have the same bits.

Dimensions in formulas: B pairs, D devices, b = B / D pairs of a device, w width of an embedding.

Left out on purpose: time. Real devices send while they compute, which takes room for both at once.
"""

from typing import NamedTuple

import numpy as np

from npsiglip.reference.loss import check_pairs, cross_entropy, sigmoid_block


class RingResult(NamedTuple):
    """A loss and its gradients as `loss.PairLoss` has them, and what they cost. All devices cost the same."""

    loss: float
    d_zimg: np.ndarray
    d_ztxt: np.ndarray
    d_t_prime: float
    d_bias: float
    exchanges: int
    """How often all devices pass embeddings to a neighbour; gradients make as many ways."""
    bytes_sent_per_device: int
    peak_bytes_per_device: int


class Device(dict):
    """The arrays that a device holds, by name, and its books.

    `peak`: the most numbers that it held at once; `sent`: the numbers it sent; `sums`: its part of the loss, of
    d_t_prime and of d_bias, which are not counted as held.
    """

    def __init__(self, **arrays):
        super().__init__()
        self.peak, self.sent, self.sums = 0, 0, np.zeros(3)
        for name, array in arrays.items():
            self[name] = array

    def __setitem__(self, name, array):
        super().__setitem__(name, array)
        self.peak = max(self.peak, sum(held.size for held in self.values()))


def exchange(ring, *names):
    """Every device passes the arrays of these names to its neighbour, all at once: what arrives needs room first."""
    for i, device in enumerate(ring):
        for name in names:
            device[f"arriving {name}"] = ring[i - 1][name]
            device.sent += device[name].size
    for device in ring:
        for name in names:
            device[name] = device.pop(f"arriving {name}")


def all_gather(ring, *names):
    """Arrays [D, b, w] of which each device has its own part: the parts go round until everybody has them all."""
    for way in range(len(ring) - 1):
        for i, device in enumerate(ring):
            sender, part = ring[i - 1], i - 1 - way  # what the neighbour got the last time, at first its own
            for name in names:
                device[name][part] = sender[name][part]  # straight to its place: no more room
                sender.sent += sender[name][part].size


def reduce_scatter(ring, *names):
    """Arrays [D, b, w], a different one on each device, to be added up: device i ends with part i of the sum.

    A part starts behind the device where it belongs, grows at each device, and comes home last.
    """
    for way in range(len(ring) - 1):
        for name in names:
            for i, device in enumerate(ring):
                device["leaving"] = device[name][i - 1 - way]
            exchange(ring, "leaving")
            for i, device in enumerate(ring):
                device[name][i - 2 - way] += device.pop("leaving")
    for i, device in enumerate(ring):
        for name in names:
            device[name] = device[name][i]


def add_up(ring):
    """Everybody's `sums` to everybody, round the ring -> their sum, added in the same order on all devices."""
    for device in ring:
        device.sent += (len(ring) - 1) * device.sums.size
    return sum(device.sums for device in ring)


def split(zimg, ztxt, devices):
    """Both as float64 [D, b, w]. Raises ValueError: shapes that do not fit, devices that do not divide B."""
    zimg, ztxt = np.asarray(zimg, np.float64), np.asarray(ztxt, np.float64)
    check_pairs(zimg, ztxt)
    if not isinstance(devices, int | np.integer) or devices < 1:
        raise ValueError(f"devices must be a whole number of at least 1; got {devices!r}")
    if len(zimg) % devices or not len(zimg):
        raise ValueError(
            f"{len(zimg)} pairs cannot be divided evenly among {devices} devices: each must hold the same number of "
            "pairs, at least one; choose a batch that is a multiple of the devices"
        )
    return zimg.reshape(devices, -1, zimg.shape[1]), ztxt.reshape(devices, -1, ztxt.shape[1])


def collect(ring, exchanges, number_bytes):
    """The sums, the gradients of all devices one below the other, and the books."""
    loss, d_t_prime, d_bias = add_up(ring)
    d_zimg, d_ztxt = (np.concatenate([device[name] for device in ring]) for name in ("d_zimg", "d_ztxt"))
    (sent,), (peak,) = {device.sent for device in ring}, {device.peak for device in ring}  # the same on all devices
    return RingResult(loss, d_zimg, d_ztxt, d_t_prime, d_bias, exchanges, sent * number_bytes, peak * number_bytes)


def compare(device, t_prime, bias, matched, batch):
    """A device's images against the texts that are there: adds to its sums, d_zimg and d_texts."""
    zimg, texts, t = device["zimg"], device["texts"], np.exp(t_prime)
    loss, device["block"], d_t_prime, d_bias = sigmoid_block(zimg, texts, t_prime, bias, matched, batch)
    g = device.pop("block")
    device.sums += loss, d_t_prime, d_bias
    device["d_zimg"] += t * g @ texts
    device["d_texts"] += t * g.T @ zimg


def ring_sigmoid_loss(zimg, ztxt, t_prime, bias, devices, number_bytes=4):
    """`loss.sigmoid_loss` of zimg, ztxt [B, w] on `devices`, in blocks of b x b.

    For D >= 3, in numbers: sent by a device (D - 1) (2 b w + 3), held at most max(5 b w + b^2, 7 b w). The texts go
    D - 1 ways. Their gradients go D - 1 ways as well, one exchange later: what a text's own device adds stays there,
    and the last way brings the rest home.

    Returns:
        RingResult; it differs from the dense loss by the order of additions only.

    Raises:
        ValueError: shapes that do not fit, or devices that do not divide B.
    """
    images, texts = split(zimg, ztxt, devices)
    ring = [
        Device(zimg=x, texts=y, d_zimg=np.zeros_like(x), d_texts=np.zeros_like(y))
        for x, y in zip(images, texts, strict=True)
    ]
    for device in ring:
        compare(device, t_prime, bias, True, len(zimg))
        device["d_ztxt"] = device.pop("d_texts")  # the part of the texts' own images waits at home
    exchanges = 0
    for way in range(1, devices):
        exchange(ring, *(["texts"] if way == 1 else ["texts", "d_texts"]))
        exchanges += 1
        for device in ring:
            if way == 1:
                device["d_texts"] = np.zeros_like(device["texts"])
            compare(device, t_prime, bias, False, len(zimg))
    for device in ring:
        del device["texts"]
    if devices > 1:
        exchange(ring, "d_texts")
        for device in ring:
            device["d_ztxt"] += device.pop("d_texts")
    return collect(ring, exchanges, number_bytes)


def gathered_softmax_loss(zimg, ztxt, t_prime, devices, number_bytes=4):
    """`loss.softmax_loss` of zimg, ztxt [B, w] on `devices`: all embeddings to all devices, gradients back again.

    Each device compares its images with all texts, then its texts with all images: a normaliser needs a whole row.
    So it learns a part of the gradient of every embedding, and these parts have to be sent and added.

    For D >= 2, in numbers: sent by a device (D - 1) (4 b w + 3), held at most 4 B w + b B.

    Returns:
        RingResult, d_bias 0.

    Raises:
        ValueError: as `ring_sigmoid_loss`.
    """
    images, texts = split(zimg, ztxt, devices)
    ring = [
        Device(zimg=np.where(own, images, 0.0), ztxt=np.where(own, texts, 0.0))
        for own in np.eye(devices, dtype=bool)[:, :, None, None]
    ]  # each [D, b, w]: room for all, and its own part in it
    all_gather(ring, "zimg", "ztxt")
    t = np.exp(t_prime)
    for i, device in enumerate(ring):
        device["d_zimg"], device["d_ztxt"] = np.zeros_like(images), np.zeros_like(texts)
        for own, other in (("zimg", "ztxt"), ("ztxt", "zimg")):
            mine, every = device[own][i], device[other].reshape(len(zimg), -1)  # [b, w], [B, w]
            z = t * mine @ every.T
            loss, device["block"] = cross_entropy(z, first=i * len(mine))
            g = device.pop("block") / (2 * len(zimg))
            device.sums += loss / (2 * len(zimg)), (g * z).sum(), 0.0
            device[f"d_{own}"][i] += t * g @ every
            device[f"d_{other}"] += (t * g.T @ mine).reshape(images.shape)
    for device in ring:
        del device["zimg"], device["ztxt"]
    reduce_scatter(ring, "d_zimg", "d_ztxt")
    return collect(ring, devices - 1, number_bytes)
