"""The map of the rooms: the picture is that of the real imports, and the page has a paragraph for each room."""

import re

from tests.docs.markdown import DOCS, load_script
from tests.helpers.floors import FLOORS

ROOMS = [room for rooms in FLOORS for room in rooms]

house = load_script(DOCS / "images" / "make_house.py")


def test_the_picture_is_up_to_date():
    drawn = (DOCS / "images" / "house.svg").read_text(encoding="utf-8")
    assert drawn == house.drawing(), "the imports have changed: python docs/images/make_house.py"


def test_every_room_has_a_paragraph():
    page = (DOCS / "house.md").read_text(encoding="utf-8")
    rooms = page.partition("\n## The rooms\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^- \*\*(\w+)\*\*:", rooms, re.MULTILINE)) == sorted(ROOMS)


def test_arrows_lead_everywhere_that_imports_do():
    graph = house.imports_of_rooms()
    drawn = {room: set() for room in graph}
    for above, below in house.without_detours(graph):
        drawn[above].add(below)
    assert all(house.reached(drawn, room) == house.reached(graph, room) for room in graph)


def test_detours_are_left_out():
    graph = {"cli": {"train", "model", "ground"}, "train": {"model"}, "model": {"ground"}, "ground": set()}
    assert house.without_detours(graph) == [("cli", "train"), ("model", "ground"), ("train", "model")]
