"""Rows won and lost: bars as long as their rows, on the right sides."""

import xml.etree.ElementTree as ET

import pytest

from luthier.app.report.win_loss import drawing


def _turned(*rows):
    return {
        "turned": [
            {"to": to, "gained": gained, "lost": lost, "p": 0.01, "rows": []} for to, gained, lost in rows
        ]
    }


def test_bars_are_as_long_as_their_rows_on_a_common_scale():
    tree = ET.fromstring(drawing(_turned(("base", 40, 10), ("tfidf", 20, 0))))
    left = [e for e in tree.iter("rect") if e.get("class") == "left"]
    gone = [e for e in tree.iter("rect") if e.get("class") == "gone"]
    # a pixel is left free at the middle line
    assert float(left[0].get("width")) + 1 == pytest.approx(2 * (float(left[1].get("width")) + 1), abs=0.05)
    assert float(left[0].get("width")) + 1 == pytest.approx(4 * (float(gone[0].get("width")) + 1), abs=0.05)
    assert float(gone[1].get("width")) == 0
    (middle,) = [float(e.get("x1")) for e in tree.iter("line")]
    assert float(left[0].get("x")) > middle > float(gone[0].get("x"))
    assert next(e.text for e in tree.iter("title")) == "against base: 40 rows won, 10 lost, p = 0.01"


def test_where_nothing_turned_there_is_no_drawing():
    assert drawing(_turned(("base", 0, 0))) is None
    assert drawing({}) is None
