"""Pictures of the lessons: well-formed, described, and where the numbers say."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from refembed.html.figures import BLUE, DARKEST, ORANGE, Figure, bars, curves, heatmap, ladder, plane, ticks

SVG = "{http://www.w3.org/2000/svg}"
FIGURES = {
    "heatmap": heatmap([[1.0, -2.0]], ["<a>"], ["x", "y"], "two cells & a sign"),
    "heatmap of NaN": heatmap([[np.nan, 0.0]], ["a"], ["", ""], "no number", numbers=False),
    "bars": bars([1.0, -0.5], ["<b>", "c"], "two bars", name="length"),
    "curves": curves([("x & y", [0, 1], [2, 2]), ("", [0, 1], [3, 4])], "two lines", x_name="x", y_name="y"),
    "plane": plane([("<p>", 1.0, 0.0), ("q", 0.0, -2.0)], "two arrows"),
    "ladder": ladder([("bytes", [("<", 0, 1), ("b", 1, 2)]), ("pieces", [("<b", 0, 2)])], "two rows"),
}


def elements(figure: Figure, tag: str) -> list[ET.Element]:
    return ET.fromstring(figure.svg()).findall(f".//{SVG}{tag}")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_well_formed_described_and_has_a_size(name: str) -> None:
    figure = FIGURES[name]
    root = ET.fromstring(figure.svg())
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == root.findtext(f"{SVG}title") == figure.alt
    assert figure.width > 40
    assert figure.height > 20
    assert "nan" not in re.sub(r"<title>.*?</title>", "", figure.svg())
    assert figure.alt in repr(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_drawn_outside(name: str) -> None:
    figure = FIGURES[name]
    places = [
        (float(e.attrib[x]), float(e.attrib[y]))
        for tag, x, y in (("text", "x", "y"), ("rect", "x", "y"), ("circle", "cx", "cy"), ("line", "x1", "y1"))
        for e in elements(figure, tag)
        if x in e.attrib
    ]
    assert places
    assert all(0 <= x <= figure.width and 0 <= y <= figure.height for x, y in places)


def test_a_cell_is_blue_above_zero_orange_below_and_the_stronger_the_larger() -> None:
    a, b, c = elements(heatmap([[1.0, -2.0, 0.0]], ["r"], ["x", "y", "z"], "three"), "rect")
    assert [e.attrib["fill"] for e in (a, b)] == [BLUE, ORANGE]
    assert [float(e.attrib["fill-opacity"]) for e in (a, b, c)] == [DARKEST / 2, DARKEST, 0.0]


def test_bars_are_as_long_as_their_numbers() -> None:
    a, b = elements(bars([3.0, 1.0], ["a", "b"], "two"), "rect")
    assert float(a.attrib["width"]) == pytest.approx(3 * float(b.attrib["width"]), rel=1e-3)


def test_arrows_end_where_their_numbers_say() -> None:
    figure = plane([("a", 3.0, 4.0)], "one", size=300.0)
    arrow = next(e for e in elements(figure, "line") if e.attrib["stroke"] == BLUE)
    x, y = float(arrow.attrib["x2"]) - 210, 150 - float(arrow.attrib["y2"])
    assert math.degrees(math.atan2(y, x)) == pytest.approx(math.degrees(math.atan2(4, 3)), abs=0.1)


def test_axes_have_round_numbers() -> None:
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-4.0, 3.0) == [-4.0, -2.0, 0.0, 2.0]
