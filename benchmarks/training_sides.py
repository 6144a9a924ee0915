"""The sides of `benchmarks/training_speed.py`: a training step, or a whole training, of npsiglip and of PyTorch."""

import os
import time
from pathlib import Path

import numpy as np

from npsiglip.bench.worker import Run
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig

CONFIG = SigLIPConfig(
    ImageConfig(width=192, depth=4, num_heads=3, mlp_dim=768, image_size=64, patch_size=8),
    TextConfig(width=128, depth=2, num_heads=2, mlp_dim=512, seq_len=24, vocab_size=1024, projection_dim=192),
)
WORKERS, AHEAD = 2, 3  # processes that draw, and the batches that each draws ahead
SETTLE = WORKERS * (AHEAD + 2)  # steps that are left out
WORLD = "world"
BATCHES = (16, 32, 64, 128, 256, 512, 1024)
RATE, EPS, BETAS, CLIP = 1e-3, 1e-8, (0.9, 0.95), 1.0
PAUSE = 0.02  # longer than threads of OpenMP keep spinning
TRIALS = 2
# glibc shall keep what torch lets go: fresh memory is dear on a virtual machine, 16 s a step of 1,024 pairs and not 6.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
APART, APART_NARROW = 1e-3, 0.05  # of the loss after some steps, relative: rounding grows from step to step


def pairs_of(config, batch):
    """Pixels and ids, the same for everybody."""
    rng = np.random.default_rng(0)
    pixels = 2 * rng.random((batch, 3, config.image.image_size, config.image.image_size), np.float32) - 1
    ids = rng.integers(0, config.text.vocab_size, (batch, config.text.seq_len), np.int32)
    for row, length in zip(ids, rng.integers(3, config.text.seq_len, batch), strict=True):
        row[length:] = 1
    return pixels, ids


def seconds(function):
    """Of one run."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def settings_of(pictures, batch, steps):
    """A training of CONFIG on the world, or on a folder of classes."""
    from npsiglip.train.config import read_config
    from npsiglip.train.starting import SHAPES

    towers = {
        name: {key: getattr(tower, key) for key in SHAPES[name]}
        for name, tower in (("image", CONFIG.image), ("text", CONFIG.text))
    }
    augment = {"crop": 0.6, "flip": True, "colour": 0.2}
    source = [] if pictures == WORLD else [{"kind": "classes", "path": pictures, "augment": augment}]
    data = {"sources": source} if source else {}
    return read_config({"model": towers, "train": {"steps": steps, "batch": batch}, "data": data})


def source_of(config):
    """What draws."""
    from npsiglip.train.mixture import Mixture
    from npsiglip.train.worlds import WorldSource

    return Mixture(config) if config.data.sources else WorldSource(config)


class Drawn:
    """Batches for torch's DataLoader, in whose processes they are drawn: pictures uint8 [B, S, S, 3] and ids [B, L]."""

    def __init__(self, config, tokenizer_file):
        self.config, self.tokenizer_file, self.source = config, tokenizer_file, None

    def __len__(self):
        return self.config.train.steps

    def __getitem__(self, step):
        if self.source is None:
            from npsiglip.texts.siglip import Tokenizer

            self.source, self.tokenizer = source_of(self.config), Tokenizer(self.tokenizer_file, CONFIG.text.seq_len)
        pictures, captions = self.source.batch(step)
        return pictures, self.tokenizer(captions).astype(np.int64)


def give_way(number):
    """The lowest priority, as npsiglip's own processes that draw have it."""
    os.nice(19)


class Steps:
    """A side: `prepare` starts from the folder's weights anew, with a batch; a run is a step and returns its loss.

    With `pictures`, a run is a whole training, and returns the seconds and the loss of each step.
    """

    def __init__(self, folder, threads, optimise, pictures=""):
        self.folder, self.threads, self.optimise, self.about = folder, threads, optimise, {}
        self.step, self.setting, self.pictures = None, "", pictures

    def prepare(self, case, inputs):
        """Begin anew with a batch."""
        self.step = None  # forget the last batch's memory first
        batch, _, steps = case.partition(":")
        self.begin(*pairs_of(CONFIG, int(batch)))
        if not steps:
            return Run(lambda: np.array(self.step()), setting=self.setting)
        config = settings_of(self.pictures, int(batch), int(steps))
        return Run(lambda: self.whole(config), setting=self.setting)

    def whole(self, config):
        """Train on pictures."""
        rows, start = [], time.perf_counter()
        for given in self.batches(config, Path(self.folder) / "spiece.model"):
            loss, end = self.step(*given), time.perf_counter()
            rows.append((end - start, loss))
            start = end
        return np.array(rows)


class Ours(Steps):
    """npsiglip."""

    dtype = "float32"

    def begin(self, pixels, ids):
        """Make the step."""
        from npsiglip.checkpoint import Checkpoint
        from npsiglip.kernels.jit import thread_count
        from npsiglip.train.config import OptimizerSettings
        from npsiglip.train.flat import Flat
        from npsiglip.train.optimizer import AdamW
        from npsiglip.train.step import Gradients

        checkpoint = Checkpoint.open(self.folder)
        shapes = {name: value.shape for name, value in checkpoint.items()}
        params, grads = Flat(shapes), Flat(shapes)
        for name, value in checkpoint.items():
            params.views[name][...] = value
        engine = Gradients(checkpoint.config, *ids.shape, dtype=self.dtype)
        settings = OptimizerSettings(RATE, *BETAS, eps=EPS, weight_decay=0.0, clip_norm=CLIP)
        optimizer = AdamW(shapes, settings)

        def step(pixels=pixels, ids=ids):
            with thread_count(self.threads):
                loss = engine.step(params, pixels, ids, grads)
                if self.optimise:
                    optimizer.step(params, grads, optimizer.norm(grads), 1.0)
            return loss

        self.step = step

    def batches(self, config, tokenizer_file):
        """Pixels and ids of every step."""
        from npsiglip.train.data import Batches

        steps = range(config.train.steps)
        with Batches(source_of(config), tokenizer_file, CONFIG.text.seq_len, steps, WORKERS, AHEAD) as batches:
            for _ in steps:
                batch = batches.get()
                yield batch.images, batch.ids


class Narrow(Ours):
    """npsiglip with products in bfloat16."""

    dtype = "bfloat16"


class Torch(Steps):
    """transformers' SiglipModel and torch.optim.AdamW."""

    compiled, fastest = False, None

    def make_step(self, attention, optimizer_options, pixels, ids):
        """A step from the folder's weights on."""
        import torch
        import transformers

        torch.set_num_threads(self.threads)
        self.about = {"torch": torch.__version__, "transformers": transformers.__version__}
        model = transformers.SiglipModel.from_pretrained(
            self.folder, dtype=torch.float32, attn_implementation=attention
        )
        model.train()
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, RATE, BETAS, EPS, weight_decay=0.0, **optimizer_options)
        inputs = {"pixel_values": torch.from_numpy(pixels), "input_ids": torch.from_numpy(ids.astype(np.int64))}
        forward = torch.compile(model) if self.compiled else model

        def step(inputs=inputs):
            optimizer.zero_grad(set_to_none=True)
            loss = forward(**inputs, return_loss=True).loss
            loss.backward()
            if self.optimise:
                torch.nn.utils.clip_grad_norm_(parameters, CLIP, foreach=True)
                optimizer.step()
            return loss.item()

        return step

    def begin(self, pixels, ids):
        """Make the step, of the setting that is the fastest with the first batch."""
        if self.fastest is None:
            self.fastest = min((self.trial(pixels, ids, *setting), *setting) for setting in self.settings())[1:]
        attention, name = self.fastest
        self.setting = f"{attention} attention, {name} AdamW" if self.optimise else f"{attention} attention"
        self.step = self.make_step(attention, {name: True}, pixels, ids)

    def batches(self, config, tokenizer_file):
        """What the model takes, of every step."""
        import torch

        loader = torch.utils.data.DataLoader(
            Drawn(config, tokenizer_file),
            batch_size=None,  # they are batches
            num_workers=WORKERS,
            prefetch_factor=AHEAD,
            worker_init_fn=give_way,
        )
        for pictures, ids in loader:
            pixels = pictures.permute(0, 3, 1, 2).to(torch.float32).mul_(2 / 255).sub_(1).contiguous()
            yield ({"pixel_values": pixels, "input_ids": ids},)

    def settings(self):
        """What is tried."""
        optimizers = ("fused", "foreach") if self.optimise else ("fused",)
        return [(attention, name) for attention in ("sdpa", "eager") for name in optimizers]

    def trial(self, pixels, ids, attention, name):
        """Seconds of a step."""
        step = self.make_step(attention, {name: True}, pixels, ids)
        step()  # allocates
        return min(seconds(step) for _ in range(TRIALS))


class Compiled(Torch):
    """The same, compiled, with transformers' own choice of attention: each trial would be compiled for itself."""

    compiled, fastest = True, ("sdpa", "fused")


SIDES = {"npsiglip": Ours, "in bfloat16": Narrow, "torch": Torch, "torch.compile": Compiled}
