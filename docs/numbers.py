"""Writes the numbers that stand on more than one page: `python docs/numbers.py`.

A number has one home. It is measured and stands in numbers.toml, with how, where and when; or it stands in a table of a
page, and is read there (`of_benchmarks`, `of_parity`, `of_experiments`). Everywhere else a page says where it goes:

    <!-- n:compile -->15 to 20 seconds<!-- /n -->

With `--check` nothing is written; what differs is printed, and the exit code is 1.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FACTS = ROOT / "docs" / "numbers.toml"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"])
MARKER = re.compile(r"<!-- n:(?P<name>[\w.:]+) -->(?P<value>.*?)<!-- /n -->", re.DOTALL)


def of_facts(text):
    """Those of numbers.toml: value and unit."""
    return {name: f"{fact['value']} {fact.get('unit', '')}".strip() for name, fact in tomllib.loads(text).items()}


def of_benchmarks(text):
    """Of the towers' tables medians in whole milliseconds (`speed.float32.image:1.npsiglip`) and shares of the limit
    (`of_limit...`); and the loss's times.
    """
    found = {}
    section = text.partition("## The towers\n")[2].partition("### So400m")[0]
    for part in section.split("\n### ")[1:]:
        dtype, _, rest = part.partition("\n")
        case = ""
        for line in rest.split("case     limit")[0].split("\n"):
            match = re.match(r"(\S+:\d+)?\s+([a-z]+)(?: \([^)]*\))?\s+([\d.,]+)\s+[\d.,]+ - .*?([\d.]+)%", line)
            if match:
                case = match[1] or case
                found[f"speed.{dtype}.{case}.{match[2]}"] = f"{float(match[3].replace(',', '')):,.0f}"
                found[f"of_limit.{dtype}.{case}.{match[2]}"] = f"{match[4]} %"
    seconds = sorted(float(value) for value in re.findall(r"^\| \d+ \| ([\d.]+) \| \d+ MB \|$", text, re.MULTILINE))
    return found | {"loss_seconds": f"{seconds[0]:.0f} to {seconds[-1]:.0f}"}


def columns(text, heading):
    """A table's columns by their names; the table is the first below a heading."""
    lines = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].split("\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {name: [row[rows[0].index(name)] for row in rows[2:]] for name in rows[0]}  # the first of each name


def of_parity(text):
    """The smallest and the largest quotient of errors, and the least cosines, over all released shapes."""
    float32 = columns(text, "float32: error of ours over transformers'")
    fewer = columns(text, "Fewer bits, and memory")
    found = {f"parity.{name}": f"{min(float32[name])} to {max(float32[name])}" for name in ("image", "text", "logits")}
    found |= {f"parity.{dtype}": min(fewer[dtype]) for dtype in ("bfloat16", "int8")}
    base = fewer["checkpoint"].index("siglip-base-patch16-224")
    return found | {"parity.int8.base": fewer["int8"][base], "parity.shapes": str(len(fewer["int8"]))}


def of_experiments(text):
    """How long an experiment takes: `experiments`."""
    minutes = [int(value) for value in re.findall(r"\| (\d+) min \|", text)]
    return {"experiments": f"{min(minutes)} to {max(minutes)} min"}


def numbers():
    """Every number by its name."""
    found = {}
    for page, read in (
        ("numbers.toml", of_facts),
        ("benchmarks.md", of_benchmarks),
        ("parity.md", of_parity),
        ("experiments.md", of_experiments),
    ):
        found |= read((ROOT / "docs" / page).read_text(encoding="utf-8"))
    return found


def filled(text, known):
    """A page's text with its numbers in place."""

    def fill(match):
        if match["name"] not in known:
            raise SystemExit(f"there is no number {match['name']!r}")
        return f"<!-- n:{match['name']} -->{known[match['name']]}<!-- /n -->"

    return MARKER.sub(fill, text)


def main(check):
    """Write all pages, or say which differ."""
    known, different = numbers(), []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text, known)) != text:
            different.append(page.relative_to(ROOT).as_posix())
            if not check:
                page.write_text(new, encoding="utf-8")
    for name in different:
        print(f"{name} {'has other numbers' if check else 'written'}")
    return int(check and bool(different))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
