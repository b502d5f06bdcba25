"""docs/mapping.md: every example's rows, under its map, are what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from luthier.core.spec import parse, read_yaml
from luthier.data.connectors import connect
from luthier.data.contract import ContractSpec
from luthier.data.grouped import whole
from luthier.data.mapping import Layout
from luthier.data.maps import MapSpec
from luthier.data.reading import Job, read_part
from luthier.data.shapes import shape_of
from luthier.data.spec import SourceSpec

PAGE = (Path(__file__).parents[2] / "docs/mapping.md").read_text()
EXAMPLES = re.findall(r"```jsonl\n(.+?)```\n```yaml\n(.+?)```\n```text\n(.+?)```", PAGE, re.DOTALL)


def shown(record: dict[str, Any]) -> str:
    lines = [f"{turn['role']}: {turn['content']}" for turn in record["messages"]]
    lines += [f"{name}: {record[name]}" for name in ("rejected", "rating") if record[name] is not None]
    return "\n".join(lines)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == PAGE.count("```jsonl") >= 6


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_is_true(tmp_path: Path, example: tuple[str, str, str]) -> None:
    rows, written, wanted = example
    (tmp_path / "rows.jsonl").write_text(rows)
    wish = parse(MapSpec, read_yaml(written))
    source = SourceSpec.model_validate({"files": "rows.jsonl", "map": wish.plain()})
    connector = connect(source, tmp_path, str)
    head = connector.head(100)
    layout = Layout.of(
        shape_of(wish, head, "rows"),
        wish,
        None,
        classify=False,
        source="rows",
        weight=1.0,
        columns=head.columns,
    )
    job = Job.of(source, tmp_path, layout, str, hidden=False)
    parts = connector.parts()
    found = [
        shown(record)
        for part in ([whole(parts)] if wish.conversation else parts)
        for read in read_part(job, part)
        for record in read.records.to_pylist()
    ]
    assert "\n\n".join(found) == wanted.strip()


def test_the_contract_can_be_read() -> None:
    [text] = re.findall(r"```contract\n(.+?)```", PAGE, re.DOTALL)
    assert parse(ContractSpec, read_yaml(text)).fresh is not None
