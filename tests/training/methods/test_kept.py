"""What is computed once of every row: a stop costs a part at most, a damaged part is told, and the bytes do not depend on
where a run was stopped."""

from dataclasses import replace

import pytest

from luthier.core.errors import Interrupted, StoreError
from luthier.core.testing import FakeContext, arm
from luthier.training.machine import find
from luthier.training.method import Work
from luthier.training.methods import kept
from luthier.training.rows import Row
from luthier.training.spec import TrainSpec


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(kept, "PART_ROWS", 4)
    monkeypatch.setattr(kept, "ROWS_AT_ONCE", 2)


ROWS = [Row(f"row{i}", 1.0, "", ()) for i in range(10)]  # parts of 4, 4 and 2 rows; five blocks


def work_in(folder, stop_after=None):
    at = FakeContext(folder, stop_after_checks=stop_after)
    return Work({}, None, find(TrainSpec(dtype="fp32", device="cpu")), 64, folder, "same", at)


def run(work, computed):
    """The lines of all parts; `computed` notes the rows that were computed."""
    import pyarrow as pa

    def compute(rows):
        computed.extend(row.id for row in rows)
        return [{"id": row.id, "n": len(row.id)} for row in rows]

    schema = pa.schema({"id": pa.string(), "n": pa.int64()})
    parts = kept.kept("train", ROWS, work, "test", "lengths", schema, lambda: compute)
    return [line for part in parts for line in part.to_pylist()]


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def whole(tmp_path):
    computed = []
    work = work_in(tmp_path / "whole")
    lines = run(work, computed)
    assert [line["id"] for line in lines] == computed == [row.id for row in ROWS]
    found = files(work.scratch)
    assert [name.rpartition("-")[2] for name in found] == [
        f"{part:06d}.{kind}" for part in range(3) for kind in ("json", "parquet")
    ]
    return lines, found


def test_a_stop_costs_the_part_it_came_in(tmp_path, whole):
    computed = []
    folder = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        run(work_in(folder, stop_after=3), computed)  # before the second block of the second part
    assert computed == [f"row{i}" for i in range(6)]
    computed.clear()
    lines = run(work_in(folder), computed)
    assert computed == [f"row{i}" for i in range(4, 10)]
    assert (lines, files(folder)) == whole
    computed.clear()
    assert run(work_in(folder), computed) == lines and computed == []


@pytest.mark.parametrize("change", ["bytes", "size", "seal"])
def test_a_damaged_part_is_told_and_computed_again(tmp_path, whole, change):
    folder, computed = tmp_path / "whole", []
    part = sorted(folder.glob("*.parquet"))[1]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    if change == "seal":
        part.with_suffix(".json").write_bytes(b"{")
    else:
        part.write_bytes(data if change == "bytes" else data[:-1])
    work = work_in(folder)
    lines = run(work, computed)
    assert computed == [f"row{i}" for i in range(4, 8)] and (lines, files(folder)) == whole
    (told,) = [event.data for event in work.at.events if event.kind == "prepared.damaged"]
    assert told["file"] == part.name and "SHA-256 differs" in told["reason"]


@pytest.mark.parametrize("at_pass", [1, 2])
def test_a_part_that_was_not_finished_is_none(tmp_path, whole, at_pass):
    folder = tmp_path / "torn"
    with (
        arm("files.rename", OSError(28, "full"), at_pass),
        pytest.raises(StoreError, match=r"the disk .* is full"),
    ):
        run(work_in(folder), [])
    work = work_in(folder)
    assert (run(work, computed := []), files(folder)) == whole
    assert len(computed) == 10 and not work.at.events


def test_figures_belong_to_the_number_format_they_were_computed_in(tmp_path, whole):
    work, computed = work_in(tmp_path / "whole"), []
    run(replace(work, machine=replace(work.machine, dtype="bf16")), computed)
    assert len(computed) == 10
