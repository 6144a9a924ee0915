"""What a step of training is given: pictures and ids, parameters, and gradients to be overwritten."""

import numpy as np

from npsiglip.params import param_shapes, random_params
from npsiglip.train.flat import Flat


def data(config, batch, text_len, seed=0):
    rng = np.random.default_rng(seed)
    size = config.image.image_size
    pixels = rng.uniform(-1, 1, (batch, 3, size, size)).astype(np.float32)
    ids = rng.integers(0, config.text.vocab_size, (batch, text_len), np.int32)
    ids[:, text_len // 2 :] = 1  # as padded texts are: most rows of the table get nothing, one gets much
    return pixels, ids


def flat_params(config, seed=0, temperature=10.0, bias=-10.0):
    params = Flat(param_shapes(config))
    for name, value in random_params(config, seed).items():
        params.views[name][...] = value
    params.views["t_prime"][...], params.views["bias"][...] = np.log(temperature), bias
    return params


def filled(params):
    """Gradients that hold something already, which must not matter."""
    grads = Flat(params.shapes)
    grads.vector[:] = 17
    return grads
