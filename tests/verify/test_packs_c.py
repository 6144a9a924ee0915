"""Packs for C, and docs/examples/siglip_image.c, the first port held to one: right, and with mistakes planted in it."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from npsiglip import SigLIP
from npsiglip.verify.packs import Pack
from npsiglip.verify.packs_c import DATA_HEADER, RUNNER, c_name, c_text
from npsiglip.verify.packs_export import export, tiny_model
from npsiglip.verify.packs_run import verify_pack
from tests.helpers.golden_data import ROOT

COMPILER = shutil.which("cc")
STRICT = ("-std=c99", "-O2", "-Wall", "-Wextra", "-pedantic", "-Werror")
PORT = ROOT / "docs" / "examples" / "siglip_image.c"
compiled = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


@pytest.fixture(scope="module", params=[pytest.param("builtin", marks=pytest.mark.slow), "tiny"])
def pack(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack") / "pack"
    model = tiny_model() if request.param == "tiny" else SigLIP.from_pretrained("builtin")
    export(model, folder, "c", request.param)
    return folder


def build(source, pack, target, *options):
    command = [COMPILER, *STRICT, *options, "-I", str(pack), str(source), "-lm", "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return target


@compiled
def test_the_port_conforms(pack, tmp_path):
    port = build(PORT, pack, tmp_path / "port")
    alone = subprocess.run([port, pack], capture_output=True, text=True, check=False)
    assert (alone.returncode, alone.stdout, alone.stderr) == (0, "0 results off\n", "")
    report = verify_pack(pack, str(port))
    assert (report.verdict, report.unknown) == ("conforms", ())
    opened = Pack(pack)
    shown = {(one.check.level, one.check.tap) for one in report.scored}
    assert shown == {
        (check.level, check.tap)
        for check in opened.checks
        if check.level in (2, 3, 4) and check.tap.startswith(("image.", "zimg"))
    }
    assert max(one.error / one.limit for one in report.scored) < 0.5


# What is planted -> its name in the catalogue, the tap of level 3 that shows it first, and all of level 2 that do
MISTAKES = {
    1: ("erf_gelu", "image.blocks.00.mlp.gelu", {"image.blocks.00.mlp.gelu", "image.map_head.mlp.gelu"}),
    2: ("map_residual_missing", "image.map_head.+mlp", {"image.map_head.+mlp"}),
    3: ("layer_norm_eps_1e-5", "image.blocks.00.ln1", {"image.blocks.00.ln1", "image.map_head.ln"}),
    4: (
        "attention_scale_missing",
        "image.blocks.00.attn.probs",
        {"image.blocks.00.attn.probs", "image.map_head.attn.probs"},
    ),
    5: ("patches_column_major", "image.patch_embed", {"image.patch_embed"}),
    6: ("patch_channels_reversed", "image.patch_embed", {"image.patch_embed"}),
}
NORMS = {f"image.{name}" for name in ("blocks.00.ln1", "blocks.00.ln2", "final_ln", "map_head.ln")}


@compiled
@pytest.mark.parametrize("number", MISTAKES)
def test_a_mistake_in_the_port_is_found_and_named(pack, tmp_path, number):
    name, tap, single = MISTAKES[number]
    port = build(PORT, pack, tmp_path / "port", f"-DMISTAKE={number}")
    alone = subprocess.run([port, pack], capture_output=True, text=True, check=False)
    assert alone.returncode == 1
    assert alone.stderr.startswith(f"level 2, {min(single, key=alone.stderr.index)} (")  # the header says it, too
    report = verify_pack(pack, str(port))
    assert report.exit_code == 1
    wrong = {one.check.tap: one for one in report.scored if one.check.level == 2 and not one.conforms}
    if number == 3:  # of the LayerNorms, those whose input is small enough for the epsilon to matter
        assert single <= set(wrong) <= NORMS
    else:
        assert set(wrong) == single
    assert {one.mistake for one in wrong.values()} == {name}
    assert (report.first(3).check.tap, report.first(3).mistake) == (tap, name)
    assert f"matches `{name}`" in report.sentence()


PROBE = """
#include "npsiglip_pack.h"
int main(int count, char **arguments)
{
    (void)count;
    npsiglip_load(arguments[1]);
    for (int i = 0; i < NPSIGLIP_TEXTS; i++)
        printf("%s%c", npsiglip_texts[i], 0);
    float zimg[NPSIGLIP_PICTURES * NPSIGLIP_IMAGE_WIDTH];
    int32_t ids[NPSIGLIP_TEXTS * NPSIGLIP_TEXT_SEQ_LEN];
    memcpy(zimg, npsiglip_zimg, sizeof zimg);
    memcpy(ids, npsiglip_text_ids, sizeof ids);
    int right = npsiglip_compare(4, "zimg", zimg) && npsiglip_same("text.ids", ids);
    zimg[5] += 1e-3f;
    int wrong = npsiglip_compare(4, "zimg", zimg);
    zimg[5] = NAN;
    wrong += npsiglip_compare(4, "zimg", zimg);
    ids[3]++;
    wrong += npsiglip_same("text.ids", ids);
    printf("%d %d\\n", right, wrong);
    return 0;
}
"""


@compiled
def test_the_header_reads_and_compares(pack, tmp_path):
    (tmp_path / "probe.c").write_text(PROBE)
    probe = build(tmp_path / "probe.c", pack, tmp_path / "probe")
    done = subprocess.run([probe, pack], capture_output=True, check=False)
    *texts, last = done.stdout.split(b"\0")
    assert [text.decode() for text in texts] == json.loads((pack / "pack.json").read_text())["texts"]
    assert last == b"1 0\n"
    assert done.stderr.count(b"level 4, zimg (unit): off by ") == 2
    (tmp_path / "tensors.bin").write_bytes((pack / "tensors.bin").read_bytes()[:-1])
    done = subprocess.run([probe, tmp_path], capture_output=True, check=False)
    assert (done.returncode, b"is cut short" in done.stderr) == (2, True)


def test_texts_and_names_of_c():
    assert c_text('a "b" \\ ??/ ä7\n') == r'"a \"b\" \\ \077\077/ \303\2447\012"'
    assert c_name("image.blocks.00.+attn") == "npsiglip_image_blocks_00__attn"


def test_small_tensors_stand_in_the_header(pack):
    header = (pack / DATA_HEADER).read_text()
    assert (pack / RUNNER).is_file()
    opened = Pack(pack)
    start = header.index("npsiglip_logits[] = {")
    cells = header[start : header.index("};", start)].split("{")[1].replace("f", "").split(",")
    found = np.array([float(cell) for cell in cells if cell.strip()], np.float32)
    np.testing.assert_array_equal(found.reshape(opened.tensors["logits"].shape), opened.tensors["logits"])
    assert len(header) < 400_000
