"""Pictures by another hand: as many as asked for, the same for a seed, and of the colours and shapes they claim."""

import colorsys

import numpy as np
import pytest

try:
    from benchmarks import other_hand as other
except ImportError:  # skipped one by one: a file that skips itself is one in which pytest collects nothing, an error
    pytestmark = pytest.mark.skip("benchmarks/other_hand.py draws with matplotlib")

COUNT, SEED = 2, 7
# Hue in degrees, from and to, around the circle. Brown is a dark orange, pink a pale red or past purple.
HUES = {
    "red": (340, 10),
    "orange": (14, 42),
    "yellow": (43, 62),
    "green": (85, 165),
    "blue": (200, 245),
    "purple": (255, 305),
    "pink": (305, 358),
    "brown": (8, 36),
}


@pytest.fixture(scope="module")
def drawn():
    return other.other_pictures(COUNT, SEED)


def object_mask(image):
    """Where the colour has more chroma than any background: [S, S], bool."""
    channels = [np.asarray(channel) for channel in image.split()]
    return np.maximum.reduce(channels) - np.minimum.reduce(channels) > 55


def main_colour(image):
    """Median colour of the object: hue in degrees, saturation, value."""
    hue, saturation, value = colorsys.rgb_to_hsv(*np.median(np.asarray(image)[object_mask(image)], axis=0) / 255)
    return 360 * hue, saturation, value


def test_all_classes_as_often_as_asked_for(drawn):
    images, labels = drawn
    assert other.COLOURS == ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
    assert other.SHAPES == ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
    assert len(images) == 64 * COUNT
    np.testing.assert_array_equal(np.bincount(labels), np.full(64, COUNT))
    assert {(image.mode, image.size) for image in images} == {("RGB", (256, 256))}
    assert len({image.tobytes() for image in images}) == len(images)


def test_captions_name_the_classes():
    assert other.CAPTIONS[0] == "a red circle"
    assert other.CAPTIONS[11] == "an orange star"
    assert other.CAPTIONS[63] == "a brown moon"
    assert len(set(other.CAPTIONS)) == 64


def test_every_style_of_every_colour_and_shape():
    labels = np.arange(64)
    styles = np.stack([other.style_of(labels, k) for k in range(5)], 1)
    np.testing.assert_array_equal(np.sort(styles, axis=1), np.tile(np.arange(5), (64, 1)))


def test_a_picture_depends_on_class_number_and_seed_alone(drawn):
    """So a class begins with the same pictures however many there are."""
    images, labels = drawn
    for i in range(0, len(images), 9):  # either number of a class
        label, index = int(labels[i]), i % COUNT
        assert other.draw(label, index, SEED).tobytes() == images[i].tobytes()
    assert other.draw(0, 0, SEED + 1).tobytes() != images[0].tobytes()


def test_objects_have_their_colour(drawn):
    for image, label in zip(*drawn, strict=True):
        name = other.CAPTIONS[label]
        hue, saturation, value = main_colour(image)
        low, high = HUES[other.COLOURS[label // 8]]
        assert (hue - low) % 360 <= (high - low) % 360, (name, hue)
        if "brown" in name:
            assert value < 0.75, (name, value)
        if "orange" in name:
            assert value > 0.75, (name, value)
        if "red" in name:
            assert saturation > 0.5, (name, saturation)


def test_objects_are_large_and_whole(drawn):
    """Something of a fair size, that does not touch the sides."""
    for image, label in zip(*drawn, strict=True):
        mask = object_mask(image)
        assert mask.mean() > 0.008, other.CAPTIONS[label]
        assert not (mask[:16].any() or mask[-16:].any() or mask[:, :16].any() or mask[:, -16:].any())


@pytest.mark.parametrize(
    ("shape", "least", "most"),
    [("circle", 0.77, 0.8), ("square", 0.95, 1), ("triangle", 0.45, 0.62), ("star", 0.27, 0.5), ("heart", 0.5, 0.72),
     ("cross", 0.4, 0.7), ("ring", 0.36, 0.62), ("moon", 0.2, 0.55)],
)  # fmt: skip
def test_shapes_fill_their_boxes_as_they_should(shape, least, most):
    """Upright, the area of a shape over that of the box around it; a ring's has a hole."""
    rng = np.random.default_rng(SEED)
    for _ in range(4):
        figure = other.new_figure()
        outline = other.MAKERS[shape][0](rng)
        box = outline.get_extents()
        axes = figure.add_axes((0, 0, 1, 1), xlim=(box.x0, box.x1), ylim=(box.y0, box.y1))
        axes.set_axis_off()
        other.fill(axes, outline, fc="black")
        figure.canvas.draw()
        covered = np.asarray(figure.canvas.buffer_rgba())[..., 0] < 128
        assert least <= covered.mean() <= most
        if shape in ("circle", "square", "star", "heart", "cross", "ring"):
            assert covered[128, 128] == (shape != "ring")
