"""Every released configuration at full size: our errors beside those of transformers, and the memory that each needs.

    python benchmarks/family_parity.py --write docs/parity.md           all of them, 25 minutes on two cores
    python benchmarks/family_parity.py siglip-base-patch16-224          one or some

For each configuration, Hugging Face's own class gets random weights in the ranges of trained ones and writes them with
`save_pretrained`. Then the same image and texts go through the float64 reference, transformers in float32 (SDPA), and
npsiglip in float32, bfloat16 and int8; each in a process of its own, one after the other. What was measured already is
kept in `--out`, so that a run that was stopped goes on.

Needs the parity environment (CONTRIBUTING.md), 24 GB of memory and 8 GB of disk for the largest.
Leaves out: real weights, which were not at hand (docs/published.md).
"""

import argparse
import datetime
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

ENGINES = ("truth", "transformers", "float32", "bfloat16", "int8")
RESULTS = ("image_embeds", "text_embeds", "logits")
SEED = 20230327
GRIDS = ((12, 21), (7, 30))  # of NaFlex, rows and columns of patches
IMAGES, TEXTS = 2, 64  # with fewer texts, errors of the logits say little: they are few numbers


FIRST = """\
# Parity at full size

Every released configuration, full size, with **random weights**: real ones were not at hand. Hugging Face's own class
writes them with `save_pretrained`, in the ranges of trained ones. The same two random images (for NaFlex, of different
shapes) and {} texts go through the float64 reference, transformers in float32 and npsiglip; an error is the relative L2
distance to the reference, which the parity suite holds to transformers in double precision.

    python benchmarks/family_parity.py --write docs/parity.md

{}; Python {}, {}; {}.

## float32: error of ours over transformers'

The bar is 1.0. Numbers of parameters are those of Hugging Face's class, equal to the published ones.

| checkpoint | parameters | image | text | logits | ours, images | theirs, images |
|---|---|---|---|---|---|---|"""
SECOND = """
## Fewer bits, and memory

Cosine of embeddings to the float64 reference, the least of all. Peak memory of a process that loads the model and
encodes once, in GB (10^9 bytes): all of it, with the pages of mapped files, which the system drops when it needs them;
in brackets what was the process's own at the end. Packed weights are kept from the second call on.

| checkpoint | bfloat16 | int8 | memory, float32 | bfloat16 | int8 | transformers |
|---|---|---|---|---|---|---|"""
LAST = """
NaFlex: transformers interpolates positions in float32 on a CPU, whatever the model's dtype; the reference does so in
float64, and the parity suite compares both in double precision.
"""


# -- one process each --------------------------------------------------------------------------------------------------


def hf_config(config):
    """What transformers calls this configuration."""
    from transformers import Siglip2Config, SiglipConfig

    content = config.to_hf()
    kind = Siglip2Config if config.image.naflex else SiglipConfig
    sections = {key: dict(content[key]) for key in ("vision_config", "text_config")}
    for section in sections.values():
        section.pop("model_type")
    return kind(**sections)


def make(config, folder, seed=SEED):
    """Write a folder with random weights by `save_pretrained`; returns the number of parameters."""
    import torch
    from transformers import Siglip2Model, SiglipModel

    with torch.device("meta"):
        model = (Siglip2Model if config.image.naflex else SiglipModel)(hf_config(config))
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in ("logit_scale", "logit_bias"):
                value.fill_({"logit_scale": np.log(117.0), "logit_bias": -12.9}[name])
                continue
            deviation, mean = 0.1, 0.0
            if "norm" in name and name.endswith("weight"):
                deviation, mean = 0.2, 1.0
            elif "token_embedding" in name or "probe" in name:
                deviation = 1.0
            elif "position_embedding" in name:
                deviation = 0.5
            elif value.ndim > 1:
                deviation = value[0].numel() ** -0.5 * (2 if "q_proj" in name or "k_proj" in name else 1)
            reach = 3**0.5 * deviation  # of uniform numbers, which are quicker to draw than normal ones
            value.uniform_(mean - reach, mean + reach, generator=generator)
    model.save_pretrained(folder)
    return sum(value.numel() for value in model.parameters())


def inputs(config, images=IMAGES, texts=TEXTS):
    """Images, or one of each grid, and ids."""
    rng = np.random.default_rng(SEED)
    ids = rng.integers(0, config.text.vocab_size, (texts, config.text.seq_len))
    size = config.image.image_size
    if not config.image.naflex:
        return rng.uniform(-1, 1, (images, 3, size, size)).astype(np.float32), ids
    shapes = np.array(GRIDS)
    mask = np.arange(config.image.seq_len) < shapes.prod(axis=1)[:, None]
    patches = rng.uniform(-1, 1, (len(GRIDS), config.image.seq_len, 3 * config.image.patch_size**2))
    patches = patches.astype(np.float32) * mask[:, :, None]
    return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}, ids


class Rows:
    """A table of which rows are cast when they are taken."""

    def __init__(self, table):
        self.table = table

    def __getitem__(self, rows):
        return np.asarray(self.table[rows], np.float64)


class Doubles(Mapping):
    """A checkpoint whose parameters are cast to float64 when they are used, and forgotten."""

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint

    def __getitem__(self, name):
        value = self.checkpoint[name]
        return Rows(value) if name == "text.token_embed" else np.asarray(value, np.float64)

    def __iter__(self):
        return iter(self.checkpoint)

    def __len__(self):
        return len(self.checkpoint)


def truth(folder, images, ids):
    """The reference's embeddings and logits."""
    from npsiglip import Checkpoint, reference
    from npsiglip.reference.model import l2_normalize

    checkpoint = Checkpoint.open(folder)
    params, config = Doubles(checkpoint), checkpoint.config
    if config.image.naflex:
        zimg = reference.naflex_tower(params, config.image, *images.values())
    else:
        zimg = reference.image_tower(params, config.image, images)
    zimg, ztxt = l2_normalize(zimg), l2_normalize(reference.text_tower(params, config.text, ids))
    return zimg, ztxt, np.exp(params["t_prime"]) * zimg @ ztxt.T + params["bias"]


def transformers(folder, images, ids, dtype="float32"):
    """Hugging Face's own."""
    import torch
    from transformers import Siglip2Model, SiglipModel

    kind = Siglip2Model if isinstance(images, dict) else SiglipModel
    dtype = getattr(torch, dtype)
    model = kind.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
    given = images if isinstance(images, dict) else {"pixel_values": images}
    given = {key: torch.from_numpy(value) for key, value in given.items()}
    given["pixel_values"] = given["pixel_values"].to(dtype)
    with torch.no_grad():
        output = model(**given, input_ids=torch.from_numpy(ids))
    return tuple(getattr(output, name).numpy() for name in ("image_embeds", "text_embeds", "logits_per_image"))


def npsiglip(folder, images, ids, dtype="float32"):
    """Ours. The folder has no tokenizer."""
    from npsiglip import Checkpoint, SigLIP

    checkpoint = Checkpoint.open(folder)
    output = SigLIP(checkpoint.config, checkpoint, dtype=dtype)(images, ids)
    return output.image_embeds, output.text_embeds, output.logits_per_image


def run_engine(engine, name, folder):
    """In a process of its own: one engine's results into the folder, and its peak memory."""
    from npsiglip.variants import variant

    if engine == "make":
        return {"params": make(variant(name), folder)}
    arguments = folder, *inputs(variant(name))
    if engine in ("truth", "transformers"):
        found = {"truth": truth, "transformers": transformers}[engine](*arguments)
    else:
        found = npsiglip(*arguments, engine)
    np.savez(Path(folder, f"{engine}.npz"), **dict(zip(RESULTS, found, strict=True)))
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "own": own_memory()}


def own_memory():
    """Bytes at the end that are no mapped file, which Linux can drop and read again; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), None)


# -- all of them -------------------------------------------------------------------------------------------------------


def error(found, true):
    """Relative L2."""
    return float(np.linalg.norm(found.astype(np.float64) - true) / np.linalg.norm(true))


def cosine(found, true):
    """The least of all rows'."""
    a, b = found.astype(np.float64), true
    return float(((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def measure(name, place):
    """All engines for one configuration."""
    from npsiglip.variants import VARIANTS

    found = {"seconds": {}, "peak": {}, "own": {}}
    with tempfile.TemporaryDirectory(prefix=".family-", dir=place) as folder:
        for engine in ("make", *ENGINES):
            start = time.perf_counter()
            command = [sys.executable, __file__, "--engine", engine, "--folder", folder, name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name}, {engine}:\n{done.stderr[-3000:]}")
            told = json.loads(done.stdout.splitlines()[-1])
            found["seconds"][engine] = round(time.perf_counter() - start, 1)
            if engine == "make":
                found["params"] = told["params"]
            else:
                found["peak"][engine], found["own"][engine] = told["peak"], told["own"]
        results = {engine: dict(np.load(Path(folder, f"{engine}.npz"))) for engine in ENGINES}
    true = results["truth"]
    for engine in ENGINES[1:]:
        found[engine] = {key: error(results[engine][key], true[key]) for key in RESULTS}
        found[engine]["cosine"] = min(cosine(results[engine][key], true[key]) for key in RESULTS[:2])
    found["ratio"] = {key: found["float32"][key] / found["transformers"][key] for key in RESULTS}
    found["published"] = VARIANTS[name].params
    return found


def gigabytes(value):
    """With two digits after the point."""
    return f"{value / 1e9:.2f}"


def page(results):
    """docs/parity.md."""
    from npsiglip.bench.machine import describe

    machine = describe()
    packages = ("npsiglip", "numpy", "numba", "torch", "transformers")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    lines = [FIRST.format(TEXTS, datetime.date.today().isoformat(), sys.version.split()[0], versions, machine["cpu"])]
    for name, found in results.items():
        equal = "" if found["params"] == found["published"] else " **(not as published)**"
        ratios = " | ".join(f"{found['ratio'][key]:.2f}" for key in RESULTS)
        errors = " | ".join(f"{found[engine]['image_embeds']:.1e}" for engine in ("float32", "transformers"))
        lines.append(f"| {name} | {found['params']:,}{equal} | {ratios} | {errors} |")
    lines.append(SECOND)
    for name, found in results.items():
        cosines = " | ".join(f"{found[engine]['cosine']:.4f}" for engine in ("bfloat16", "int8"))
        engines = ("float32", "bfloat16", "int8", "transformers")
        peaks = (f"{gigabytes(found['peak'][e])} ({gigabytes(found['own'][e] or 0)})" for e in engines)
        lines.append(f"| {name} | {cosines} | {' | '.join(peaks)} |")
    lines.append(LAST)
    return "\n".join(lines)


def main():
    """Measure what is not known yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--out", default="family_parity.json", metavar="FILE", help="what was measured")
    parser.add_argument("--write", metavar="FILE", help="the page")
    parser.add_argument("--place", metavar="FOLDER", help="for weights, which are deleted again; default: the system's")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        print(json.dumps(run_engine(options.engine, options.names[0], options.folder)))
        return
    from npsiglip.variants import VARIANTS, find_variant

    names = [find_variant(name).name for name in options.names] or list(VARIANTS)
    out = Path(options.out)
    known = json.loads(out.read_text()) if out.exists() else {}
    for name in names:
        if name not in known:
            start = time.perf_counter()
            known[name] = measure(name, options.place)
            temporary = out.with_name(f".{out.name}")
            temporary.write_text(json.dumps(known, indent=1))
            temporary.replace(out)
            ratios = ", ".join(f"{key} {ratio:.2f}" for key, ratio in known[name]["ratio"].items())
            print(f"{name}: {ratios}; {time.perf_counter() - start:.0f} s {known[name]['seconds']}", flush=True)
    if options.write:
        target = Path(options.write)
        temporary = target.with_name(f".{target.name}")
        temporary.write_text(page({name: known[name] for name in VARIANTS if name in known}), encoding="utf-8")
        shutil.move(temporary, target)


if __name__ == "__main__":
    main()
