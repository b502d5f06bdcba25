"""difficulty: the scores are those of the plain form, what stays follows from them, and nothing is computed twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, Interrupted
from luthier.core.testing import FakeContext
from luthier.data.prepare import STAGE, PrepareSpec

ROWS = [
    {"q": f"What is {a} and {b}?", "a": f"It is {a * b} {'really ' * (a % 4)}so"}
    for a in range(1, 9)
    for b in (2, 5, 7)
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from luthier.models.testing import tiny_model

    return tiny_model(tmp_path_factory.mktemp("asked") / "tiny")


class Made:
    def __init__(self, out: Path, at: FakeContext) -> None:
        self.at, self.bytes = at, {path.name: path.read_bytes() for path in sorted(out.iterdir())}
        self.train = pq.read_table(out / "train.parquet").to_pylist()
        self.removed = pq.read_table(out / "removed.parquet").to_pylist()
        self.trail = pq.read_table(out / "trail.parquet").to_pylist()
        self.rules = json.loads((out / "rules.json").read_text())

    def scores(self) -> dict[str, int]:
        return {
            line["id"]: round(float(line["why"].split()[1]) * 1000)
            for line in self.trail
            if line["what"] in ("noted", "weighed")
        }


def make(
    folder: Path, tiny: Path, wish: dict[str, Any], rows: Any = ROWS, home: str = "home", **more: Any
) -> Made:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / f"out-{len(list(folder.iterdir()))}"
    out.mkdir()
    (folder / home).mkdir(exist_ok=True)
    source = {"files": "rows.jsonl", "map": more.pop("map", {"user": "q", "assistant": "a"})}
    rules = more.pop("rules", {"relevance": [{"difficulty": {"model": "tiny", **wish}}]})
    data = {
        "sources": [source],
        "rules": rules,
        "split": {"validation": 0, "test": 0},
        **more.pop("data", {}),
    }
    asked = Artifact("model", "k", {}, 1, {}, ())
    at = FakeContext(folder / home, root=folder, folders={asked.digest: tiny}, **more)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    spec = PrepareSpec.model_validate({"data": data})
    STAGE.function(spec, {"asked.0": asked}, out, scratch, at)
    return Made(out, at)


def by_hand(tiny: Path, row: dict[str, str], by: str) -> float:
    """One token after the other, from the definition: the loss of the answer's tokens, with and without what stands before."""
    import torch

    from luthier.models.template import Template
    from luthier.models.weights import describe, load, load_tokenizer

    template = Template(load_tokenizer(tiny), describe(tiny).context)
    model = load(tiny, dtype="fp32", device="cpu").eval()
    prompt = template.prompt([{"role": "user", "content": row["q"]}])
    answer = template.answer(row["a"])

    def loss(before: list[int]) -> float:
        ids = torch.tensor([before + answer])
        with torch.no_grad():
            logp = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
        return -sum(float(logp[len(before) + i - 1, token]) for i, token in enumerate(answer)) / len(answer)

    whole = loss(prompt)
    return whole / loss([template.tokenizer.bos_token_id]) if by == "ifd" else whole


@pytest.mark.parametrize("by", ["ifd", "loss"])
def test_scores_are_those_of_the_definition(tmp_path: Path, tiny: Path, by: str) -> None:
    found = make(tmp_path, tiny, {"by": by, "range": [0, None]})
    scores = found.scores()
    assert len(scores) == len(ROWS) == len(found.train)
    told = {row["messages"][0]["content"]: scores[row["id"]] for row in found.train}
    for row in ROWS[:6]:
        assert told[row["q"]] == pytest.approx(1000 * by_hand(tiny, row, by), abs=1)


def test_what_stays_follows_from_the_scores(tmp_path: Path, tiny: Path) -> None:
    scores = make(tmp_path, tiny, {"range": [0, None]}).scores()
    ranked = sorted(scores, key=lambda name: (-scores[name], name))
    hard = make(tmp_path, tiny, {"range": [0, None], "n": 5})
    assert {row["id"] for row in hard.train} == set(ranked[:5])
    easy = make(tmp_path, tiny, {"range": [0, None], "share": 0.25, "prefer": "easy"})
    assert {row["id"] for row in easy.train} == set(
        sorted(scores, key=lambda name: (scores[name], name))[:6]
    )  # 24 / 4
    assert {row["rule"] for row in hard.removed} == {"difficulty"}
    assert all(f"not among the 5 hardest of {len(ROWS)}" in row["reason"] for row in hard.removed)
    usual = make(tmp_path, tiny, {})
    assert {row["id"] for row in usual.train} == {name for name, score in scores.items() if score < 1000}
    assert usual.rules[1]["notes"][0].startswith(
        f"ifd of {len(ROWS)} rows: lowest {min(scores.values()) / 1000:.3f}"
    )


def test_scores_may_weigh_and_lead_a_selection(tmp_path: Path, tiny: Path) -> None:
    scores = make(tmp_path, tiny, {"range": [0, None]}).scores()
    wish = {"model": "tiny", "range": [0, None], "weigh": True}
    select = {"n": 5, "by": "learning_value", "score": "weight", "apart": 1}
    found = make(tmp_path, tiny, {}, rules={"relevance": [{"difficulty": wish}, {"select": select}]})
    ranked = sorted(scores.values(), reverse=True)
    assert sorted((scores[row["id"]] for row in found.train), reverse=True) == ranked[:5]
    for row in found.train:
        assert row["weight"] == pytest.approx(scores[row["id"]] / 1000)


def test_nothing_is_computed_twice(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.evaluation.rules import answer_loss

    first = make(tmp_path, tiny, {})
    monkeypatch.setattr(
        answer_loss, "model", lambda given, section: pytest.fail("a score was computed again")
    )
    again = make(tmp_path, tiny, {})
    assert again.bytes == first.bytes
    make(tmp_path, tiny, {"n": 3})  # other rows stay, of the same scores


def test_a_stopped_run_computes_the_rest_alone(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.evaluation.rules import answer_loss

    monkeypatch.setattr(answer_loss, "AT_ONCE", 5)
    computed = 0
    plain = answer_loss._scores

    def counted(conversations: Any, *rest: Any) -> Any:
        nonlocal computed
        if computed >= 10:
            raise Interrupted("killed")
        computed += len(conversations)
        return plain(conversations, *rest)

    monkeypatch.setattr(answer_loss, "_scores", counted)
    with pytest.raises(Interrupted):
        make(tmp_path, tiny, {})
    computed = -1000
    found = make(tmp_path, tiny, {})
    assert computed == -1000 + len(ROWS) - 10
    monkeypatch.setattr(answer_loss, "_scores", plain)
    assert found.bytes == make(tmp_path, tiny, {}, home="other").bytes


def test_rows_are_scored_alone(tmp_path: Path, tiny: Path) -> None:
    whole = make(tmp_path, tiny, {"range": [0, None]}).scores()
    part = make(tmp_path, tiny, {"range": [0, None]}, rows=ROWS[::-1][:7], home="other").scores()
    assert {name: whole[name] for name in part} == part


def test_what_is_removed_before_is_not_scored(tmp_path: Path, tiny: Path) -> None:
    rules = {
        "quality": ["deduplicate", {"length": {"min": 14}}],
        "relevance": [{"difficulty": {"model": "tiny"}}],
    }
    found = make(tmp_path, tiny, {}, rules=rules, rows=[*ROWS, ROWS[0]])
    entry = next(one for one in found.rules if one["rule"] == "difficulty")
    assert entry["rows_in"] == len(found.scores()) == found.rules[2]["rows_out"]


def test_plain_text_has_a_loss_and_no_ifd(tmp_path: Path, tiny: Path) -> None:
    rows = [{"t": f"text number {i}"} for i in range(4)]
    found = make(tmp_path, tiny, {"by": "loss"}, rows=rows, map={"text": "t"})
    assert len(found.scores()) == 4
    with pytest.raises(DataError, match=r"plain text.*no instruction"):
        make(tmp_path, tiny, {"by": "ifd"}, rows=rows, map={"text": "t"})


def test_a_row_that_the_model_cannot_read_goes_with_the_reason(tmp_path: Path, tiny: Path) -> None:
    rows = [*ROWS, {"q": "long " * 2000, "a": "yes"}]
    found = make(tmp_path, tiny, {"range": [0, None]}, rows=rows)
    [gone] = found.removed
    assert "tokens, and the model that is asked reads" in gone["reason"]


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"n": 3, "share": 0.5}, "n and share"),
        ({"range": [2, 1]}, "holds nothing"),
        ({"share": 0}, "leaves no row"),
        ({"by": "ppl"}, "ifd"),
    ],
)
def test_settings_that_cannot_be_are_refused(wish: dict[str, Any], told: str) -> None:
    from luthier.evaluation.rules.difficulty import Difficulty

    with pytest.raises(ValueError, match=told):
        Difficulty.model_validate({"model": "tiny", **wish})


def test_workers_that_cannot_reach_the_model_are_refused() -> None:
    data = {"sources": [{"files": "a"}], "rules": {"relevance": [{"difficulty": {"model": "tiny"}}]}}
    engine = {"spark": {"master": "spark://far:7077", "storage": "s3://x"}}
    with pytest.raises(ValueError, match=r"difficulty asks a model .* do not reach it"):
        PrepareSpec.model_validate({"data": {**data, "engine": engine}})
    PrepareSpec.model_validate({"data": {**data, "engine": {"spark": {"master": "local[2]"}}}})


def test_a_recipe_is_read_without_torch() -> None:
    code = (
        "import sys; from luthier.data.spec import RuleSpec; RuleSpec.model_validate({'difficulty': {'model': 'x'}}); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_row_that_calls_is_read_as_a_template_is_given_it() -> None:
    from luthier.data.opened import Opened
    from luthier.data.records import RECORD
    from luthier.evaluation.rules.answer_loss import _conversations

    turns = [
        ("user", "Weather?"),
        ("call", '{"name":"weather","arguments":{"city":"Paris"}}'),
        ("tool", "sunny"),
        ("assistant", "It is sunny."),
    ]
    row = dict.fromkeys(RECORD.names) | {
        "id": "1",
        "messages": [{"role": r, "content": c} for r, c in turns],
        "tools": '[{"type":"function"}]',
    }
    plain = dict.fromkeys(RECORD.names) | {
        "id": "2",
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
    }
    called, other = _conversations(Opened(pa.RecordBatch.from_pylist([row, plain], RECORD)))
    assert called.roles == ["user", "assistant", "tool", "assistant"] and called.tools == [
        {"type": "function"}
    ]
    assert called.messages[1]["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": {"city": "Paris"},
    }
    assert other.tools is None and other.plain() == [["user", "Hi"], ["assistant", "Ho"]]
