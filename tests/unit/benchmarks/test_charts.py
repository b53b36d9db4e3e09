"""The charts of `make scale`."""

import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks.charts import Chart, _scale, lines_of, svg

CHART = Chart("memory", "Memory <MiB>", "triggers", {"http": "http", "cron": "cron"}, limit=256)


def run(label: str, triggers: int, **numbers: float) -> dict[str, object]:
    return {"label": label, "size": {"triggers": triggers}, "numbers": numbers}


def test_a_chart_has_a_line_for_each_figure_before_and_after() -> None:
    runs = [run("after", 1_000, http=90, cron=80), run("after", 200, http=70), run("before", 200, http=300)]
    lines = lines_of(CHART, runs)
    assert lines == {"http before": [(200, 300)], "http after": [(200, 70), (1_000, 90)], "cron after": [(1_000, 80)]}
    drawn = ElementTree.fromstring(svg(CHART, lines))
    space = "{http://www.w3.org/2000/svg}"
    assert drawn.findtext(f"{space}title") == "Memory <MiB>"
    said = [circle.findtext(f"{space}title") for circle in drawn.iter(f"{space}circle")]
    assert said == ["http before, 200: 300", "http after, 200: 70", "http after, 1000: 90", "cron after, 1000: 80"]


@pytest.mark.parametrize(("most", "axis"), [(256, (300, 100)), (2.4, (2.5, 0.5)), (0, (1, 0.2)), (10, (10, 2))])
def test_an_axis_has_round_marks(most: float, axis: tuple[float, float]) -> None:
    assert _scale(most) == pytest.approx(axis)
