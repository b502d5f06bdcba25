"""All of what is new, some of what is old."""

import pytest
from pydantic import ValidationError

from luthier.data.rules.replay import Replay, replay


def test_new_rows_have_a_part_each_and_old_rows_share_one():
    import pyarrow as pa

    from luthier.data.opened import Opened
    from luthier.data.records import RECORD

    rows = [
        {
            "id": f"{n:032x}",
            "text": "t",
            "source": "feedback" if n % 3 == 0 else None if n == 1 else "a.jsonl",
        }
        for n in range(9)
    ]
    keys = replay.keys(Opened(pa.RecordBatch.from_pylist(rows, RECORD)), Replay(new=["feedback"], at_most=2))
    part = keys["part"].to_pylist()
    assert [p == "old" for p in part] == [n % 3 != 0 for n in range(9)] and len(set(part)) == 4
    assert replay.primitive(Replay(new=["feedback"], at_most=2)).limit == 2


def test_whose_rows_are_new_must_be_said():
    with pytest.raises(ValidationError):
        Replay(new=[], at_most=3)
    with pytest.raises(ValidationError):
        Replay(new=["a"], at_most=0)
