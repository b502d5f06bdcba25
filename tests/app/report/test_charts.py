"""Drawings are well-formed, say what they show, put marks where the numbers are, and survive any text."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.app.report import charts
from luthier.app.report.chart_parts import scale, smooth, thin, ticks

HOSTILE = "</svg><script>alert(1)</script>&\"'\u202e\x00\ud800"


def read(svg):
    tree = ET.fromstring(svg)
    assert tree.get("role") == "img" and tree.get("aria-label")
    return tree


def marks(tree, class_):
    return [e for e in tree.iter() if e.get("class") == class_]


def tips(tree):
    return [e.text for e in tree.iter("title")]


def test_a_dot_stands_where_its_value_is_and_its_whisker_spans_the_interval():
    dots = [charts.Dot("tuned", 0.5, 0.25, 1.0, "tuned"), charts.Dot("tfidf", 0.0, None, None, "tfidf")]
    tree = read(charts.dot_whisker("macro-F1", dots, 0, 1, lambda v: f"{v:.2f}", width=300))
    # gutter: 14 + 6.7 × 5 letters = 47.5; right: 12 + 6.7 × 4 digits = 38.8; so 0 is at 47.5 and 1 at 261.2
    low, high = 47.5, 261.2
    (circle,) = tree.iter("circle")
    assert float(circle.get("cx")) == pytest.approx((low + high) / 2, abs=0.05)
    (whisker,) = marks(tree, "whisker")
    ends = [float(x) for x in re.findall(r"M([\d.]+)", whisker.get("d"))]
    assert ends[0] == pytest.approx(low + 0.25 * (high - low), abs=0.1)
    assert ends[2] == pytest.approx(high, abs=0.1)
    assert tips(tree) == ["tuned: 0.50, interval 0.25 to 1.00", "tfidf: 0.00"]


def test_lines_keep_every_point_that_is_told_and_mark_the_best():
    training = charts.Line("training", [(s, 3.0 / s) for s in range(1, 21)], "raw")
    validation = charts.Line("validation", [(0, 3.0), (10, 1.0), (20, 1.5)], "validation", dotted=True)
    tree = read(charts.lines("loss", [training, validation], mark=(10, "best: step 10"), width=600))
    assert tips(tree) == ["validation at step 0: 3", "validation at step 10: 1", "validation at step 20: 1.5"]
    (best,) = [e for e in tree.iter("line") if e.get("class") == "best"]
    dots = [c for g in marks(tree, "validation") for c in g.iter("circle") if c.find("title") is not None]
    assert float(dots[1].get("cx")) == pytest.approx(float(best.get("x1")), abs=0.1)
    assert (
        float(dots[0].get("cy")) < float(dots[2].get("cy")) < float(dots[1].get("cy"))
    )  # higher is further up


def test_lines_of_nothing_one_point_and_what_is_not_a_number():
    read(charts.lines("loss", []))
    read(charts.lines("loss", [charts.Line("x", [(1, 2.0)], "raw")]))
    tree = read(charts.lines("loss", [charts.Line("x", [(1, 2.0), (2, float("nan")), (3, 1.0)], "raw")]))
    assert "nan" not in ET.tostring(tree, "unicode")


def test_a_long_run_stays_a_small_drawing():
    line = charts.Line("training", [(s, 1.0) for s in range(100_000)], "raw")
    assert len(charts.lines("loss", [line])) < 20_000


def test_every_count_of_the_matrix_is_there_once():
    labels, counts = ["a", "b", "c"], [[4, 1, 0], [0, 0, 2], [3, 0, 9]]
    tree = read(charts.heatmap("confusion", labels, counts))
    shown = [e.text for e in tree.iter("text") if (e.get("class") or "").startswith("count")]
    assert shown == ["4", "1", "2", "3", "9"]
    assert "a answered as b: 1 of 5 (20 %)" in tips(tree) and "c answered as a: 3 of 12 (25 %)" in tips(tree)
    assert len(marks(tree, "right")) == 2 and len(marks(tree, "wrong")) == 3
    assert len(marks(tree, "none")) == 1  # b was never right
    small = read(charts.heatmap("confusion", labels, counts, small=True))
    assert not list(small.iter("text")) and len(tips(small)) == 5


def test_bars_are_as_long_as_their_rows():
    tree = read(charts.bars("rules", [charts.Bar("read", 100, 0), charts.Bar("dedup", 25, 75)], width=400))
    kept = [float(e.get("width")) for e in marks(tree, "left")]
    (gone,) = marks(tree, "gone")
    assert kept[1] == pytest.approx(kept[0] / 4, abs=0.1)
    assert float(gone.get("width")) == pytest.approx(kept[0] * 0.75 - 1, abs=0.1)
    assert tips(tree)[1] == "dedup: 25 rows remained, 75 removed"


def test_flow_orders_by_making_and_leaves_out_what_a_longer_way_implies():
    nodes = [charts.Node(k, k, k, "d") for k in ("release", "rows", "model")]
    edges = [("rows", "model"), ("model", "release"), ("rows", "release"), ("elsewhere", "rows")]
    for upright, axis in ((False, "x"), (True, "y")):
        tree = read(charts.flow("lineage", nodes, edges, upright=upright))
        place = {g.get("class"): float(g.find("rect").get(axis)) for g in tree.iter("g")}
        assert place["node rows"] < place["node model"] < place["node release"]
        assert len(marks(tree, "edge")) == 2
    with pytest.raises(ValueError, match="circle"):
        charts.flow("x", nodes, [("rows", "model"), ("model", "rows")])


def test_no_text_can_leave_its_drawing():
    drawings = [
        charts.dot_whisker(HOSTILE, [charts.Dot(HOSTILE, 1, 0, 2, "tuned")], 0, 2),
        charts.lines(HOSTILE, [charts.Line(HOSTILE, [(1, 1.0), (2, 2.0)], "raw", True)], mark=(1, HOSTILE)),
        charts.heatmap(HOSTILE, [HOSTILE, "b"], [[1, 2], [3, 4]]),
        charts.bars(HOSTILE, [charts.Bar(HOSTILE, 1, 2)]),
        charts.flow(HOSTILE, [charts.Node(HOSTILE, "model", HOSTILE, HOSTILE)], []),
    ]
    for svg in drawings:
        tree = read(svg)
        assert not list(tree.iter("script")) and svg.count("<svg") == svg.count("</svg>") == 1
        assert not set(svg) & {"\u202e", "\x00", "\ud800"}


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 8))
def test_ticks_lie_inside_and_are_evenly_spaced(low, span, about):
    high = low + span
    found = ticks(low, high, about)
    slack = 1e-6 * max(abs(low), abs(high), 1)
    assert all(low - slack <= v <= high + slack for v in found)
    assert len(found) <= about + 2


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(3, 50))
def test_thinning_keeps_the_ends_and_smoothing_stays_in_range(values, most):
    points = list(enumerate(values))
    thinned = thin(points, most)
    assert len(thinned) == min(most, len(points))
    assert thinned[0] == points[0] and thinned[-1] == points[-1]
    assert all(min(values) - 1e-3 <= y <= max(values) + 1e-3 for _, y in smooth(points, 4))


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(0, 1))
def test_a_scale_keeps_shares(low, span, share):
    assert scale(low, low + span, 10, 20)(low + share * span) == pytest.approx(10 + 10 * share, abs=1e-3)
