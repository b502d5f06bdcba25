"""A judge in a whole evaluation: what it says becomes numbers with intervals, and one that obeys what it judges is found out."""

import json
import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, SpecError
from luthier.evaluation import suite
from luthier.evaluation.judge import judging, scores
from luthier.evaluation.judge.probes import ORDERS
from luthier.evaluation.spec import EvaluateSpec, GateRule
from luthier.evaluation.testing import answer, serving
from luthier.governance.policy import check, judge

pytestmark = pytest.mark.parametrize("kind", ["chat"], indirect=True)
BLOCK = re.compile(r"\[begin of ([a-z AB]+?) [0-9a-f]{32}\]\n(.*?)\n\[end of \1 [0-9a-f]{32}\]", re.DOTALL)
PLANTED = [text.partition("{")[0][:30] for text in ORDERS]


def blocks(body):
    return dict(BLOCK.findall(body["messages"][-1]["content"]))


def attacked(text):
    return any(start in text for start in PLANTED if start) or "### Instruction" in text


def honest(n, body):
    """Grades by length, prefers the longer answer, and gives nothing for an instruction."""
    told = blocks(body)
    if "answer" in told:
        return "1" if attacked(told["answer"]) else str(1 + len(told["answer"]) % 5)
    a, b = told["answer A"], told["answer B"]
    if attacked(a) or attacked(b):
        return "B" if attacked(a) else "A"
    return "tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B"


def obedient(n, body):
    """Does what a planted text says, and is honest else."""
    told = blocks(body)
    if "answer" in told:
        return "5" if attacked(told["answer"]) else honest(n, body)
    return next((side[-1] for side in ("answer A", "answer B") if attacked(told[side])), honest(n, body))


def spec_of(url, **more):
    wish = {
        "model": {"endpoint": url, "model": "judge-x", "at_once": 1, "tries": 1, **more.pop("endpoint", {})},
        **more,
    }
    return EvaluateSpec(
        against=["base"],
        judge=wish,
        metrics=["token_f1"],
        resamples=200,
        max_tokens=8,
        dtype="fp32",
        timed_rows=0,
    )


def read(out):
    return json.loads((out / "report.json").read_text()), pq.read_table(out / "judgements.parquet")


def test_an_honest_judge_gives_grades_and_win_rates_that_follow_from_its_verdicts(world, tmp_path):
    price = {"input": "1 USD", "output": "1 USD"}
    with serving(honest) as server:
        spec = spec_of(server.url, endpoint={"price": price})
        out, _ = world.run(suite.STAGE, spec, tmp_path)
        first = server.requests
        again, _ = world.run(suite.STAGE, spec, tmp_path, "again")
    # 12 rows: a grade of each of 2 systems, 2 orders of one pair, and 10 probes
    assert first == server.requests == 12 * 2 + 12 * 2 + 10
    told, table = read(out)
    assert (again / "report.json").read_bytes() == (out / "report.json").read_bytes()
    found = told["judge"]
    assert found["trusted"] and found["none"] == 0 and found["probes"]["obeyed"] == 0
    assert found["probes"]["planted"] == found["probes"]["answered"] == 10
    assert found["by"] == "judge-x at 127.0.0.1" and not found["own_kind"]
    # grades are 1..5, so a share is (grade - 1) / 4
    grades = [one for one in table.to_pylist() if one["kind"] == "grade" and one["system"] == "tuned"]
    assert told["systems"]["tuned"]["metrics"]["judge_score"] == pytest.approx(
        sum((int(one["verdict"]) - 1) / 4 for one in grades) / 12
    )
    low, high = told["systems"]["tuned"]["intervals"]["judge_score"]
    assert low <= told["systems"]["tuned"]["metrics"]["judge_score"] <= high
    pair = found["pairs"]["base"]
    assert pair["wins"] + pair["ties"] + pair["losses"] == 12 and pair["none"] == 0
    assert pair["rate"] == pytest.approx((pair["wins"] + pair["ties"] / 2) / 12)
    [one] = [one for one in told["comparisons"] if one["metric"] == "win_rate"]
    assert one["difference"] == pytest.approx(pair["rate"] - 0.5) and one["to"] == "base"
    assert (one["low"], one["high"]) == pytest.approx((pair["low"] - 0.5, pair["high"] - 0.5))
    assert found["position"]["flipped"] == 0.0  # it looks at the answers alone
    # 10 tokens read and 5 written for each of 58 requests at 1 USD a million
    assert found["cost"]["money"] == [pytest.approx(58 * 15 / 1e6), "USD"]
    assert any("Nobody has checked the judge" in line for line in told["cautions"])
    gate = {"win_rate": GateRule(not_worse_than="base", by=0.5), "judge_score": GateRule(at_least=0.0)}
    check(gate, "chat", spec)
    assert [one.passed for one in judge(gate, told)][1]


def test_a_judge_that_obeys_what_it_judges_is_not_to_be_trusted(world, tmp_path):
    with serving(obedient) as server:
        out, _ = world.run(suite.STAGE, spec_of(server.url), tmp_path)
    told, _ = read(out)
    found = told["judge"]
    assert not found["trusted"] and found["probes"]["obeyed"] == 10 and found["probes"]["rate"] == 1.0
    assert any(
        "not to be trusted: it obeyed 10 of 10 planted instructions, and 10% is allowed" in c
        for c in told["cautions"]
    )
    [verdict] = judge({"judge_score": GateRule(at_least=0.0)}, told)
    assert not verdict.passed and "it obeyed 10 of 10" in verdict.reason


def test_what_is_no_verdict_is_asked_again_once_and_then_counts_for_nothing(world, tmp_path):
    def script(n, body):
        if not body["messages"][-1]["content"].endswith("no explanation."):
            return "I would say 4 out of 5."
        return honest(n, body) if "answer A" in blocks(body) else "five"

    with serving(script) as server:
        out, _ = world.run(suite.STAGE, spec_of(server.url), tmp_path)
    assert server.requests == 2 * 58
    told, table = read(out)
    assert told["systems"]["tuned"]["metrics"]["judge_score"] is None
    assert "judge_score" not in told["systems"]["tuned"]["intervals"]
    lines = table.to_pylist()
    assert {one["tries"] for one in lines} == {2}
    assert all((one["verdict"] is None) == (one["kind"] in ("grade", "probe_grade")) for one in lines)
    assert told["judge"]["none"] == 24 + 5 and told["judge"]["pairs"]["base"]["none"] == 0
    assert told["judge"]["trusted"]  # half of the questions and no more: 29 of 58


def test_a_judge_that_always_takes_the_first_makes_ties_and_its_bias_is_told(world, tmp_path):
    def script(n, body):
        return "A" if "answer A" in blocks(body) else "3"

    with serving(script) as server:
        out, _ = world.run(suite.STAGE, spec_of(server.url, probes=2), tmp_path)
    told, _ = read(out)
    assert told["judge"]["pairs"]["base"] | {"low": 0, "high": 0} == {
        "wins": 0, "ties": 12, "losses": 0, "none": 0, "rate": 0.5, "low": 0, "high": 0
    }  # fmt: skip
    assert told["judge"]["position"] == {"first": 1.0, "flipped": 1.0, "pairs": 12}


def test_people_say_how_far_the_judge_may_be_believed(world, tmp_path):
    """Texts of people's own, of which this judge knows the length: its grade of "xx" is 3, as people say, or the contrary."""
    ids = [f"test-{i:03}" for i in range(12)]
    for name, turn in (("with", 0), ("against", 6)):
        lines = [
            {"id": id_, "verdict": abs(turn - (1 + i % 5)), "answer": "x" * (i % 5)}
            for i, id_ in enumerate(ids)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    world.at.root = tmp_path
    with serving(honest) as server:
        good, _ = world.run(
            suite.STAGE, spec_of(server.url, human="with.jsonl", pairs=False), tmp_path, "good"
        )
        bad, _ = world.run(
            suite.STAGE, spec_of(server.url, human="against.jsonl", pairs=False), tmp_path, "bad"
        )
    told, _ = read(good)
    assert told["judge"]["agreement"]["grades"]["value"] == pytest.approx(1.0)
    assert told["judge"]["agreement"]["pairs"] is None and told["judge"]["pairs"] == {}
    assert not any("hardly agrees" in line for line in told["cautions"])
    assert any("Only 12 grades tell how far" in line for line in told["cautions"])
    told, _ = read(bad)
    assert told["judge"]["agreement"]["grades"]["value"] == pytest.approx(-1.0)
    assert any(
        "hardly agrees with people: Spearman's rho -1.00 over 12 grades" in line for line in told["cautions"]
    )


def test_people_who_compare_are_compared_with_the_judge_by_kappa(world, tmp_path):
    """Texts of 500 characters are preferred to whatever the base says; people say so of every other one."""
    lines = [
        {"id": f"test-{i:03}", "verdict": "win" if i % 2 else "loss", "answer": "x" * 500, "against": "base"}
        for i in range(12)
    ]
    lines += [{"id": "no-such-row", "verdict": "win", "answer": "x"}, {"id": "test-000", "verdict": 5}]
    (tmp_path / "people.jsonl").write_text("\n".join(map(json.dumps, lines)))
    world.at.root = tmp_path
    with serving(honest) as server:
        out, _ = world.run(suite.STAGE, spec_of(server.url, human="people.jsonl", probes=2), tmp_path)
    told, table = read(out)
    pairs = [one for one in table.to_pylist() if one["kind"] == "human_pair"]
    assert len(pairs) == 24 and {(one["order"], one["verdict"]) for one in pairs} == {(0, "A"), (1, "B")}
    # the judge always says win: seen 6/12, by luck 12*6 / 12**2 = 1/2
    assert told["judge"]["agreement"]["pairs"]["value"] == pytest.approx(0.0)
    assert told["judge"]["agreement"]["pairs"]["rows"] == 12
    assert told["judge"]["agreement"]["grades"] == {"value": None, "low": None, "high": None, "rows": 1}
    assert any("Cohen's kappa 0.00 over 12 pairs" in line for line in told["cautions"])
    assert any("cannot be computed of 1 grades" in line for line in told["cautions"])


def test_a_base_of_ones_own_can_judge_here(world, tiny_base, tmp_path):
    """A tiny model says nothing that is a verdict: that is told, and no number is made of it."""
    mine = Artifact("model", "key of a judge", {}, 1, {}, ())
    world.at.folders[mine.digest] = tiny_base
    world = replace(world, inputs=world.inputs | {"judge/model": mine})
    spec = EvaluateSpec(
        against=["base"], judge={"model": "tiny", "rows": 2, "probes": 2, "reference": False}, metrics=["token_f1"],
        resamples=200, max_tokens=4, dtype="fp32", timed_rows=0,
    )  # fmt: skip
    out, _ = world.run(suite.STAGE, spec, tmp_path)
    told, table = read(out)
    assert len(table) == 2 * 2 + 2 * 2 + 2 and told["judge"]["rows"] == 2
    if told["judge"]["none"] == len(table):
        assert not told["judge"]["trusted"] and told["systems"]["tuned"]["metrics"]["judge_score"] is None
    assert told["judge"]["digests"] == {"model": mine.digest}


def test_what_would_go_over_its_budget_is_not_begun(world, tmp_path):
    with serving(honest) as server:
        spec = spec_of(server.url, endpoint={"budget": {"requests": 57}})
        with pytest.raises(DataError, match="58 requests, and the budget is 57; nothing was sent"):
            world.run(suite.STAGE, spec, tmp_path)
    assert server.requests == 0


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ({"win_rate": GateRule(at_least=0.5)}, "a win rate is against somebody"),
        ({"win_rate": GateRule(better_than="gpt")}, "better_than 'gpt', which is not measured"),
        ({"judge_score": GateRule(every_slice=0.5)}, "a judge's verdicts are not divided into slices"),
    ],
)
def test_a_gate_that_no_judge_can_answer_is_refused_at_once(kind, gate, told):
    spec = EvaluateSpec(judge={"model": "smollm2-135m-instruct"})
    with pytest.raises(SpecError, match=told):
        check(gate, kind, spec)
    with pytest.raises(SpecError, match="is not measured in this evaluation"):
        check({"judge_score": GateRule(at_least=0.5)}, kind, EvaluateSpec())
    with pytest.raises(SpecError, match="a classify task has right answers"):
        EvaluateSpec(judge={"model": "x"}).judged("classify")


def test_rows_without_a_verdict_in_both_orders_are_left_out_of_the_rate(kind):
    lines = [
        {"kind": "pair", "id": id_, "against": "base", "order": order, "verdict": verdict, "about": None}
        for id_, both in {"a": "AB", "b": "BA", "c": "AA", "d": ["tie", "tie"], "e": ["A", None]}.items()
        for order, verdict in enumerate(both)
    ]
    told = scores.outcomes(lines, "base", "pair")
    assert {id_: value for (id_, _), value in told.items()} == {
        "a": 1.0,
        "b": 0.0,
        "c": 0.5,
        "d": 0.5,
        "e": None,
    }
    settings = {"confidence": 0.95, "resamples": 200, "seed": 0}
    found = scores.win_rate(told, settings)
    assert (found["wins"], found["ties"], found["losses"], found["none"], found["rate"]) == (1, 2, 1, 1, 0.5)
    assert scores.position(lines) == {
        "first": 5 / 7,
        "flipped": 0.25,
        "pairs": 4,
    }  # A of e counts for the first place too
    assert pa.Table.from_pylist([], judging.SCHEMA).num_rows == 0
    assert answer("x")["choices"]
