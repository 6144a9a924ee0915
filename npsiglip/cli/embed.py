"""`npsiglip embed`: images and texts to a file of embeddings, NumPy's .npy or .safetensors."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer

from npsiglip.cli.activity import Activity, check_lengths
from npsiglip.cli.console import note, quoted
from npsiglip.cli.options import CheckOption, ModelOptions, SkipOption, TruncateOption, with_options
from npsiglip.cli.pictures import Kind, Skipped, check_images, encode_good, expand, kind_of
from npsiglip.errors import InputError
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from npsiglip.model import SigLIP


FORMATS = (".npy", ".jsonl", ".safetensors")


class _Options(NamedTuple):
    normalize: bool
    truncate: bool


def _refuse_output(output: Path, error: Exception) -> NoReturn:
    reason = getattr(error, "strerror", None) or error
    raise InputError(
        f"output {str(output)!r} cannot be written ({reason}); expected a name in a folder that exists and can be "
        "written, with space left"
    ) from None


def check_output(output: Path) -> Path:
    """The file to write, links followed; refuses, before time is spent, what could not be written at the end.

    Raises:
        InputError: another suffix than those of `FORMATS`, a folder, or a place where no file can be made.
    """
    if output.suffix.lower() not in FORMATS:
        formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise InputError(f"output {str(output)!r} must end in {formats}, which decides on the format")
    try:
        target = output.resolve()
        if target.is_dir():
            raise InputError(f"output {str(output)!r} is a folder; expected the name of a file")
        with tempfile.TemporaryFile(dir=target.parent):
            return target
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        _refuse_output(output, error)


def _save(path: Path, embeddings: NDArray[np.float32], metadata: Mapping[str, Any]) -> None:
    if path.suffix.lower() == ".npy":
        with deferred():
            import numpy as np

        with path.open("wb") as file:  # given a name, NumPy may append another suffix to it
            np.save(file, embeddings)
    elif path.suffix.lower() == ".jsonl":
        with path.open("w", encoding="ascii") as lines:
            for name, kind, row in zip(metadata["inputs"], metadata["kinds"], embeddings, strict=True):
                lines.write(json.dumps({"input": name, "kind": kind, "embedding": row.tolist()}) + "\n")
    else:
        with deferred():
            from safetensors.numpy import save_file

        save_file({"embeddings": embeddings}, path, {key: json.dumps(value) for key, value in metadata.items()})


def write(output: Path, target: Path, embeddings: NDArray[np.float32], metadata: Mapping[str, object]) -> None:
    """Write the file whole, or leave what was there.

    Args:
        output: the name as it was given, for a message.
        target: the file.
        embeddings: [N, D].
        metadata: for .safetensors, whose metadata are strings: each value as JSON.

    Raises:
        InputError: if it cannot be written.
    """
    with deferred():
        from safetensors import SafetensorError

    from npsiglip.atomic import write_all

    try:
        write_all(target.parent, {target.name: lambda path: _save(path, embeddings, metadata)})
    except (OSError, SafetensorError) as error:
        _refuse_output(output, error)


def _encode(
    activity: Activity,
    model: SigLIP,
    inputs: Sequence[str],
    places: Mapping[Kind, Sequence[int]],
    skipped: Skipped,
    options: _Options,
) -> tuple[list[int], NDArray[np.float32]]:
    """The places of the inputs that could be used, in order, and their embeddings [N, D]."""
    with deferred():
        import numpy as np

    order, rows = list(places[Kind.TEXT]), []
    if texts := [inputs[i] for i in order]:
        check_lengths(model, texts, [f"text {quoted(text)}" for text in texts], options.truncate)
        activity.say("Texts")
        rows.append(model.encode_text(texts, options.normalize))
    for batch in activity.passes(model, places[Kind.IMAGE]):
        good, found = encode_good(
            model, inputs, batch, skipped, lambda paths: model.encode_image(paths, options.normalize)
        )
        order += good
        rows += [found] if good else []
    skipped.check(len(inputs))
    embeddings = np.concatenate(rows)
    embeddings[np.argsort(np.argsort(order))] = embeddings.copy()
    return sorted(order), embeddings


def _check(model: SigLIP, inputs: Sequence[str], used: list[int], texts: frozenset[int], normalize: bool) -> None:
    """Tell how far each embedding is from what it is in float64."""
    with deferred():
        import numpy as np

    for place in used:
        ends = ("text.head", "ztxt") if place in texts else ("image.pooled", "zimg")
        given = {"texts": [inputs[place]]} if place in texts else {"images": [inputs[place]]}
        found = model.check(**given)[ends[normalize]]
        off = float(np.linalg.norm(found.value - found.truth) / np.linalg.norm(found.truth))
        held = int(np.median(found.digits))
        what = f"off by {off:.1e} of its length from float64; of half its numbers {held} digits hold"
        note(f"{quoted(inputs[place])}: {what}")


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


@with_options
def embed(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|TEXT",
            help="Image files, folders, patterns, - for names from standard input; texts.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to: .npy or .safetensors, float32 [N, D]; or .jsonl.",
            show_default=False,
        ),
    ],
    options: ModelOptions = ModelOptions(),  # noqa: B008
    kind: Annotated[
        Kind, typer.Option("--as", help="What the arguments are; auto: what exists, or is named like it, is an image.")
    ] = Kind.AUTO,
    normalize: Annotated[bool, typer.Option(help="Scale each embedding to unit norm.")] = True,
    truncate: TruncateOption = False,
    skip_bad: SkipOption = False,
    check: CheckOption = False,
) -> None:
    """Write the embeddings of images and texts to a file.

    The rows are those of the arguments, in their order, of a folder in that of the names; with --skip-bad, of those
    that could be used. A .jsonl file has a line for each: "input", "kind" and "embedding". A .safetensors
    file holds the tensor "embeddings" and, as metadata in JSON, the "inputs" of its rows, their "kinds", whether they
    are "normalized", the "dtype" of the computation, and with --skip-bad what was "skipped", and why.
    """
    target, skipped = check_output(output), Skipped(skip_bad)
    inputs = inputs if kind is Kind.TEXT else expand(inputs)
    places: dict[Kind, list[int]] = {Kind.TEXT: [], Kind.IMAGE: []}
    for place, argument in enumerate(inputs):
        try:
            places[kind_of(argument) if kind is Kind.AUTO else kind].append(place)
        except InputError as error:
            skipped.add(argument, place, error)
    places[Kind.IMAGE] = check_images(inputs, skipped, places[Kind.IMAGE])
    skipped.check(len(inputs))
    with Activity() as activity:
        siglip = activity.load(options)
        used, embeddings = _encode(activity, siglip, inputs, places, skipped, _Options(normalize, truncate))
        if check:
            activity.say("Float64")
            _check(siglip, inputs, used, frozenset(places[Kind.TEXT]), normalize)
    texts = frozenset(places[Kind.TEXT])
    kinds = [Kind.TEXT if place in texts else Kind.IMAGE for place in used]
    metadata = {"inputs": [inputs[place] for place in used], "kinds": kinds, "normalized": normalize}
    metadata |= {"dtype": siglip.dtype} | ({"skipped": skipped.reasons} if skip_bad else {})
    write(output, target, embeddings, metadata)
    what = [_count(n, k) for k in (Kind.IMAGE, Kind.TEXT) if (n := kinds.count(k))]
    left_out = f"; {skipped.summary(len(inputs))}, the rows are those of the others" if skipped.places else ""
    note(f"{' and '.join(what)} in {output}: float32 {list(embeddings.shape)}{left_out}")
