"""A page of the built-in model, made once; its data; and JavaScript that is run in Node."""

import json
import re
import shutil
import subprocess
from functools import cache

from npsiglip import SigLIP
from npsiglip.explain.page import explain
from npsiglip.verify.golden import Golden
from tests.helpers.golden_data import ROOT

LIVE = ROOT / "npsiglip" / "explain" / "live"
NODE = shutil.which("node")
PICTURE = ROOT / "docs" / "images" / "example.png"
LABELS = ["a red circle and a blue square", "a </script> & <b>circle</b>", "W"]


@cache
def model():
    return SigLIP.from_pretrained("builtin")


def across():
    """How many patches a row has."""
    image = model().config.image
    return image.image_size // image.patch_size


def middle():
    """The patch that a page begins with."""
    return across() // 2 * (across() + 1)


def name_of(patch):
    """As pages name it."""
    row, column = divmod(int(patch), across())
    return f"row {row + 1}, column {column + 1}"


@cache
def golden():
    return Golden(model(), [str(PICTURE)], LABELS, "builtin")


@cache
def page():
    return explain(model(), str(PICTURE), LABELS, LABELS, name="builtin")


def data_of(html):
    return json.loads(re.search(r'id="npsiglip-data">(.*?)</script>', html, re.DOTALL)[1])


def carried(html, name):
    return re.search(rf'id="npsiglip-{name}">(.*?)</script>', html, re.DOTALL)[1]


def run_node(code, given=None):
    """What a module prints as JSON; `given` is JSON that it reads as `given`, `live` imports a module of the port."""
    head = (
        'import { readFileSync } from "node:fs";\n'
        'const given = JSON.parse(readFileSync(0, "utf8") || "null");\n'
        f"const live = (name) => import({json.dumps(LIVE.as_uri())} + '/' + name);\n"
    )
    command = [NODE, "--input-type=module", "-e", head + code]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)
