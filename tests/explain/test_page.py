"""The page: every number is the trace's, and nothing is fetched. Covers explain/gather.py and
explain/panels.py as well."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import npsiglip.explain.page as module
from npsiglip import SigLIP
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import InputError
from npsiglip.explain.arrays import restored
from npsiglip.explain.gather import can_live
from npsiglip.explain.measures import Wide
from npsiglip.explain.panels import PANELS
from npsiglip.explain.weights import unpack
from npsiglip.params import random_params
from npsiglip.reference.model import softmax, text_tower
from tests.helpers.explain import LABELS, PICTURE, carried, data_of, golden, model, name_of, page

F32 = 2.0**-23  # what float32 keeps of a number, relative
PORT = 1e-5  # passes of the float32 kernels, absolute, of logits up to 50: measured 6e-7


@pytest.fixture(scope="module")
def data():
    return data_of(page())


def close(found, expected, rtol=F32, atol=0.0):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def test_numbers_of_the_ends(data):
    truth = golden()
    for name, expected in (
        ("cosines", truth["zimg"] @ truth["ztxt"].T),
        ("logits", truth["logits"]),
        ("probs", truth["probs"]),
        ("softmax", softmax(truth["logits"])),
    ):
        assert data[name] == expected[0].tolist()
    assert (data["t_prime"], data["bias"]) == (
        float(truth.params["t_prime"].item()),
        float(truth.params["bias"].item()),
    )


def test_arrays_of_the_image_tower(data):
    truth, arrays = golden(), {name: restored(entry) for name, entry in data["arrays"].items()}
    depth = model().config.image.depth
    names = [f"image.blocks.{i:02d}" for i in range(depth)]
    for i, name in enumerate(names):
        close(arrays["attention"][i], truth[f"{name}.attn.probs"][0][:, data["queries"]])
    close(arrays["probe"], truth["image.map_head.attn.probs"][0, :, 0])
    streams = [truth["image.embed"][0], *(truth[f"{name}.+mlp"][0] for name in names)]
    close(arrays["norms"], [np.sqrt((x * x).sum(axis=1)) for x in streams])
    close(arrays["patch_norms"], np.sqrt((truth["image.patch_embed"][0] ** 2).sum(axis=1)))
    p = truth["image.blocks.00.attn.probs"][0, 0]
    close(arrays["entropy"][0, 0], np.mean([-(row * np.log(row)).sum() / np.log(len(row)) for row in p]))
    x = streams[-1]
    pair = x[0] @ x[5] / np.sqrt((x[0] @ x[0]) * (x[5] @ x[5]))
    close(2 * arrays["stream_similarity"][-1, data["queries"].index(0), 5] - 1, pair, atol=F32)


def test_pictures_are_those_that_were_computed_with(data):
    def bytes_of(url):
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))

    truth = golden()
    np.testing.assert_array_equal(bytes_of(data["picture"]["resized"]), truth.before["image.resized"][0])
    np.testing.assert_array_equal(bytes_of(data["picture"]["shown"]), truth.before["image.decoded.0"])


def test_texts(data):
    truth, tokenizer = golden(), model().tokenizer
    t, bias = np.exp(data["t_prime"]), data["bias"]
    for k, text in enumerate(data["texts"]):
        assert text["ids"] == tokenizer([LABELS[k]])[0].tolist()
        assert text["pieces"] == tokenizer.tokenize(LABELS[k])
        mask = np.arange(len(text["ids"]))[None] < text["length"]
        z = text_tower(Wide(truth.params), model().config.text, truth.inputs["text.ids"][k : k + 1], mask=mask)[0]
        z = z / np.sqrt(z @ z)
        close(text["masked_logit"], t * z @ truth["zimg"][0] + bias, rtol=1e-12)
    words = data["texts"][0]["words"]
    assert [word["word"] for word in words] == LABELS[0].split()
    rest = " ".join(LABELS[0].split()[1:])
    z = np.float64(model().encode_text([rest])[0])
    close(words[0]["change"], data["logits"][0] - (t * z @ truth["zimg"][0] + bias), atol=PORT)
    assert data["texts"][2]["words"] == []


def test_what_is_written_without_javascript():
    shown = re.findall(r'class="prob number">([^<]*)<', page())
    assert shown == [f"{p:.4f}" if p >= 0.001 else f"{p:.1e}".replace("e-0", "e-") for p in golden()["probs"][0]]
    assert page().count('<section class="panel') == len(PANELS) == 11
    for panel in PANELS:
        assert f'id="panel-{panel.number}"' in page()
        assert len(panel.sentence.split(". ")) == 1
    stored = {name: restored(data_of(page())["arrays"][name]) for name in ("distance", "patch_norms")}
    layer, head = np.unravel_index(stored["distance"].argmin(), stored["distance"].shape)
    assert f"Least distance of all: layer {layer + 1}, head {head + 1}, {stored['distance'].min():.1f}" in page()
    assert f"longest: {name_of(stored['patch_norms'].argmax())}." in page()


class Reader(HTMLParser):
    """What a browser would fetch, and what is left open."""

    def __init__(self):
        super().__init__()
        self.fetched, self.ids, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.ids += [named["id"]] if "id" in named else []
        places = [named[key] for key in ("src", "href", "srcset", "action", "data") if named.get(key)]
        self.fetched += [place for place in places if not place.startswith(("data:image/", "#"))]

    def handle_data(self, text):
        self.text += text


def test_one_file_that_fetches_nothing():
    reader = Reader()
    reader.feed(page())
    assert reader.fetched == []
    assert len(reader.ids) == len(set(reader.ids))
    script = page()[page().rindex("<script>") :]
    assert not re.search(r"\bimport\b|\bfetch\(|https?:|XMLHttpRequest", script)
    assert "@import" not in page() and "url(http" not in page()


def test_labels_cannot_end_a_script_or_become_tags():
    assert "</script> &" not in page() and "<b>circle</b>" not in page()
    assert LABELS[1] in data_of(page())["labels"]


def test_weights_are_the_models(data):
    found = unpack(data["live"]["names"], data["live"]["width"], carried(page(), "weights"))
    assert data["live"]["width"] == 2 and list(found) == list(golden().params)
    for name, values in found.items():
        np.testing.assert_array_equal(values, np.float32(golden().params[name]))


def test_size_with_the_model():
    assert len(page()) < 14e6


def test_modules_are_bundled_once_and_in_order():
    script = module.bundle()
    names = re.findall(r"^const (module_\w+) = \(\(\) => \{$", script, re.MULTILINE)
    assert len(names) == len(set(names)) and names[-1] == "module_view_main"
    for i, name in enumerate(names):
        used = re.findall(rf"^const .* = ({name});$", script, re.MULTILINE)
        assert used or i == len(names) - 1, f"{name} is imported by nothing"
        assert all(script.index(f"= {name};") > script.index(f"const {name} =") for _ in used)
    assert "export " not in script.replace("Export", "")


def small(**changes):
    image = {"width": 36, "depth": 2, "num_heads": 3, "mlp_dim": 56, "image_size": 38, "patch_size": 7} | changes
    text = model().config.text
    config = SigLIPConfig(
        ImageConfig(**image), TextConfig(28, 3, 4, 44, text.seq_len, text.vocab_size, projection_dim=36)
    )
    return SigLIP(config, random_params(config, 1), model().processor.__class__(38, 38), model().tokenizer)


def test_a_model_whose_patches_do_not_divide_its_picture():
    html = module.explain(small(), str(PICTURE), ["a", "b"], ["a", "b"])
    data = data_of(html)
    assert (data["rows"], data["columns"], len(data["queries"])) == (5, 5, 25)
    assert "live" not in data and "npsiglip-weights" not in html.split("<script>")[0]


def test_models_that_have_no_page():
    with pytest.raises(InputError, match="tokenizer"):
        module.explain(SigLIP(small().config, small()._params), str(PICTURE), ["a"], ["a"])
    config = SigLIPConfig(small().config.image, None)
    with pytest.raises(InputError, match="both towers"):
        module.explain(SigLIP(config, random_params(config, 1)), str(PICTURE), ["a"], ["a"])
    with pytest.raises(InputError, match="NaFlex"):
        module.explain(small(naflex=True, image_size=35), str(PICTURE), ["a"], ["a"])


def test_what_can_live():
    assert can_live(model())
    assert not can_live(small())
    with pytest.raises(InputError, match="cannot run in a page"):
        module.explain(small(), str(PICTURE), ["a"], ["a"], live=True)
