"""Do the intervals hold what they say? Simulated test splits whose true difference is known: how often the 95 % interval of
`luthier.evaluation.compare` covers it, how often a gate `better_than` passes where there is nothing to find, and how often the
permutation test cries wolf.

    python benchmarks/intervals.py [--cases 10000] [--resamples 1000]

Both systems are right on a share of the rows and name another label at random on the others; half of the rows decide for both
together, so that they agree more than by chance, as a model and its base do. Labels are not equally frequent.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass

import numpy as np

from luthier.evaluation import compare, significance

WORLDS = ((60, 2), (100, 5), (200, 10), (400, 30))
"""(rows, labels)"""


@dataclass
class World:
    rows: int
    labels: int
    one: float
    other: float

    def draw(self, generator: np.random.Generator, rows: int | None = None) -> tuple[np.ndarray, ...]:
        n = rows or self.rows
        share = np.arange(1, self.labels + 1) / np.arange(1, self.labels + 1).sum()
        truth = generator.choice(self.labels, n, p=share)
        luck = generator.random((2, n))
        luck[1] = np.where(generator.random(n) < 0.5, luck[0], luck[1])
        wrong = (truth + generator.integers(1, self.labels, (2, n))) % self.labels
        said = np.where(luck < np.array([[self.one], [self.other]]), truth, wrong)
        return truth, said[0], said[1]

    def apart(self, drawn: tuple[np.ndarray, ...], resamples: int, seed: int) -> dict[str, compare.Apart]:
        truth, one, other = drawn
        stats = (compare.of_labels(truth, said, self.labels) for said in (one, other))
        return compare.difference(*stats, len(truth), confidence=0.95, resamples=resamples, seed=seed)


def run(cases: int, resamples: int) -> dict[str, float]:
    generator = np.random.default_rng(0)
    metrics = ("accuracy", "macro_f1")
    covered, passed, alarms, done = dict.fromkeys(metrics, 0), dict.fromkeys(metrics, 0), 0, 0
    per_world = cases // len(WORLDS)
    for rows, labels in WORLDS:
        different, equal = World(rows, labels, 0.85, 0.75), World(rows, labels, 0.8, 0.8)
        # The true difference, from a sample large enough that its own error is far below the intervals' width.
        large = different.draw(generator, 2_000_000)
        here, there = (
            compare.at_sample(compare.of_labels(large[0], s, labels), len(large[0])) for s in large[1:]
        )
        true = {name: here[name] - there[name] for name in metrics}
        for case in range(per_world):
            found = different.apart(different.draw(generator), resamples, case)
            none = equal.apart(drawn := equal.draw(generator), resamples, case)
            for name in metrics:
                covered[name] += found[name].low <= true[name] <= found[name].high
                passed[name] += none[name].low > 0
            truth, one, other = drawn
            both = compare.of_labels(np.tile(truth, 2), np.concatenate([one, other]), labels)
            seen = {"macro_f1": none["macro_f1"].value}
            alarms += significance.permutation(both, rows, seen, resamples, case)["macro_f1"] <= 0.05
            done += 1
    return {
        "cases": done,
        **{f"covered_{name}": n / done for name, n in covered.items()},
        **{f"gate_passed_by_luck_{name}": n / done for name, n in passed.items()},
        "permutation_false_alarms": alarms / done,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=1000)
    asked = parser.parse_args()
    start_s = time.monotonic()
    found = run(asked.cases, asked.resamples)
    print(json.dumps({**found, "seconds": round(time.monotonic() - start_s)}, indent=1))


if __name__ == "__main__":
    main()
