"""Position embeddings on another grid than the one they were trained on: bicubic, and antialiased bilinear.

Both are separable and linear: a matrix of weights for rows and one for columns, [n_out, n_in], which depend on the two
sizes alone. Output i lies at x = (i + 1/2) n_in / n_out - 1/2 of the input, pixels being squares with centres.

Source: Hugging Face's `interpolate_pos_encoding` of SigLIP and `resize_positional_embeddings` of SigLIP 2, which call
PyTorch's `interpolate` (align_corners=False): bicubic after R. Keys (1981) with a = -0.75, without antialiasing; and
bilinear with it, whose triangle is as wide as an output pixel where the grid shrinks. NaFlex was trained with the
second; the first is what Hugging Face offers for models of one size, which were not trained on other grids.

Dimensions: G stored grid, D width. float64.
"""

import numpy as np

KEYS_A = -0.75


def centres(n_in, n_out):
    """Where the centres of n_out outputs lie among the centres 0 ... n_in - 1 of the inputs: [n_out]."""
    return (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5


def keys_cubic(x):
    """Keys' cubic convolution kernel of the distance x: 1 at 0, 0 at 1 and from 2 on."""
    x, a = np.abs(x), KEYS_A
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def bicubic_weights(n_in, n_out):
    """[n_out, n_in]: four inputs for each output; what lies outside is the input at the border."""
    x = centres(n_in, n_out)
    weights = np.zeros((n_out, n_in))
    for step in (-1, 0, 1, 2):
        place = np.floor(x).astype(int) + step
        np.add.at(weights, (np.arange(n_out), np.clip(place, 0, n_in - 1)), keys_cubic(x - place))
    return weights


def triangle_weights(n_in, n_out):
    """[n_out, n_in]: a triangle about each output, as wide as an input pixel or an output pixel, whichever is wider.

    What lies outside is left out, and the rest scaled to a sum of one.
    """
    scale = max(n_in / n_out, 1.0)
    distance = (np.arange(n_in)[None, :] - centres(n_in, n_out)[:, None]) / scale
    weights = np.maximum(1.0 - np.abs(distance), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def interpolate(table, rows, columns, weights):
    """Table [G * G, D], row by row, -> [rows * columns, D]."""
    side = round(len(table) ** 0.5)
    grid = np.asarray(table, np.float64).reshape(side, side, -1)
    grid = np.einsum("rg,gcd->rcd", weights(side, rows), grid)
    grid = np.einsum("cg,rgd->rcd", weights(side, columns), grid)
    return grid.reshape(rows * columns, -1)


def interpolate_bicubic(table, rows, columns):
    """Positions [G * G, D] -> [rows * columns, D] by cubic convolution."""
    return interpolate(table, rows, columns, bicubic_weights)


def interpolate_antialias(table, rows, columns):
    """Positions [G * G, D] -> [rows * columns, D] by linear interpolation, antialiased where the grid shrinks."""
    return interpolate(table, rows, columns, triangle_weights)
