"""From a candidate's tensors to a report: names, axes, element type, then inputs and taps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError
from npsiglip.verify.arithmetic import DTYPES
from npsiglip.verify.backward import GRAD
from npsiglip.verify.compare import Tap, Truth, compare_taps
from npsiglip.verify.golden import DECODED, RESIZED, Golden
from npsiglip.verify.gradient_names import Found as FoundGradients
from npsiglip.verify.gradient_names import Shown, find_gradients, read_gradients, weights_among
from npsiglip.verify.gradients import TrueGradients, compare_gradients
from npsiglip.verify.inputs import compare_inputs
from npsiglip.verify.layouts import arrangements, in_our_axes
from npsiglip.verify.names import INPUTS, NAMINGS, Found, read_names
from npsiglip.verify.operations import IDS, PIXELS
from npsiglip.verify.report import CANNOT_TELL, CONFORMS, DIVERGES, Coverage, Report

Array = NDArray[Any]
LOOKS_ALIKE = 0.98  # the cosine from which a tensor without a known name is taken for a tap
SAMPLES = 6  # tensors that are looked at for their element type


class Aligned(NamedTuple):
    """A candidate's tensors by our taps; names that are not known; what was assumed; what has another shape.

    `unlike`: tensors that could be taps by their shape, and are like none, where names say nothing.
    """

    taps: dict[str, Array]
    unknown: list[str]
    assumed: list[str]
    wrong: list[str]
    unlike: list[tuple[str, str]]


def _split(x: Array, found: Found, golden: Golden) -> list[tuple[str, Array]]:
    """A fused tensor in its parts."""
    if len(found.ours) == 1:
        return [(found.ours[0], x)]
    last = golden[found.ours[0]].shape[-1]
    parts = len(found.ours)
    if x.shape[-1] != parts * last:
        return [(found.ours[0], x)]  # of a wrong shape, which will be said
    return list(zip(found.ours, np.split(x, parts, axis=-1), strict=True))


def _ids_of(x: Array) -> Array | None:
    """Ids [K, L], also of one text, or as floats that are whole; None for anything else."""
    if x.dtype.kind not in "iuf" or x.ndim not in (1, 2) or not np.all(np.isfinite(x)) or np.any(x != np.trunc(x)):
        return None
    return np.atleast_2d(x).astype(np.int64)


def align(candidate: Mapping[str, Array], golden: Golden, names: str) -> Aligned:
    """The candidate's tensors under our names and in our axes."""
    naming, found = read_names(candidate, names, golden)
    told = [f"names are those of {naming}"] if names == "auto" and naming != "npsiglip" else []
    aligned = Aligned({}, [], told, [], [])
    how: dict[str, str] = {}
    for one in found:
        for tap, part in _split(np.asarray(candidate[one.theirs]), one, golden):
            if tap == IDS:
                ids = _ids_of(part)
                if ids is None:
                    aligned.wrong.append(f"{one.theirs} is {part.dtype} {list(part.shape)}, and ids are whole [K, L]")
                else:
                    aligned.taps[tap] = ids
                continue
            if part.dtype.kind not in "fiuV" or part.dtype == np.dtype(object):
                raise InputError(f"{one.theirs} holds {part.dtype}; expected numbers")
            read = in_our_axes(np.asarray(part, np.float64), np.asarray(golden[tap], np.float64))
            if read is None:
                aligned.wrong.append(f"{one.theirs} is {list(part.shape)}, and {tap} {list(golden[tap].shape)}")
                continue
            if read[0]:
                how.setdefault(read[0], tap)
            aligned.taps[tap] = read[1]
    rest = [name for name in candidate if not NAMINGS[naming](name) and _is_activation(name, naming)]
    if not any(op.tap in aligned.taps for op in golden.ops):
        rest = _by_likeness(candidate, rest, golden, aligned)
    aligned.unknown.extend(rest)
    aligned.assumed.extend(f"{what}, such as {tap}" for what, tap in how.items())
    return aligned


def _is_activation(name: str, naming: str) -> bool:
    return bool(name) and (naming != "npsiglip" or not name.startswith((DECODED, RESIZED)))


def _by_likeness(candidate: Mapping[str, Array], names: list[str], golden: Golden, aligned: Aligned) -> list[str]:
    """Tensors without known names, by shape and likeness, in the order of the forward pass; the rest is returned."""
    left, taps = [], [op.tap for op in golden.ops]
    for name in names:
        x = np.asarray(candidate[name])
        best: tuple[float, str, Array] | None = None
        if x.dtype.kind in "fV" and x.size > 1:
            for tap in taps:
                truth = np.asarray(golden[tap], np.float64)
                if tap in aligned.taps or truth.size != x.size:
                    continue
                for _, turned in arrangements(np.asarray(x, np.float64), truth.shape):
                    size = np.linalg.norm(turned) * np.linalg.norm(truth)
                    alike = float(np.sum(turned * truth) / size) if size else 0.0
                    if alike >= LOOKS_ALIKE and (best is None or alike > best[0]):
                        best = alike, tap, turned
        if best is None:
            left.append(name)
            if could_be := next((tap for tap in taps if tap not in aligned.taps and golden[tap].size == x.size), ""):
                aligned.unlike.append((name, could_be))
            continue
        aligned.taps[best[1]] = best[2]
        aligned.assumed.append(f"{name} is {best[1]}, by its shape and a cosine of {best[0]:.4f}")
    return left


def guess_dtype(candidate: Mapping[str, Array]) -> str:
    """What a candidate computes in, by the numbers that it shows: the coarsest type that holds most of them."""
    seen = []
    for name in candidate:
        x = np.asarray(candidate[name])
        if x.dtype == ml_dtypes.bfloat16:
            return "bfloat16"
        if x.dtype == np.float16:
            return "float16"
        if x.dtype.kind == "f" and x.size >= 16 and name not in (PIXELS, "pixel_values") and np.any(x):
            seen.append(np.asarray(x, np.float32).ravel()[:4096])
        if len(seen) == SAMPLES * 4:
            break
    if not seen:
        return "float32"
    for dtype, kind in (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)):
        with np.errstate(over="ignore"):
            held = [float((x.astype(kind).astype(np.float32) == x).mean()) for x in seen]
        if float(np.median(held)) > 0.95:
            return dtype
    return "float32"


def verify(
    candidate: Mapping[str, Array],
    golden: Golden,
    names: str = "auto",
    dtype: str | None = None,
    processor: Any = None,
    tokenizer: Any = None,
    repeat: str = "",
) -> Report:
    """Compare what a candidate shows with the truth.

    Args:
        candidate: names -> arrays of any float type.
        golden: the truth for the same model and inputs.
        names: whose names these are, a key of `NAMINGS`, or "auto".
        dtype: what the candidate computes in; None: by its numbers.
        processor, tokenizer: of the model, for mistakes in pixels and ids.
        repeat: the command that does this again.

    Raises:
        InputError: names or a dtype that are not known, tensors that hold no numbers.
    """
    if names != "auto" and names not in NAMINGS:
        raise InputError(f"names must be auto or one of {', '.join(NAMINGS)}; got {names!r}")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    whole = candidate
    taps_shown = {one.theirs for one in read_names(candidate, names, golden)[1]}
    trained = find_gradients(candidate, golden.config, names, taps_shown)
    chosen = dtype or guess_dtype(_computed(candidate, golden, taps_shown, trained))
    if trained is not None:
        candidate = _without(candidate, trained.names | trained.beside)
    aligned = align(candidate, golden, names)
    assumed = [*aligned.assumed] + ([] if dtype else [f"it computes in {chosen}"])
    shown = {op.tap for op in golden.ops if op.tap in aligned.taps}
    missing = tuple(op.tap for op in golden.ops if op.tap not in shown)
    inputs, notes = compare_inputs(golden, aligned.taps, chosen, processor, tokenizer)
    coverage = Coverage(len(shown) + len(inputs), missing, tuple(aligned.unknown))

    def cannot(reason: str) -> Report:
        return Report(CANNOT_TELL, tuple(inputs), coverage, chosen, tuple(assumed), reason, repeat)

    back, refused = _back(trained, whole, golden)
    if back is not None:
        assumed += back[1].assumed
        aligned.wrong.extend(back[1].wrong)
        grads = back[1].grads
        coverage = Coverage(
            coverage.compared + len(grads) + (back[1].loss is not None),
            (missing if shown or not grads else ())
            + tuple(GRAD + name for name in back[0].exact.grads if grads and name not in grads),
            coverage.unknown,
        )
    elif refused:
        assumed.append(f"gradients are not compared: {refused}")
    if aligned.wrong:
        more = f" ({len(aligned.wrong) - 1} more)" if len(aligned.wrong) > 1 else ""
        return cannot(f"{aligned.wrong[0]}{more}: is it a trace of another model, or of other inputs?")
    if names != "auto" and trained is None and not any(NAMINGS[names](n) for n in candidate if n not in INPUTS):
        whose = read_names(candidate, "auto", golden)
        hint = f"{len(whose[1])} are those of {whose[0]}: leave --names out" if whose[1] else "leave --names out"
        return cannot(f"none of its {len(candidate)} names is one of {names}; {hint}")
    if not shown and not inputs and refused:
        return cannot(refused)
    if not shown and not inputs and (back is None or not (back[1].grads or back[1].loss is not None)):
        return cannot(
            f"none of its {len(candidate)} names is known, such as {next(iter(candidate), 'none')!r}; give --names, or "
            "save tensors under the names of docs/glossary.md"
        )
    if not shown and back is None and aligned.unknown and not any(tap.diverges for tap in inputs):
        return cannot(
            f"its inputs are right, and nothing else of it is known: {len(aligned.unknown)} names, such as "
            f"{aligned.unknown[0]!r}. Rename them to those of a scheme that --names knows, or of docs/glossary.md"
        )
    taps = [*inputs, *(_taps(golden, aligned.taps, chosen) if shown else [])]
    if _of_other_inputs(taps, inputs):
        return cannot(
            "the first tap that it shows of each tower is far from the truth, for no known reason: was it fed golden's "
            "image.pixels and text.ids, and the same weights? Show those, too"
        )
    if back is not None:
        right = not any(tap.diverges for tap in taps)
        taps += compare_gradients(*back, chosen, explain=right)
        if back[1].grads and chosen == "int8":
            assumed.append("gradients are compared as float32, which 8 bits have none of their own")
        if not right:
            notes.append("gradients of a forward pass that is wrong are wrong, too: compare them when it is right")
    verdict = DIVERGES if any(tap.diverges for tap in taps) else CONFORMS
    if verdict == CONFORMS and aligned.unlike:
        name, tap = aligned.unlike[0]
        return cannot(
            f"its names say nothing, what is like a tap conforms, and {len(aligned.unlike)} tensors are like none, "
            f"such as {name!r}, which has the size of {tap}. Rename them to those of a scheme that --names knows, or "
            "of docs/glossary.md"
        )
    return Report(verdict, tuple(taps), coverage, chosen, tuple(assumed + notes), "", repeat)


def _computed(
    candidate: Mapping[str, Array], golden: Golden, taps: set[str], trained: FoundGradients | None
) -> Mapping[str, Array]:
    """What the candidate computed: taps, else gradients, else everything; not weights that lie beside them."""
    own = taps or (trained.names - weights_among(trained, candidate, golden.params) if trained else set())
    return {name: candidate[name] for name in candidate if name in own} if own else candidate


def _without(candidate: Mapping[str, Array], names: set[str]) -> Mapping[str, Array]:
    return {name: candidate[name] for name in candidate if name not in names}


def _back(
    trained: FoundGradients | None, candidate: Mapping[str, Array], golden: Golden
) -> tuple[tuple[TrueGradients, Shown] | None, str]:
    """The true gradients and the candidate's; or None and why they cannot be had, if it shows any."""
    if trained is None:
        return None, ""
    try:
        true = TrueGradients(truth_of(golden))
    except InputError as error:
        return None, str(error)
    return (true, read_gradients(trained, candidate, true.exact.grads, golden.params)), ""


def replayable(shown: Mapping[str, Array], golden: Golden) -> Mapping[str, Array]:
    """What can be replayed of what is shown: not ids that the model does not have, nor texts of another length."""
    ids, text = shown.get(IDS), golden.config.text
    if ids is None or text is None:
        return shown
    if ids.shape[1] != golden.inputs[IDS].shape[1]:
        return {name: x for name, x in shown.items() if name != IDS and not name.startswith("text.")}
    if ids.shape[0] != golden.inputs[IDS].shape[0] or not 0 <= ids.min() <= ids.max() < text.vocab_size:
        return {name: x for name, x in shown.items() if name != IDS}
    return shown


def truth_of(golden: Golden) -> Truth:
    """What a golden trace is computed from."""
    return Truth(golden.config, golden.params, golden.inputs.get(PIXELS), golden.inputs.get(IDS))


def _taps(golden: Golden, shown: Mapping[str, Array], dtype: str) -> list[Tap]:
    return compare_taps(truth_of(golden), golden, replayable(shown, golden), dtype)


def _of_other_inputs(taps: list[Tap], inputs: list[Tap]) -> bool:
    """Whether the first tap of each tower is far from the truth, for no known reason, and no input is shown.

    Each later operation may agree with its own input.
    """
    shown = taps[len(inputs) :]
    first = [next((tap for tap in shown if tap.tap.startswith(tower)), None) for tower in ("image.", "text.")]
    found = [tap for tap in first if tap is not None]
    return bool(found) and not inputs and all(tap.diverges and tap.error > 0.5 and not tap.diagnosis for tap in found)
