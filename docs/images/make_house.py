"""Draws docs/images/house.svg, the map of the rooms, from the code's own imports: `python docs/images/make_house.py`.

Floors and rooms are those of tests/helpers/floors.py. An arrow leads from a room to one that it imports; where it gets
there through another room as well, there is none: with `cli -> train -> model` drawn, `cli -> model` is left out.

The layout is Sugiyama's: an arrow that passes a floor gets a place there, floors are ordered so that few arrows cross,
and places move towards those that they are tied to. Everything is in a fixed order, so the same imports give the same
bytes.
"""

import sys
from itertools import pairwise
from pathlib import Path
from textwrap import wrap

sys.path.insert(0, str(Path(__file__).parents[2]))  # the root of the repository

from tests.helpers.floors import FLOORS, GRAPH, ROOMS, place

TARGET = Path(__file__).with_name("house.svg")
WIDTH, GAP, RISE, HEAD, LINE = 142, 18, 34, 26, 13  # a box, between boxes, between floors, a box's title, a line in it
PASS = 14  # the place of an arrow that passes a floor
LETTERS = 25  # of a line in a box


def imports_of_rooms():
    """room -> the rooms that it imports."""
    found = {room: set() for rooms in FLOORS for room in rooms}
    for name, others in GRAPH.items():
        for other in others - {"npsiglip"}:
            above, below = ROOMS[place(name)][1], ROOMS[place(other)][1]
            if above != below:
                found[above].add(below)
    return found


def reached(graph, room):
    """All rooms that a room gets to."""
    found, left = set(), list(graph[room])
    while left:
        if (other := left.pop()) not in found:
            found.add(other)
            left += graph[other]
    return found


def without_detours(graph):
    """The arrows to draw: of (above, below) those that no other arrows replace."""
    return sorted(
        (room, below)
        for room, others in graph.items()
        for below in others
        if not any(below in reached(graph, other) for other in others)
    )


def chains(arrows, floor_of):
    """Each arrow as rooms and places on the floors that it passes, from above; a place is (above, below, floor)."""
    return [
        [above, *((above, below, i) for i in range(floor_of[above] - 1, floor_of[below], -1)), below]
        for above, below in arrows
    ]


def neighbours_of(paths):
    """node -> the nodes above it and below it."""
    found = {}
    for path in paths:
        for above, below in pairwise(path):
            found.setdefault(above, []).append(below)
            found.setdefault(below, []).append(above)
    return found


def width_of(node):
    """How much room a node takes."""
    return PASS if isinstance(node, tuple) else WIDTH


def spread(floor, wanted):
    """Places x for the nodes of a floor in their order, near the wanted ones, none over another."""
    x = {}
    for i, node in enumerate(floor):
        before = floor[i - 1] if i else None
        least = x[before] + (width_of(before) + width_of(node)) / 2 + GAP if i else wanted[node]
        x[node] = max(wanted[node], least)
    shift = sum(wanted[node] - x[node] for node in floor) / len(floor)
    return {node: value + shift for node, value in x.items()}


def mean(values):
    """Of some numbers; of none, 0."""
    return sum(values) / len(values) if values else 0.0


def layout(floors, near):
    """x of every node."""
    x = {node: 160.0 * (i - (len(floor) - 1) / 2) for floor in floors for i, node in enumerate(floor)}
    for sweep in range(60):
        for i in range(len(floors)) if sweep % 2 else reversed(range(len(floors))):
            wanted = {
                node: sum(x[o] for o in near[node]) / len(near[node]) if near.get(node) else 0 for node in floors[i]
            }
            if sweep < 40:  # afterwards the order stays, and only places move
                floors[i].sort(key=lambda node: (wanted[node], str(node)))
            x |= spread(floors[i], wanted)
    return x


def lines_of(room, places):
    """What stands in a room's box below its name: its modules, if it is not one folder."""
    modules = [name if name.endswith("/") else f"{name}.py" for name in places.split()]
    return [] if modules == [f"{room}/"] else wrap(", ".join(modules), LETTERS)


def curve(points):
    """A path through points, upright at each of them."""
    path = f"M{points[0][0]:.0f} {points[0][1]:.0f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        path += f" C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {y1:.0f}"
    return path


def drawing():
    """The picture, as the text of an SVG file."""
    floor_of = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
    lines = {room: lines_of(room, places) for rooms in FLOORS for room, places in rooms.items()}
    paths = chains(without_detours(imports_of_rooms()), floor_of)
    floors = [list(rooms) for rooms in FLOORS]
    for path in paths:
        for node in path[1:-1]:
            floors[node[2]].append(node)
    x = layout(floors, neighbours_of(paths))
    left = min(x[node] - width_of(node) / 2 for node in x) - 70
    right = max(x[node] + width_of(node) / 2 for node in x) + 20

    height = [HEAD + LINE * max(len(lines[room]) for room in rooms) + 6 for rooms in FLOORS]
    top = {}
    y = 16
    for i in reversed(range(len(FLOORS))):
        top[i] = y
        y += height[i] + RISE
    total = y - RISE + 16

    def size(node):
        return height[node[2]] if isinstance(node, tuple) else HEAD + LINE * len(lines[node]) + 6

    def floor(node):
        return node[2] if isinstance(node, tuple) else floor_of[node]

    def box_top(node):
        return top[floor(node)] + (height[floor(node)] - size(node)) / 2

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:.0f} 0 {right - left:.0f} {total:.0f}" '
        f'width="{right - left:.0f}" height="{total:.0f}" font-family="Helvetica, Arial, sans-serif">',
        "<title>The rooms of npsiglip, and which imports which</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.5 L8 4 L0 7.5 z" fill="#57606a"/></marker></defs>',
        f'<rect x="{left:.0f}" y="0" width="{right - left:.0f}" height="{total:.0f}" rx="10" fill="#ffffff"/>',
    ]
    for i in range(len(FLOORS)):
        middle = top[i] + height[i] / 2
        if i % 2:
            out.append(
                f'<rect x="{left:.0f}" y="{top[i] - RISE / 2:.0f}" width="{right - left:.0f}" '
                f'height="{height[i] + RISE:.0f}" fill="#f6f8fa"/>'
            )
        out.append(f'<text x="{left + 14:.0f}" y="{middle + 4:.0f}" font-size="12" fill="#8c959f">floor {i}</text>')
    for path in paths:
        points = [(x[path[0]], box_top(path[0]) + size(path[0]))]
        for node in path[1:-1]:
            points += [(x[node], box_top(node)), (x[node], box_top(node) + size(node))]
        points.append((x[path[-1]], box_top(path[-1]) - 1))
        out.append(
            f'<path d="{curve(points)}" fill="none" stroke="#57606a" stroke-width="1.2" marker-end="url(#tip)"/>'
        )
    for room in floor_of:
        x0, y0 = x[room] - WIDTH / 2, box_top(room)
        fill = {"reference": "#dafbe1", "kernels": "#fff8c5"}.get(room, "#ddf4ff")
        out.append(
            f'<rect x="{x0:.0f}" y="{y0:.0f}" width="{WIDTH}" height="{size(room):.0f}" rx="6" fill="{fill}" '
            'stroke="#57606a" stroke-width="1"/>'
        )
        name = room if lines[room] else f"{room}/"
        out.append(
            f'<text x="{x[room]:.0f}" y="{y0 + 20:.0f}" font-size="14" font-weight="bold" text-anchor="middle" '
            f'fill="#1f2328">{name}</text>'
        )
        for i, line in enumerate(lines[room]):
            out.append(
                f'<text x="{x[room]:.0f}" y="{y0 + HEAD + 8 + LINE * i:.0f}" font-size="10.5" text-anchor="middle" '
                f'fill="#424a53">{line}</text>'
            )
    return "\n".join([*out, "</svg>\n"])


if __name__ == "__main__":
    TARGET.write_text(drawing(), encoding="utf-8")
