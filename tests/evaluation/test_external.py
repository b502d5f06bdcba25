"""A model behind an endpoint: the same rows, asked once, and nothing that it did not say."""

import json

import pytest

from luthier.core.errors import DataError, Interrupted, SpecError
from luthier.data.egress import need_redacted
from luthier.evaluation import external, predictions, suite
from luthier.evaluation.spec import EvaluateSpec
from luthier.evaluation.testing import answer, said_by_user, serving

SECRET = "sk-very-secret-and-long"
PRICE = {"input": "1 USD", "output": "2 USD"}


def spec_of(url, **more):
    entry = {"endpoint": url, "model": "gpt-x", "name": "gpt", "at_once": 1, "tries": 2, **more}
    return EvaluateSpec.model_validate(
        {"against": [entry], "resamples": 200, "max_tokens": 6, "dtype": "fp32", "timed_rows": 0}
    )


def labelled(n, body):
    """Right for three rows of four; then once with a blank, once with a word too many."""
    text = said_by_user(body)
    right = "billing" if "invoice" in text else "delivery" if "parcel" in text else "technical"
    return {0: f" {right}\n", 1: f"It is {right}."}.get(n % 4, right)


def report_of(out):
    return json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_labels_are_told_and_what_is_none_of_them_is_wrong(world, tmp_path):
    with serving(labelled) as server:
        out, _ = world.run(suite.STAGE, spec_of(server.url, price=PRICE), tmp_path)
        again, _ = world.run(suite.STAGE, spec_of(server.url, price=PRICE), tmp_path, "again")
    assert server.requests == 12  # the second run asked nothing
    told = report_of(out)
    assert {k: v for k, v in told.items() if k != "seconds"} == report_of(again)
    system = server.bodies[0]["messages"][0]
    assert system["role"] == "system" and system["content"].endswith(
        "\n".join(["billing", "delivery", "technical"])
    )
    assert server.bodies[0]["temperature"] == 0
    gpt = told["systems"]["gpt"]
    assert gpt["off_list"] == 3 and gpt["metrics"]["accuracy"] == 9 / 12
    for absent in ("roc_auc", "average_precision", "log_loss", "brier", "ece", "perplexity"):
        assert gpt["metrics"][absent] is None and absent not in gpt["intervals"]
    assert "3 of 12 answers of gpt are none of the labels; they count as wrong." in told["cautions"]
    # 10 tokens read at 1 USD and 5 written at 2 USD for a million, a thousand times
    assert gpt["cost"]["per_1000"] == pytest.approx(1000 * (10 * 1 + 5 * 2) / 1e6)
    assert gpt["tokens"] == {"in": 10.0, "out": 5.0} and gpt["latency"]["rows"] == 12
    lines = predictions.read(out / "predictions.parquet").to_pylist()
    assert all(line["probabilities"] is None for line in lines if line["model"] == "gpt")


@pytest.mark.parametrize("kind", ["chat"], indirect=True)
def test_a_free_answer_is_kept_as_it_is_and_a_declined_one_is_wrong(world, tmp_path):
    def script(n, body):
        if n == 3:
            return 400, {}, {"error": {"message": "content policy"}}
        return "This is about billing."

    with serving(script) as server:
        out, _ = world.run(suite.STAGE, spec_of(server.url), tmp_path)
    told = report_of(out)
    lines = [
        one for one in predictions.read(out / "predictions.parquet").to_pylist() if one["model"] == "gpt"
    ]
    assert sorted(one["prediction"] for one in lines) == ["", *["This is about billing."] * 11]
    assert told["systems"]["gpt"]["rows"] == 12 and told["systems"]["gpt"]["metrics"]["perplexity"] is None
    assert any("gpt declined 1 of 12 questions" in one for one in told["cautions"])
    assert told["systems"]["gpt"]["cost"] is None  # no price, no money


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_an_interrupted_evaluation_pays_for_no_answer_twice(world, tmp_path):
    with serving(labelled) as server:
        spec = spec_of(server.url, budget={"requests": 12})
        world.at.stop_after_checks = 3
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        (tmp_path / "scratch").mkdir()
        with pytest.raises(Interrupted):
            suite.evaluate(spec, world.inputs, tmp_path / "one", tmp_path / "scratch", world.at)
        asked = server.requests
        world.at.stop_after_checks = None
        suite.evaluate(spec, world.inputs, tmp_path / "two", tmp_path / "scratch", world.at)
    assert asked < 12 == server.requests


HOSTILE = {
    "html": ((200, {"Content-Type": "text/html"}, b"<html>Bad gateway</html>"), "no JSON"),
    "redirect": ((307, {"Location": "http://example.invalid/v1"}, b""), "sends requests on to another place"),
    "key": ((401, {}, {"error": {"message": f"invalid key {SECRET}"}}), "invalid key ${LLM_KEY}"),
    "busy": ((429, {"Retry-After": "999"}, {"error": "slow down"}), "asks to wait 999 s"),
    "hang": ("silence", "does not answer|has not finished"),
    "drip": ("drip", "does not answer|no JSON"),
    "huge": (answer("x" * 100_000), "answers 100,000 characters where"),
    "odd": ((200, {}, {"choices": []}), "answers without a message"),
    "list": ((200, {}, b"[1]"), "JSON of another form"),
}


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
@pytest.mark.parametrize("fault", sorted(HOSTILE))
def test_a_hostile_server_ends_in_one_clear_message(world, tmp_path, fault):
    said, message = HOSTILE[fault]
    if not isinstance(said, tuple | str):
        said = (200, {}, said)
    world.at.environ["LLM_KEY"] = SECRET
    bench = _bench(world, tmp_path)
    with serving(lambda n, body: said) as server:
        entry = spec_of(server.url, key="${LLM_KEY}", timeout=0.5)
        with pytest.raises(DataError) as told:
            external.ask_all(_with(bench, entry))
    import re

    assert re.search(re.escape(message) if "|" not in message else message, str(told.value)), told.value
    assert SECRET not in str(told.value) and SECRET not in str(world.at.events)
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_a_server_that_is_busy_for_a_moment_is_asked_again_when_it_says(world, tmp_path):
    def script(n, body):
        return (429, {"Retry-After": "0"}, {"error": "slow down"}) if n == 0 else "billing"

    with serving(script) as server:
        sent = external.ask_all(_with(_bench(world, tmp_path), spec_of(server.url)))
    assert server.requests == 13 and len(sent.lines) == 12


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"requests": 11}, "12 requests, and the budget is 11; nothing was sent"),
        ({"tokens": 10}, "tokens, and the budget is 10; nothing was sent"),
        ({"money": "0.000001 USD"}, "the budget is 0.0000010 USD; nothing was sent"),
    ],
)
def test_what_would_go_over_its_budget_is_not_begun(world, tmp_path, budget, message):
    with serving(labelled) as server:
        spec = spec_of(server.url, budget=budget, price=PRICE)
        with pytest.raises(DataError, match=message):
            external.ask_all(_with(_bench(world, tmp_path), spec))
    assert server.requests == 0


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_asking_ends_when_its_time_is_used_up(world, tmp_path):
    import time

    with serving(lambda n, body: time.sleep(0.1) or "billing") as server:
        spec = spec_of(server.url, budget={"time": 0.15})
        with pytest.raises(DataError, match=r"asking has gone on for .* and the budget is 0.1 s"):
            external.ask_all(_with(_bench(world, tmp_path), spec))
    assert 0 < server.requests < 12


def test_rows_leave_only_without_private_data_or_by_a_persons_word():
    with pytest.raises(
        SpecError, match=r"evaluate.against: rows would be sent to api\.example\.com, and no rule"
    ):
        need_redacted("api.example.com", redacted=False, allowed=False, where="evaluate.against")
    need_redacted("api.example.com", redacted=True, allowed=False, where="x")
    need_redacted("api.example.com", redacted=False, allowed=True, where="x")


def _bench(world, tmp_path):
    from luthier.evaluation import prompted, questions, tasks

    task = json.loads((world.folders["dataset"] / "dataset.json").read_text())["task"]
    asked = questions.read(world.folders["dataset"] / "test.parquet")
    parts = {one.id: () for one in asked}
    return prompted.Bench(
        EvaluateSpec(), task, tasks.of(task), asked, parts, world.folders, tmp_path, world.at
    )


def _with(bench, spec):
    from dataclasses import replace

    return replace(bench, spec=spec)
