"""Pictures on their way to a tower: the rows are those of the model, whatever the processor and the picture."""

import numpy as np
import pytest
from PIL import ExifTags, Image

import npsiglip
from npsiglip import ImageConfig, Index, SigLIPConfig, TextConfig
from npsiglip.collection.prepare import AHEAD, in_order
from npsiglip.collection.records import Failure
from npsiglip.params import random_params
from tests.helpers.collections import draw, draw_folder
from tests.helpers.golden_data import TINY


@pytest.fixture(scope="module")
def model():
    return npsiglip.SigLIP.from_pretrained(TINY)


def all_kinds(folder):
    """Pictures of other modes, upright and turned."""
    draw(folder / "rgb.png", 1, (40, 21))
    with Image.open(folder / "rgb.png") as image:
        for mode in ("L", "P", "RGBA", "LA", "1", "CMYK"):
            image.convert(mode).save(folder / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}")
        clear = image.copy()
        clear.putalpha(image.convert("L"))
        clear.save(folder / "clear.png")
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        image.save(folder / "turned.jpg", exif=exif)
        image.convert("P").save(folder / "transparent.gif", transparency=3)


@pytest.mark.parametrize("fast_decode", [False, True])
@pytest.mark.parametrize("name", ["siglip", "gap"])
def test_models_of_open_clip_and_timm(tmp_path, openclip_folders, name, fast_decode):
    """Whose processors resize a picture in its own mode. None of these is large enough to be decoded in part."""
    all_kinds(tmp_path / "photos")
    with Index.build(
        tmp_path / "photos", tmp_path / "index", str(openclip_folders[name]), fast_decode=fast_decode
    ) as index:
        assert len(index) == 10
        np.testing.assert_array_equal(index.vectors, index.model.encode_image(index.keys))
        assert {(record.width, record.height) for record in index.records()} == {(40, 21), (21, 40)}


def test_pictures_of_all_kinds(tmp_path, model):
    all_kinds(tmp_path / "photos")
    with Index.build(tmp_path / "photos", tmp_path / "index", model) as index:
        np.testing.assert_array_equal(index.vectors, model.encode_image(index.keys))


def test_naflex(tmp_path):
    photos = tmp_path / "photos"
    draw_folder(photos, 4)
    widths = {"width": 24, "depth": 1, "num_heads": 2, "mlp_dim": 20}
    image = ImageConfig(**widths, image_size=12, patch_size=3, naflex=True)
    config = SigLIPConfig(image, TextConfig(**widths, seq_len=4, vocab_size=20, projection_dim=24))
    loaded = npsiglip.SigLIP(config, random_params(config, 1))
    for size in ((60, 20), (9, 44)):
        draw(photos / f"{size[0]}.png", 3, size)
    with Index.build([photos], tmp_path / "index", loaded) as index:
        np.testing.assert_array_equal(index.vectors, loaded.encode_image(index.keys))
        assert index.manifest.model == "in memory"


def test_fast_decode(tmp_path, model):
    ramp = np.add.outer(np.arange(600) // 3, np.arange(800) // 20).astype(np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.stack([ramp] * 3, axis=2)).save(tmp_path / "photos" / "x.jpg")
    plain = Index.build(tmp_path / "photos", tmp_path / "plain", model)
    fast = Index.build(tmp_path / "photos", tmp_path / "fast", model, fast_decode=True)
    record = next(fast.records())
    assert (record.width, record.height) == (800, 600)
    assert 0.99 < float((plain.vectors @ fast.vectors.T).item()) < 1
    assert fast.add(tmp_path / "photos").same == 1


def test_no_more_is_under_way_than_keeps_the_threads_busy():
    begun = []

    def tasks():
        for i in range(100):
            begun.append(i)
            yield Failure(str(i), "why") if i % 10 == 0 else (i, None)

    for done, _ in enumerate(in_order(tasks(), lambda task: Failure(str(task[0]), "done"), 3), 1):
        assert len(begun) - done <= 3 * AHEAD
    assert done == 100


def test_results_are_in_order_and_an_error_ends_it():
    found = in_order(((i, None) for i in range(50)), lambda task: Failure(str(task[0]), "x"), 4)
    assert [failure.key for failure in found] == [str(i) for i in range(50)]

    def work(task):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(in_order(((i, None) for i in range(50)), work, 4))
