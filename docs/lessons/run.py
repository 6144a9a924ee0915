"""Executes the lessons, `python docs/lessons/run.py`; with `--write` rewrites what they show.

A lesson is a notebook in Jupytext's Markdown. Its ```python blocks run in order, in one namespace. What a block prints
is the ```text block behind it. Where that opens as ```text varies, its numbers depend on the machine, and only its
words are compared. Figures that a block leaves open are what the image behind it shows; `--write` saves them there.

A block that opens with ```python .noeval is the solution of the exercise above it: Jupytext leaves it in its text cell.
It is run here, and then the check of its exercise again, which must find it right. A block that opens with
```python needs="faiss" is left out where there is no such module.

    python docs/lessons/run.py --write docs/lessons/3-attention.md     # one lesson; without names: all of them
"""

import argparse
import contextlib
import difflib
import io
import os
import re
import sys
import time
from importlib.util import find_spec
from pathlib import Path

LESSONS = Path(__file__).parent
VARIES = "```text varies"


class LessonError(Exception):
    """A solution that its own check does not find right."""


def end_of(lines, start):
    """The line behind the block that opens at `start`."""
    return lines.index("```", start + 1) + 1


def run_block(code, page, first, namespace):
    """What a block prints; tracebacks show the page's own lines."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * first + code, page, "exec"), namespace)
    return printed.getvalue()


def close_figures(place):
    """Save the figure that is open at `place`, if there is one and a place, and close all."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    if place is not None and pyplot.get_fignums():
        place.parent.mkdir(exist_ok=True)
        pyplot.savefig(place, dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot.close("all")


def image_behind(lines, at, page):
    """The file of the image that comes next, before any other block."""
    for line in lines[at:]:
        if line.startswith("```"):
            return None
        if found := re.match(r"!\[[^\]]*\]\(([^)]+)\)", line):
            return page.parent / found[1]
    return None


def check_solution(code, check, page, first, namespace):
    """Run a solution and then its check.

    Raises:
        LessonError: the check does not say that it is right.
    """
    check_code, check_first = check
    run_block(code, page, first, namespace)
    said = run_block(check_code, page, check_first, namespace)
    close_figures(None)
    if not re.search(r": right\b", said):
        raise LessonError(f"{page.name}:{first + 1}: the check of this solution says {said!r}")


def executed(page, save_figures=False):
    """The text of a lesson with the outputs that it has now."""
    lines, written, namespace = page.read_text(encoding="utf-8").split("\n"), [], {"__name__": "lesson"}
    at, check = 0, None
    while at < len(lines):
        opening, start = lines[at], at
        if not opening.startswith("```"):
            written.append(opening)
            at += 1
            continue
        at = end_of(lines, start)
        written += lines[start:at]
        code = "\n".join(lines[start + 1 : at - 1]) + "\n"
        needs = re.search(r'needs="(\w+)"', opening)
        if not opening.startswith("```python") or (needs and find_spec(needs[1]) is None):
            continue
        if ".noeval" in opening:
            check_solution(code, check, page, start + 1, namespace)
            continue
        if re.search(r"^check\(", code, re.MULTILINE):
            check = code, start + 1
        printed, fence = run_block(code, page, start + 1, namespace), "```text"
        behind = at + 1 if at + 1 < len(lines) and lines[at] == "" else at
        if behind < len(lines) and lines[behind].startswith("```text"):
            fence, at = lines[behind], end_of(lines, behind)
        if printed:
            written += ["", fence, *printed.removesuffix("\n").split("\n"), "```"]
        close_figures(image_behind(lines, at, page) if save_figures else None)
    return "\n".join(written)


def masked(text):
    """A text with the numbers of its ```text varies blocks replaced, and the spaces before them."""
    block = re.compile(rf"^{VARIES}\n.*?^```$", re.MULTILINE | re.DOTALL)
    return block.sub(lambda found: re.sub(r" *-?\d[\d,.]*(e[-+]?\d+)?", " #", found[0]), text)


def difference(page):
    """How a lesson's outputs differ from what it prints now; empty if they do not."""
    shown, now = masked(page.read_text(encoding="utf-8")), masked(executed(page))
    return "\n".join(difflib.unified_diff(shown.split("\n"), now.split("\n"), "shown", "printed", lineterm="", n=2))


def main():
    """Run the lessons that are named, or all; the exit status is 1 if one prints something else than it shows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="rewrite outputs and figures")
    parser.add_argument("lessons", nargs="*", type=Path, default=sorted(LESSONS.glob("*.md")))
    arguments = parser.parse_args()
    os.environ["MPLBACKEND"] = "agg"
    pages, failed = [page.resolve() for page in arguments.lessons], False
    os.chdir(LESSONS.parents[1])
    for page in pages:
        began = time.perf_counter()
        if arguments.write:
            page.write_text(executed(page, save_figures=True), encoding="utf-8")
        elif said := difference(page):
            print(said)
            failed = True
        print(f"{page.name}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
