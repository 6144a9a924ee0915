"""Where does a port of SigLIP go wrong, by how much, and what is the mistake?

    operations   the forward pass as a list of operations with named inputs and outputs
    arithmetic   honest ways to compute them: orders of summation, bfloat16, float16, 8 bits
    replay       each operation on the candidate's own input: what it added, and what rounding explains
    mistakes     a catalogue of known mistakes, each a small change to an operation
    diagnose     which mistake reproduces the candidate's numbers
    where        which part of a tensor is wrong
    layouts      the candidate's axes; names: what others call our taps
    files        traces in files
    backward     the backward pass as operations; gradients: a candidate's against the truth
    mistakes_gradients   a catalogue for these
    report       what is said of it

Candidates and golden traces are mappings of names to arrays: whoever has a dictionary can compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npsiglip.errors import InputError
from npsiglip.model import SigLIP
from npsiglip.verify.files import read_traces
from npsiglip.verify.golden import Golden
from npsiglip.verify.operations import IDS, PIXELS
from npsiglip.verify.report import Report
from npsiglip.verify.verdict import verify

__all__ = ["Golden", "Report", "compare", "read_traces"]


def compare(
    candidate: Mapping[str, Any] | str | Path,
    golden: Golden | Mapping[str, Any],
    *,
    model: SigLIP | str | Path | None = None,
    names: str = "auto",
    dtype: str | None = None,
) -> Report:
    """Where does a candidate diverge first, by how much, and by which known mistake?

    Args:
        candidate: names -> arrays, or a path to a trace.
        golden: `Golden(model, images, texts)`, which needs no `model`; or a mapping with `image.pixels`, `text.ids` or
            both, from which the truth is computed.
        model: the model, or its folder or name; needed with a plain mapping.
        names: whose names the candidate has: npsiglip, hf, timm, big_vision, gguf, onnx, or auto.
        dtype: what the candidate computes in: float32, bfloat16, float16 or int8; None: by its numbers.

    Raises:
        InputError: a golden mapping without inputs, or without a model.
    """
    loaded = SigLIP.from_pretrained(model) if isinstance(model, str | Path) else model
    if not isinstance(golden, Golden):
        if loaded is None:
            raise InputError(
                "a plain mapping does not tell the model: give `model=`, or make it with Golden(model, ...)"
            )
        if PIXELS not in golden and IDS not in golden:
            raise InputError(f"a golden mapping needs {PIXELS!r}, {IDS!r} or both, to compute the truth from")
        golden = Golden(loaded, golden.get(PIXELS), golden.get(IDS))
    tensors = read_traces(candidate) if isinstance(candidate, str | Path) else candidate
    processor, tokenizer = (loaded.processor, loaded.tokenizer) if loaded else (golden.processor, golden.tokenizer)
    return verify(tensors, golden, names, dtype, processor, tokenizer)
