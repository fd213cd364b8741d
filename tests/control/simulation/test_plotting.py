from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from vdag.control.simulation import simulate
from vdag.control.simulation.fleets import random_scenario
from vdag.control.simulation.plotting import draw, write_plot
from vdag.errors import ConfigError

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def outcomes():
    scenario = random_scenario(7, 3, 3, duration_s=15.0)
    return [simulate(scenario, policy, 7) for policy in ("golden", "static")]


def test_a_plot_is_svg_with_a_line_per_policy_in_each_panel(outcomes):
    root = ElementTree.fromstring(draw(outcomes))
    lines = root.findall(f"{SVG}polyline")
    assert len(lines) == 4 * len(outcomes)
    width, height = float(root.get("width")), float(root.get("height"))
    for line in lines:
        points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        assert points
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
        assert [x for x, _ in points] == sorted(x for x, _ in points)
    texts = [element.text for element in root.findall(f"{SVG}text")]
    assert {"golden", "static"} <= set(texts)


def test_a_page_has_the_plot_in_it(outcomes, tmp_path: Path):
    path = tmp_path / "plot.html"
    write_plot(outcomes, path)
    assert draw(outcomes) in path.read_text()


def test_a_plot_of_another_kind_is_refused(outcomes, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"plot.png is neither .svg nor .html$"):
        write_plot(outcomes, tmp_path / "plot.png")
