"""What `benchmarks/experiments.py` trains on and is tested on, and a softmax loss for its large batches."""

import math

import numpy as np


class Pool:
    """What a run is trained on: every batch takes some of the pictures in a file. A source of the trainer."""

    def __init__(self, config, file, texts):
        self.config, self.file, self.texts = config, file, texts

    def batch(self, step):
        """Pictures and captions of a step, the latter with the noise that the settings ask for."""
        from npsiglip.train.worlds import mislabelled

        data = self.config.data
        rng = np.random.default_rng([data.seed, step])
        chosen = rng.choice(len(self.texts), self.config.train.batch, replace=False)
        texts = mislabelled([self.texts[i] for i in chosen], data.label_noise, data.seed, step)
        return np.load(self.file, mmap_mode="r")[chosen], texts

    def take_skipped(self):
        """Nothing: every picture is drawn."""
        return {}

    def captions(self, count):
        """For the tokenizer."""
        return iter(self.texts[:count])


def draw_pool(config, count, file):
    """Draw the pictures of a seed into a file, and return their captions."""
    from npsiglip.world import World

    world = World(config.data.seed, config.model.image.image_size, "train", **config.data.phases[0].world)
    pictures, texts = world.batch(0, count)
    np.save(file, pictures)
    return texts


class Test:
    """Single objects of the test split, and how many a model classifies rightly: an evaluation of the trainer.

    By the captions of all 64 classes: top-1, and whether colour and shape are right. Where training names shapes alone,
    by those of the 8 shapes.
    """

    def __init__(self, count, config):
        from npsiglip.world import World, class_captions
        from npsiglip.world.captions import with_article
        from npsiglip.world.vocabulary import COLOURS, SHAPES

        own = config.data.phases[0].world
        world = World(1, config.model.image.image_size, "test", **{**own, "colourless": 0.0})
        samples = [world.sample(i) for i in range(count)]
        self.pictures = np.stack([np.asarray(sample.image) for sample in samples])
        self.colours = np.array([COLOURS.index(sample.scene.things[0].colour) for sample in samples])
        self.shapes = np.array([SHAPES.index(sample.scene.things[0].shape) for sample in samples])
        self.alone = bool(own.get("colourless"))
        self.captions = [with_article(shape) for shape in SHAPES] if self.alone else class_captions()

    def __call__(self, model):
        """The parts that are right."""
        from npsiglip.train.data import Pixels

        zimg, ztxt = model.encode_image(Pixels()(self.pictures)), model.encode_text(self.captions)
        best = model.compare(zimg, ztxt).logits_per_image.argmax(axis=1)
        colour, shape = best // 8 == self.colours, best % 8 == self.shapes
        if self.alone:
            return {"shape": float(shape.mean())}
        return {"top1": float((colour & shape).mean()), "colour": float(colour.mean()), "shape": float(shape.mean())}


def softmax_loss(zimg, ztxt, t_prime):
    """`npsiglip.reference.softmax_loss` from one exp of each pair, in float32 where that cannot underflow.

    e_ij = exp(t (zimg_i . ztxt_j - 1)), r its sums over rows, c over columns:
    loss = mean((log r_i + log c_i) / 2 - log e_ii),  gradient of the logits = (e_ij / r_i + e_ij / c_j) / 2B - I / B
    """
    from npsiglip.reference.loss import PairLoss

    n, t = len(zimg), math.exp(t_prime)
    kind = np.float32 if t < 40 else np.float64
    x, y = zimg.astype(kind), ztxt.astype(kind)
    e = x @ y.T
    e -= 1
    e *= kind(t)
    matches = e.diagonal().astype(np.float64)
    np.exp(e, out=e)
    r, c = (e.sum(axis=axis, dtype=np.float64) for axis in (1, 0))
    of_texts, of_images = np.hstack([y, y / c[:, None]]).astype(kind), np.hstack([x / r[:, None], x]).astype(kind)
    a, b = np.hsplit(e @ of_texts, 2), np.hsplit(e.T @ of_images, 2)
    d_zimg = t * ((a[0] / r[:, None] + a[1]) / 2 - ztxt) / n
    d_ztxt = t * ((b[0] + b[1] / c[:, None]) / 2 - zimg) / n
    loss = float(np.mean((np.log(r) + np.log(c)) / 2 - matches))
    return PairLoss(loss, d_zimg, d_ztxt, float((zimg * d_zimg).sum()), 0.0)


def make_gradients(*arguments, **keywords):
    """The trainer's gradients with the softmax above: its own, of 4,096 pairs, takes longer than all the rest."""
    from npsiglip.train.step import Gradients

    class Quick(Gradients):
        def _loss(self, zimg, ztxt, t_prime, bias):
            if self.loss == "softmax":
                return softmax_loss(zimg, ztxt, t_prime)
            return super()._loss(zimg, ztxt, t_prime, bias)

    return Quick(*arguments, **keywords)
