"""The port in JavaScript, in Node: held to conformance packs, and to what it is a port of."""

import json
import shutil

import numpy as np
import PIL
import pytest
from PIL import Image

from golden.strings import strings
from npsiglip import SigLIP
from npsiglip.explain.gather import naive_resize
from npsiglip.explain.measures import gradient_shares
from npsiglip.explain.weights import pack as pack_weights
from npsiglip.reference.loss import sigmoid_loss, softmax_loss
from npsiglip.reference.model import gelu_erf
from npsiglip.texts.siglip import Tokenizer
from npsiglip.verify.operations import PIXELS
from npsiglip.verify.packs_export import export, tiny_model
from npsiglip.verify.packs_run import verify_pack
from tests.helpers.explain import LIVE, NODE, golden, model, run_node
from tests.helpers.golden_data import ROOT, TINY

pytestmark = pytest.mark.skipif(NODE is None, reason="no Node")
BUILTIN = ROOT / "npsiglip" / "data" / "builtin"


def write_pack(name, folder):
    export(tiny_model() if name == "tiny" else SigLIP.from_pretrained(name), folder, "safetensors", name)


@pytest.fixture(scope="module", params=[pytest.param("builtin", marks=pytest.mark.slow), "tiny"])
def pack(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack") / "pack"
    write_pack(request.param, folder)
    return folder


def test_the_port_conforms(pack):
    report = verify_pack(pack, f"{NODE} {LIVE / 'conform.js'}")
    assert (report.verdict, report.unknown) == ("conforms", ())
    assert {one.check.level for one in report.scored} == {0, 1, 2, 3, 4, 5}
    assert all(one.error <= one.limit for one in report.scored)


# what is planted: file, before, after -> the tap where the pack finds it
MISTAKES = {
    "erf": ("model.js", "export const GELU = { gelu_tanh, gelu_erf }", "export const GELU = { gelu_tanh: gelu_erf }"),
    "eps": ("model.js", "Math.sqrt(variance + eps)", "Math.sqrt(variance + 1e-5)"),
    "residual": ("model.js", "tap(`${name}.+mlp`, add(a, mlp(", "tap(`${name}.+mlp`, add(map(a, () => 0), mlp("),
    "last": ("model.js", "((n + 1) * L - 1) * D, (n + 1) * L * D", "n * L * D, (n * L + 1) * D"),
    "bias": ("model.js", "Math.exp(t_prime) * s + bias", "Math.exp(t_prime) * (s + bias)"),
    "lower": ("tokenizer.js", "lower ? text.toLowerCase() : text", "text"),
}
FOUND = {
    "erf": "image.blocks.00.mlp.gelu",
    "eps": "image.blocks.00.ln1",
    "residual": "image.map_head.+mlp",
    "last": "text.pooled",
    "bias": "logits",
    "lower": "text.ids",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_port_is_found(name, tmp_path):
    file, before, after = MISTAKES[name]
    folder = tmp_path / "pack"
    write_pack("tiny", folder)
    port = shutil.copytree(LIVE, tmp_path / "live")
    text = (port / file).read_text(encoding="utf-8")
    assert text.count(before) == 1
    (port / file).write_text(text.replace(before, after), encoding="utf-8")
    report = verify_pack(folder, f"{NODE} {port / 'conform.js'}")
    assert report.exit_code == 1
    assert FOUND[name] in {one.check.tap for one in report.scored if one.error > one.limit}


@pytest.mark.parametrize(
    ("file", "seq_len"), [(BUILTIN / "spiece.model", 24), (TINY / "spiece.model", 16)], ids=["byte pairs", "unigram"]
)
def test_ids_of_texts_that_are_easily_got_wrong(file, seq_len):
    texts = strings(600, 19)
    code = (
        'const { Tokenizer } = await live("tokenizer.js");\n'
        f"const tokenizer = new Tokenizer(new Uint8Array(readFileSync({json.dumps(str(file))})), {seq_len});\n"
        "console.log(JSON.stringify(given.map((x) => [tokenizer.tokenize(x), tokenizer.row(x)])));"
    )
    tokenizer = Tokenizer(file, seq_len)
    for text, (pieces, row) in zip(texts, run_node(code, texts), strict=True):
        assert pieces == tokenizer.tokenize(text)
        assert row["ids"] == tokenizer([text])[0].tolist()
        assert row["truncated"] == tokenizer.truncated([text])[0]


SIZES = [
    (240, 320, 64, 64),
    (64, 64, 64, 64),
    (64, 100, 64, 64),
    (9, 7, 30, 40),
    (500, 60, 72, 72),
    (60, 500, 72, 72),
    (3, 400, 24, 24),
    (140, 100, 40, 50),  # the passes are exchanged from one row more on
    (141, 100, 40, 50),
]


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="older ones take the passes in another order")
@pytest.mark.parametrize("resample", [2, 3])
def test_pillows_bytes(resample):
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w, *_ in SIZES]
    given = [[image.ravel().tolist(), *size] for image, size in zip(images, SIZES, strict=True)]
    code = (
        'const { naive_resize, resize } = await live("resize.js");\n'
        f"console.log(JSON.stringify(given.map(([x, ...s]) => [[...resize(new Uint8Array(x), ...s, {resample})], "
        "[...naive_resize(new Uint8Array(x), ...s)]])));"
    )
    for image, (_, _, rows, columns), (found, naive) in zip(images, SIZES, run_node(code, given), strict=True):
        expected = np.array(Image.fromarray(image).resize((columns, rows), resample))
        assert found == expected.ravel().tolist()
        assert naive == naive_resize(image, rows, columns).ravel().tolist()


def test_gradients_are_those_of_the_reference():
    truth = golden()
    names, width, text = pack_weights(truth.params)
    t = float(np.exp(truth.params["t_prime"].item()))
    given = {
        "names": names,
        "width": width,
        "weights": text,
        "pixels": truth.inputs[PIXELS].ravel().tolist(),
        "ztxt": truth["ztxt"].tolist(),
        "image": vars(model().config.image),
        "t": t,
    }
    code = """
        const { array, extract_patches, image_tower, keep } = await live("model.js");
        const { logit_by_patches, patch_shares } = await live("backward.js");
        const { gunzip, unpack } = await live("weights.js");
        const params = unpack(given.names, given.width, await gunzip(given.weights)), trace = {};
        const side = given.image.image_size, { image, t } = given;
        const pixels = array([1, 3, side, side], Float64Array.from(given.pixels));
        image_tower(params, image, pixels, keep(trace));
        const patches = extract_patches(pixels, image.patch_size);
        const gradient = (z) => logit_by_patches(params, image, trace, Float64Array.from(z), t);
        const one = (z) => [...patch_shares(gradient(z), patches)];
        console.log(JSON.stringify(given.ztxt.map(one)));
    """
    expected = gradient_shares(truth.params, model().config.image, np.float64(truth.inputs[PIXELS]), truth, t)
    found = np.array(run_node(code, given))
    # both float64; sums of up to 768 terms in another order, through 4 blocks: measured 2e-15
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_losses_are_those_of_the_reference():
    rng = np.random.default_rng(1)
    zimg, ztxt = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 8, 5)))
    z = np.exp(2.3) * zimg @ ztxt.T - 3.0
    code = """
        const { ring_blocks, sigmoid_loss, softmax_loss } = await live("loss.js");
        const z = { shape: [8, 8], data: Float64Array.from(given) };
        const ring = ring_blocks(z, 4).flat().reduce((a, b) => a + b, 0);
        console.log(JSON.stringify([sigmoid_loss(z), softmax_loss(z), ring]));
    """
    sigmoid, softmax, ring = run_node(code, z.ravel().tolist())
    expected = sigmoid_loss(zimg, ztxt, 2.3, -3.0).loss
    np.testing.assert_allclose(
        [sigmoid, ring, softmax], [expected, expected, softmax_loss(zimg, ztxt, 2.3).loss], rtol=1e-13
    )


def test_products_in_webassembly_have_the_same_bits():
    code = """
        const { accelerate, array, matmul } = await live("model.js"), { quicken } = await live("fast.js");
        let seed = 1;
        const next = () => (seed = (seed * 48271) % 2147483647) / 2147483647 - 0.5;
        const size = (shape) => shape.reduce((a, b) => a * b, 1);
        const random = (...shape) => array(shape, Float64Array.from({ length: size(shape) }, next));
        console.log(JSON.stringify(given.map(([rows, K, C]) => {
            const x = random(rows, K), w = random(K, C), b = random(C);
            accelerate(null);
            const plain = [matmul(x, w, b), matmul(x, w)];
            const quick = quicken({ w });
            const found = [matmul(x, w, b), matmul(x, w)], moved = w.data.byteOffset > 0;
            const same = plain.every((y, i) => y.data.every((value, j) => Object.is(value, found[i].data[j])));
            return [quick, moved, same, found[0].shape];
        })));
    """
    sizes = [(36, 192, 768), (1, 5, 4), (7, 768, 12), (5, 3, 6)]
    for (rows, _, columns), (quick, moved, same, shape) in zip(sizes, run_node(code, sizes), strict=True):
        assert quick and same and shape == [rows, columns]
        assert moved == (columns % 4 == 0)  # others stay where they are, and are computed by model.js


def test_the_exact_gelu():
    x = np.linspace(-12, 12, 401)
    code = 'const { gelu_erf } = await live("model.js"); console.log(JSON.stringify(given.map(gelu_erf)));'
    # 1 - erf(x) loses what erf(x) has in common with 1: a few 1e-16, times x
    np.testing.assert_allclose(run_node(code, x.tolist()), gelu_erf(x), rtol=1e-13, atol=2e-15)
