"""Weights by how frequent a label is: their values by hand, their mean, and that order does not matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.rules.inverse_frequency import InverseFrequency, _learn
from luthier.data.testing import batch_of, gathered


def rows(labels: str, weight: float = 1.0) -> pa.RecordBatch:
    return batch_of(
        *([("user", "x"), ("assistant", label)] for label in labels), weight=[weight] * len(labels)
    )


def test_weights_of_three_to_one_by_hand(tmp_path: Path) -> None:
    """4 rows, 3 of a and 1 of b: raw 4/3 and 4, their mean over the rows (3 * 4/3 + 4) / 4 = 2, so 2/3 and 2."""
    found = gathered("inverse_frequency", [rows("aaab", 0.5)], tmp_path)
    assert [row["weight"] for row in found.left.values()] == pytest.approx([1 / 3] * 3 + [1])
    assert list(found.trail.values())[3] == ("weighed", "weight 0.5 becomes 1")
    assert found.account.changed == 4
    assert found.account.notes == [
        "2 labels; a row of the rarest (1 rows) counts 3 times as much as one of the most frequent (3 rows)"
    ]


def test_the_square_root_goes_half_of_the_way(tmp_path: Path) -> None:
    """10 rows, 9 of a and 1 of b: one of b counts 9 times as much by power 1, 3 times by 0.5."""
    weights = [
        row["weight"]
        for row in gathered("inverse_frequency", [rows("a" * 9 + "b")], tmp_path, power=0.5).left.values()
    ]
    assert weights[9] / weights[0] == pytest.approx(3)


class _Names:
    """rule.Gathered of names."""

    def __init__(self, names: list[str]) -> None:
        self.rows, self._batch = len(names), pa.record_batch({"name": pa.array(names)})

    def read(self) -> Any:
        yield self._batch


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), st.floats(0.01, 1))
@settings(max_examples=50, deadline=None)
def test_the_mean_weight_stays_and_rarer_never_counts_less(labels: list[str], power: float) -> None:
    told = _learn(_Names(labels), InverseFrequency(power=power), lambda _: None).to_pylist()  # type: ignore[arg-type]
    factor = {line["name"]: line["factor"] for line in told}
    assert sum(factor[label] for label in labels) / len(labels) == pytest.approx(1)
    by_count = sorted(factor, key=lambda label: (labels.count(label), factor[label]))
    assert [factor[label] for label in by_count] == pytest.approx(sorted(factor.values(), reverse=True))


def test_by_source_and_in_any_batches(tmp_path: Path) -> None:
    batch = batch_of(*"abcdef", source=["s", "s", "t", "s", "s", "s"])
    whole = gathered("inverse_frequency", [batch], tmp_path / "1", of="source").left
    parts = [batch.slice(start, 1) for start in reversed(range(6))]
    assert gathered("inverse_frequency", parts, tmp_path / "2", of="source").left == whole
    by_hand = [6 / (2 * 5), 6 / (2 * 1)]
    assert sorted({row["weight"] for row in whole.values()}) == pytest.approx(by_hand)


def test_labels_are_needed_for_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs labels"):
        gathered("inverse_frequency", [batch_of("plain")], tmp_path)
