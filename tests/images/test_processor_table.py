"""processor.py and decode.py: the truth table of docs/divergences.md, tried row by row."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from golden.pictures import ORIENTATION, picture
from npsiglip.errors import InputError
from npsiglip.images.decode import flatten_images
from npsiglip.images.processor import ImageProcessor
from tests.helpers.golden_data import ROOT
from tests.helpers.images import SMALL

U8 = np.uint8

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*grey picture of 16 bits"),  # once in a process: tests/images/test_files.py
    pytest.mark.filterwarnings("ignore:.*picture of floats"),
]


def table_of_the_docs():
    """{input: what npsiglip does}, from the section "## Images" of the docs."""
    sections = [
        section
        for page in sorted((ROOT / "docs").glob("*.md"))
        for section in page.read_text(encoding="utf-8").split("\n## ")
        if section.removeprefix("## ").startswith("Images\n")
    ]
    assert len(sections) == 1, "expected one section '## Images' in docs/*.md"
    rows = [line.strip("|").split("|") for line in sections[0].splitlines() if line.startswith("|")]
    assert rows[0][-1].strip() == "npsiglip"
    return {row[0].strip(): row[-1].strip() for row in rows[2:]}


RED, BLACK, WHITE, GREY = (200, 0, 0), (0, 0, 0), (255, 255, 255), (90, 90, 90)


HALVES = np.zeros((4, 6, 3), U8)


HALVES[:, :3] = 255  # the left half is white: the upper half once turned by orientation 6


def saved(folder, image, name="x.png", **options):
    image.save(folder / name, **options)
    return folder / name


def exif6():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return exif


def red(mode, transparency=None, alpha=0):
    """A red picture, all of it transparent in one way or another."""
    if mode == "PA":
        image = Image.frombytes("PA", (4, 4), bytes([5, alpha]) * 16)
        image.putpalette(bytes(RED) * 256)
        return image
    if mode == "P":
        image = Image.new("P", (4, 4), 5)
        image.putpalette(bytes(RED) * 256)
        image.info["transparency"] = transparency
        return image
    return Image.new("RGBA", (4, 4), (*RED, alpha)).convert(mode)


def colour_of(image):
    """The one colour that an image becomes."""
    resized = ImageProcessor(2, 3).resize(image).reshape(-1, 3)
    assert (resized == resized[0]).all()
    return tuple(int(c) for c in resized[0])


def outcome(image, **names):
    """The name of the colour that an image becomes, or "refused"."""
    try:
        colour = colour_of(image)
    except InputError:
        return "refused"
    return {colour: name.replace("_", " ") for name, colour in names.items()}.get(colour, str(colour))


def half_turned(image):
    resized = ImageProcessor(4, 4, resample=0).resize(image)[..., 0]
    above, left = np.zeros((4, 4)), np.zeros((4, 4))
    above[:2], left[:, :2] = 255, 255
    return "upright" if (resized == above).all() else "as stored" if (resized == left).all() else "?"


def one(outcomes):
    """What all of several variants come out as."""
    (only,) = set(outcomes)
    return only


def transparent(images):
    return one(outcome(image, on_white=WHITE, alpha_dropped=RED) for image in images)


def exif_image(folder):
    with Image.open(saved(folder, Image.fromarray(HALVES), exif=exif6())) as image:
        return half_turned(image)


def grey_path_with_alpha(folder):
    return outcome(saved(folder, Image.new("LA", (4, 4), (90, 0))), alpha_dropped=GREY, on_white=WHITE)


def one_transparent_colour(folder):
    yield saved(folder, red("P", 5), "a.png", transparency=5)
    yield saved(folder, Image.new("RGB", (4, 4), RED), "b.png", transparency=RED)
    yield saved(folder, red("P", 5), "c.gif", transparency=5)


def converted():
    brown = Image.new("RGB", (4, 4), (204, 102, 51))  # in the web palette, which convert("P") takes
    for mode in ("P", "CMYK", "YCbCr", "HSV", "LAB"):
        near = np.abs(np.subtract(colour_of(brown.convert(mode)), (204, 102, 51))).max() <= 3
        yield "converted" if near else mode
    yield outcome(Image.new("L", (4, 4), 90), converted=GREY)
    yield outcome(Image.new("1", (4, 4), 1), converted=WHITE)


def as_is(images):
    expected = ImageProcessor(8, 8).resize(Image.fromarray(picture(1, 6, 7)))
    return one("as is" if np.array_equal(ImageProcessor(8, 8).resize(image), expected) else "?" for image in images)


def channels_first(folder):
    array = np.zeros((3, 5, 3), U8)
    array[0] = 200
    with pytest.warns(UserWarning, match="ambiguous"):
        return outcome(array, channels_first=RED)


def with_limit(folder):
    path = saved(folder, Image.new("RGB", (4, 4), RED))
    before = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = 10
        return outcome(path, read=RED)
    finally:
        Image.MAX_IMAGE_PIXELS = before


def grey_array(dtype, value=90):
    return np.full((5, 6, 3), value, dtype)


def empty_list(folder):
    with pytest.raises(InputError):
        SMALL([])
    return "refused"


def nested(folder):
    a = picture(1, 5, 6)
    return (
        "flattened" if SMALL([[a], [a, a]]).shape == SMALL([a[None], np.stack([a, a])]).shape == (3, 3, 10, 7) else "?"
    )


def animation(folder):
    frames = Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), GREY)
    paths = [saved(folder, frames[0], f"x.{kind}", save_all=True, append_images=frames[1:]) for kind in ("png", "gif")]
    return one(outcome(path, first_frame=RED) for path in paths)


PROBES = {
    "PIL image, RGB": lambda folder: as_is([Image.fromarray(picture(1, 6, 7))]),
    "PIL image with an EXIF orientation": exif_image,
    "path, EXIF orientation": lambda folder: half_turned(saved(folder, Image.fromarray(HALVES), exif=exif6())),
    "path, alpha channel (RGBA, LA)": lambda folder: one(
        [transparent([saved(folder, red("RGBA"))]), grey_path_with_alpha(folder)]
    ),
    "path, palette with an alpha per entry": lambda folder: transparent(
        [saved(folder, red("P", bytes(256)), transparency=bytes(256))]
    ),
    "path, one transparent colour (PNG, GIF)": lambda folder: transparent(one_transparent_colour(folder)),
    "PIL image with alpha (RGBA, LA, PA)": lambda folder: transparent([red("RGBA"), red("LA"), red("PA")]),
    "PIL image with a transparent colour or palette": lambda folder: transparent([red("P", 5), red("P", bytes(256))]),
    "PIL image, L, 1, P, CMYK, YCbCr, HSV, LAB": lambda folder: one(converted()),
    "PIL image, I;16, I, F": lambda folder: one(
        outcome(Image.new(mode, (4, 4), 300), **{"cut off at 255": WHITE}) for mode in ("I;16", "I", "F")
    ),
    "path, 16-bit grey PNG": lambda folder: outcome(
        saved(folder, Image.new("I;16", (4, 4), 300)), **{"cut off at 255": WHITE}
    ),
    "uint8 array [H, W, 3] or [3, H, W]": lambda folder: as_is([picture(1, 6, 7), picture(1, 6, 7).transpose(2, 0, 1)]),
    "uint8 array [3, W, 3]": channels_first,
    "uint8 array [H, W, 4] or [4, H, W]": lambda folder: transparent(
        [np.zeros((5, 6, 4), U8) + U8([*RED, 0]), np.zeros((4, 5, 6), U8) + U8([*RED, 0])[:, None, None]]
    ),
    "uint8 array [H, W, 1]": lambda folder: outcome(np.full((5, 6, 1), 90, U8), grey=GREY),
    "uint8 array [H, W]": lambda folder: outcome(np.full((5, 6), 90, U8), grey=GREY),
    "integer array, 0..255": lambda folder: outcome(grey_array(np.int64), as_uint8=GREY),
    "integer array of 16 bits, 0..255": lambda folder: one(
        outcome(grey_array(dtype), as_uint8=GREY) for dtype in (np.uint16, np.int16, ">u2")
    ),
    "integer array, beyond 0..255": lambda folder: outcome(grey_array(np.int64, 300)),
    "bool array": lambda folder: outcome(grey_array(bool, True)),
    "float array, whole numbers 0..255": lambda folder: outcome(grey_array(np.float32), as_uint8=GREY),
    "float array, 0..1": lambda folder: outcome(grey_array(np.float32, 0.4), scaled_twice=BLACK),
    "no pixels (height or width 0)": lambda folder: one(
        outcome(image, black=BLACK) for image in (np.zeros((0, 6, 3), U8), Image.new("RGB", (0, 3)))
    ),
    "empty list": empty_list,
    "nested lists, lists of batches": nested,
    "path, animation": animation,
    "path, more than `PIL.Image.MAX_IMAGE_PIXELS`": with_limit,
    "bytes, file object": lambda folder: one(
        outcome(content, as_a_path=RED)
        for content in (saved(folder, red("RGBA")).read_bytes(), io.BytesIO((folder / "x.png").read_bytes()))
    ),
    "generator": lambda folder: as_is(list(flatten_images(Image.fromarray(picture(1, 6, 7)) for _ in range(2)))),
    "pathlib.Path": lambda folder: outcome(Path(saved(folder, Image.new("RGB", (4, 4), RED))), as_str=RED),
    "URL, base64 string": lambda folder: one(outcome(text) for text in ("https://example.org/x.png", "iVBORw0KGgo=")),
}


def test_the_table_has_the_inputs_that_are_tried():
    assert list(table_of_the_docs()) == list(PROBES)


@pytest.mark.parametrize("name", PROBES)
def test_the_column_npsiglip_of_the_table(name, tmp_path):
    assert PROBES[name](tmp_path) == table_of_the_docs()[name]
