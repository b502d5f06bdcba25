"""The benchmark's detectors side by side are the detector one by one."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from luthier.monitoring.sequential import BINS, Detector

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import drift


def test_side_by_side_is_one_by_one():
    generator = np.random.default_rng(0)
    counts = {view: np.bincount(generator.integers(0, BINS, 200), minlength=BINS) for view in "abc"}
    world = SimpleNamespace(views=tuple("abc"), reference=SimpleNamespace(counts=counts.__getitem__))
    several = drift.Several(world, 2)
    singles = [Detector.fresh({view: told.tolist() for view, told in counts.items()}) for _ in range(2)]
    for day in range(3):
        told, luck = generator.integers(0, BINS, (60, 2, 3)), generator.random((60, 2, 3))
        if day == 2:
            told[:, 1, 0] = BINS - 1
        found = several.watch(told, draw_NRV=luck)
        alone = [d.watch(told[:, r], luck[:, r], 1.0, drift.ALPHA) for r, d in enumerate(singles)]
        assert found == [[alarm.at for alarm in alarms] for alarms in alone]
    assert found[1] and not found[0]


def test_what_is_planted():
    assert drift.german("The coffee is very good") == "die kaffee ist sehr gut"
    text = "a sentence that is long enough to be mistyped now and then"
    typed = drift.typos(text, np.random.default_rng(0))
    assert typed != text and abs(len(typed) - len(text)) < 8
    low, high = drift.of_rate(7, 1000)
    assert low < 0.007 < high < 0.015
