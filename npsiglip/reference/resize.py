"""An image at another size, as Pillow defines it: what the model's pixels are made by, in float64.

Pillow itself stores whole numbers after each of its two passes (rows, then columns), and clips them to 0..255: it is
within about one level of this.

N and M are the sizes along an axis before and after.
"""

import numpy as np


def triangle(x):
    """The bilinear filter: 1 - |x| within one step, else 0."""
    return np.maximum(1 - np.abs(x), 0)


def cubic(x):
    """The bicubic filter of Keys with a = -0.5: negative between one step and two."""
    x = np.abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))


def resize_weights(size, target, kernel):
    """How much each of N inputs counts in each of M outputs: [M, N], rows sum to one.

    Pixels are squares, with their centres at 0.5, 1.5, ... Where the image shrinks, the filter is as much wider as
    outputs are ("antialias"): every input counts somewhere.
    """
    centres = (np.arange(target)[:, None] + 0.5) * (size / target)
    weights = kernel((np.arange(size) + 0.5 - centres) / max(size / target, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


def resize(image, height, width, kernel=cubic):
    """An image [H, W, C] from 0 to 255 -> [height, width, C], squashed to its new shape, clipped to 0..255."""
    rows, columns = resize_weights(image.shape[0], height, kernel), resize_weights(image.shape[1], width, kernel)
    return np.clip(np.einsum("ry,cx,yxk->rck", rows, columns, image), 0, 255)
