"""What people do on the page: classify, search, compare, by mouse and by keyboard; in the dark, and on a phone."""

import re

import pytest
from playwright.sync_api import expect

import npsiglip
from tests.helpers.golden_data import ROOT

CIRCLE = ROOT / "docs/images/world-green-circle.png"
SEEN = {}


def choose(page):
    page.set_input_files("#file", str(CIRCLE))
    page.wait_for_selector("#scores li:visible, #gallery li:visible, #comparison table:visible")


def test_scores_are_the_library_s_and_change_while_one_types(open_page):
    page = open_page()
    choose(page)
    model = npsiglip.SigLIP.from_pretrained("builtin")
    labels = page.input_value("#labels").split("\n")
    right = [each["label"] for each in model.classify(CIRCLE, labels)[0]]
    assert page.locator("#scores .name").all_inner_texts() == right
    assert page.locator("#scores .value").first.inner_text() == "98.8 %"
    page.fill("#labels", "a brown ring")
    expect(page.locator("#scores .name")).to_have_text(["a brown ring"])
    page.fill("#template", "no place")
    expect(page.locator("#problem")).to_have_text(re.compile("exactly one {}"))
    page.fill("#template", "{}")
    expect(page.locator("#problem")).to_be_hidden()
    assert "do not add up to one" in page.inner_text("#why")
    page.select_option("#model", "tiny")
    expect(page.locator("#classify-said")).to_have_text(re.compile("Best: a brown ring"))


def test_a_picture_is_pasted(open_page):
    page = open_page()
    page.evaluate(
        """async () => {
            const blob = await (await fetch("/page/icon.svg")).blob();
            const canvas = document.createElement("canvas");
            canvas.getContext("2d").fillRect(0, 0, 90, 90);
            const png = await new Promise((done) => canvas.toBlob(done));
            const data = new DataTransfer();
            data.items.add(new File([png], "pasted.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
        }"""
    )
    page.wait_for_selector("#scores li")
    expect(page.locator("#preview")).to_have_attribute("alt", "the picture pasted.png")


def test_a_picture_is_dropped_and_a_text_is_refused(open_page):
    page = open_page()
    drop = """(kind) => {
        const data = new DataTransfer();
        data.items.add(new File(["not a picture"], "a.txt", { type: kind }));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
    }"""
    page.evaluate(drop, "text/plain")
    expect(page.locator("#problem")).to_have_text("a.txt is not a picture")
    choose(page)
    page.click("#remove")
    expect(page.locator("#classify-hint")).to_be_visible()


def test_a_photograph(open_page):
    page = open_page()
    page.click("#camera")
    page.click("#shot")
    page.wait_for_selector("#scores li")


def draw(page, *points):
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + points[0][0], box["y"] + points[0][1])
    page.mouse.down()
    for x, y in points[1:]:
        page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.up()


def test_draw_and_search_and_more_like_this(open_page):
    page = open_page("/#search")
    expect(page.locator("#index-about")).to_have_text(re.compile("10 images, embedded by builtin"))
    page.click("#draw")
    page.fill("#width", "60")
    draw(page, *[(150 + x, 150 + y) for y in range(-40, 41, 10) for x in (-40, 40)])
    page.wait_for_selector("#gallery img[src^=blob]")
    assert "only cosines" in page.inner_text("#index-about")
    page.click("#undo")
    page.uncheck("#with-picture")
    page.fill("#query", "a green circle")
    expect(page.locator("#gallery .said").first).to_have_text(re.compile("%"))
    expect(page.locator("#gallery .name").first).to_have_text("world-green-circle.png")
    page.click("text=More like this >> nth=0")
    expect(page.locator("#index-about")).to_have_text(re.compile("Like world-green-circle.png: 9 of"))
    assert "world-green-circle.png" not in page.locator("#gallery .name").all_inner_texts()


def test_compare_has_a_table_for_each_model(open_page):
    page = open_page("/#compare")
    choose(page)
    heads = page.locator("#comparison table").first.locator("thead th").all_inner_texts()
    assert heads == ["label", "cosine", "logit", "sigmoid", "softmax", "rank"]
    assert page.locator("#comparison h3").all_inner_texts() == ["en", "de", "Languages side by side"]
    assert page.locator("#comparison table").count() == 2 * 2 + 2
    page.uncheck("#compare-models input >> nth=1")
    expect(page.locator("#comparison table")).to_have_count(2 + 1)
    page.fill("#compare-labels", "a circle\na ring")
    expect(page.locator("#comparison table")).to_have_count(1)


def test_everything_by_keyboard(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-search"
    assert page.is_visible("#panel-search")
    page.keyboard.press("End")
    assert page.is_visible("#panel-compare")
    page.keyboard.press("Home")
    assert page.is_visible("#panel-classify")
    page.focus("#draw")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "canvas"
    for key in ("Space", "ArrowRight", "ArrowRight", "ArrowDown", "Space"):
        page.keyboard.press(key)
    page.wait_for_selector("#scores li")
    page.keyboard.press("Tab")
    shown = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert shown == "solid"
    page.focus("#tab-classify")
    page.keyboard.press("ArrowRight")
    page.focus("#query")
    page.keyboard.type("a brown ring")
    page.keyboard.press("Enter")
    page.wait_for_selector("#gallery li")
    page.focus("#gallery button >> nth=0")
    page.keyboard.press("Enter")
    expect(page.locator("#index-about")).to_have_text(re.compile("^Like "))


LOOKS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 360, "height": 740}},
    "large letters": {"viewport": {"width": 640, "height": 430}, "device_scale_factor": 2},
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("tab", ["classify", "search", "compare"])
def test_axe_finds_nothing_serious_and_nothing_sticks_out(open_page, look, tab):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(f"/#{tab}", **LOOKS[look])
    if tab == "search":
        page.fill("#query", "a ring")
    choose(page)
    page.click("#draw")
    page.wait_for_timeout(300)
    found = Axe().run(page).response["violations"]
    serious = [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")]
    assert serious == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    SEEN[look] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    if {"light", "dark"} <= set(SEEN):
        assert SEEN["light"] != SEEN["dark"]


def test_the_first_view_is_small(open_page, address):
    page = open_page()
    sizes = page.evaluate(
        "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
        ".map((each) => [each.name, each.transferSize])"
    )
    assert all(name.startswith(address) for name, _ in sizes)
    total = sum(size for _, size in sizes)
    assert 10_000 < total <= 150_000, sizes


def test_the_interface_for_programs(open_page):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page("/docs")
    page.click("summary:has-text('/v1/embeddings')")
    assert "encoding_format" in page.inner_text("details[open] pre >> nth=0")
    found = Axe().run(page).response["violations"]
    assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
