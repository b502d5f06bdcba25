"""Evals over HTTP, asked by the official client, and the job that makes a run, with a scripted engine in the place of a model."""

import json
import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import httpx2
import openai
import pytest
from openai import OpenAI

from luthier.app.answering import Answerer
from luthier.app.app import App
from luthier.app.context import Silent
from luthier.app.jobs import eval_run
from luthier.app.jobs.eval_run import run
from luthier.app.project_models import Found, ProjectModels
from luthier.core.errors import DataError, Interrupted, NotFound
from luthier.core.plugin import load
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine
from luthier.store.tables import jobs
from luthier.store.traffic import Exchange

CONFIG = {"type": "custom", "item_schema": {"type": "object", "properties": {"q": {"type": "string"}, "a": {}}, "required": ["q"]},
          "include_sample_schema": True}  # fmt: skip
CHECK = {
    "type": "string_check",
    "name": "right",
    "input": "{{sample.output_text}}",
    "reference": "{{item.a}}",
    "operation": "eq",
}
ASK = {"type": "template", "template": [{"role": "user", "content": "{{item.q}}"}]}
ROWS = [
    {"item": {"q": "capital of France", "a": "Paris"}},
    {"item": {"q": "capital of Italy", "a": "Rome"}},
    {"item": {"q": "2+2", "a": "4"}},
]
RULES = [Rule("France", Reply("Paris")), Rule("Italy", Reply("Milan")), Rule("2+2", Reply("4"))]


@pytest.fixture
def engines(monkeypatch):
    """Name -> the engine of the base of that name; another name is none."""
    made = {"model": ScriptedEngine(RULES)}

    def find(self, caller, name):
        if name not in made:
            raise NotFound(f"there is no model {name!r} here.")
        return Found(name, None, name, 0.0, "luthier")

    def loaded(name):
        if name not in made:
            raise NotFound(f"there is no model {name!r} here.")
        made[name].load()
        return made[name]

    monkeypatch.setattr(ProjectModels, "find", find)
    monkeypatch.setattr(
        ProjectModels,
        "open",
        lambda self, found: (Answerer(loaded(found.name), found.name, "0" * 64, None), None),
    )
    monkeypatch.setattr(eval_run, "opened", lambda app, told: loaded(told["base"]))
    return made


@pytest.fixture
def official(client, first_key):
    def pass_on(request):
        answer = client.request(
            request.method, str(request.url), content=request.content, headers=dict(request.headers)
        )
        return httpx2.Response(answer.status_code, content=answer.content, headers=dict(answer.headers))

    return OpenAI(
        api_key=first_key, base_url="http://127.0.0.1:1/v1", max_retries=0, _strict_response_validation=True,
        http_client=httpx2.Client(transport=httpx2.MockTransport(pass_on)),
    )  # fmt: skip


@dataclass
class Attempt:
    job: object
    app: App
    folder: object
    stop: threading.Event = field(default_factory=threading.Event)
    watch: object = field(default_factory=Silent)
    told: list = field(default_factory=list)

    def tell(self, message, **_):
        self.told.append(message)


@pytest.fixture
def worked(site, first_key, tmp_path):
    """Do the job of a run as the queue would, and write down how it ended."""
    caller = site.check(first_key)

    def work(run_id, **given):
        job = site.jobs.get(caller, run_id)
        attempt = Attempt(job, site.app(caller), tmp_path, **given)
        try:
            values = {"state": "succeeded", "result": dict(run(attempt))}
        except Interrupted:
            return attempt
        except Exception as error:
            values = {"state": "failed", "error": {"code": "failed", "message": str(error), "param": None}}
        with site.store.database.transaction() as connection:
            connection.execute(
                jobs.update().where(jobs.c.id == job.id).values(finished_s=time.time(), **values)
            )
        return attempt

    return work


def completions(rows=ROWS, **more):
    return {
        "type": "completions",
        "model": "model",
        "input_messages": ASK,
        "source": {"type": "file_content", "content": rows},
        **more,
    }


def test_from_a_declaration_to_results(official, engines, worked):
    made = official.evals.create(
        name="capitals", data_source_config=CONFIG, testing_criteria=[CHECK], metadata={"team": "a"}
    )
    assert made.data_source_config.schema_["properties"]["item"] == CONFIG["item_schema"]
    run = official.evals.runs.create(
        made.id,
        name="first",
        data_source=completions(sampling_params={"temperature": 0, "max_completion_tokens": 9}),
    )
    assert (run.status, run.model, run.result_counts.total) == ("queued", "model", 0)
    worked(run.id)
    done = official.evals.runs.retrieve(run.id, eval_id=made.id)
    assert done.status == "completed"
    assert done.result_counts.model_dump() == {"total": 3, "passed": 2, "failed": 1, "errored": 0}
    [criterion] = done.per_testing_criteria_results
    assert (criterion.testing_criteria, criterion.passed, criterion.failed) == ("right", 2, 1)
    [usage] = done.per_model_usage
    assert (usage.run_model_name, usage.invocation_count, usage.completion_tokens) == ("model", 3, 3)
    items = list(official.evals.runs.output_items.list(run.id, eval_id=made.id, limit=2))
    assert [(one.datasource_item_id, one.status, one.sample.output[0].content) for one in items] == [
        (0, "pass", "Paris"), (1, "fail", "Milan"), (2, "pass", "4"),
    ]  # fmt: skip
    assert [one.sample.input[0].content for one in items][:1] == ["capital of France"]
    assert (
        items[0].sample.max_completion_tokens,
        items[0].sample.temperature,
        items[0].sample.finish_reason,
    ) == (9, 0, "stop")
    [failed] = official.evals.runs.output_items.list(run.id, eval_id=made.id, status="fail")
    again = official.evals.runs.output_items.retrieve(failed.id, eval_id=made.id, run_id=run.id)
    assert again.results[0].model_dump(include={"name", "type", "score", "passed"}) == {
        "name": "right", "type": "string_check", "score": 0, "passed": False,
    }  # fmt: skip
    assert engines["model"].health().ready is False  # closed again
    report = official.with_options(base_url="http://127.0.0.1:1").get(
        done.report_url.partition(":1")[2], cast_to=object
    )
    assert report["criteria"] == [
        {"name": "right", "passed": 2, "failed": 1, "errors": 0, "mean_score": pytest.approx(2 / 3)}
    ]
    assert [one["datasource_item_id"] for one in report["not_passed"]] == [1]


def test_what_a_model_says_of_answers(official, engines, worked):
    engines["judge"] = ScriptedEngine(
        [Rule(lambda r: r.constrain == ("yes", "no"), Reply("yes"))], default=Reply("0.25"), labels=()
    )
    criteria = [
        {"type": "score_model", "name": "score", "model": "judge", "input": [{"role": "user", "content": "{{sample.output_text}}"}], "pass_threshold": 0.2},
        {"type": "label_model", "name": "label", "model": "judge", "labels": ["yes", "no"], "passing_labels": ["yes"],
         "input": [{"role": "user", "content": "{{item.q}}"}]},
    ]  # fmt: skip
    made = official.evals.create(data_source_config=CONFIG, testing_criteria=criteria)
    run = official.evals.runs.create(made.id, data_source=completions(ROWS[:1]))
    worked(run.id)
    [item] = official.evals.runs.output_items.list(run.id, eval_id=made.id)
    assert [(one.name, one.score, one.passed) for one in item.results] == [
        ("score", 0.25, True),
        ("label", 1.0, True),
    ]
    usage = official.evals.runs.retrieve(run.id, eval_id=made.id).per_model_usage
    assert {one.run_model_name: one.invocation_count for one in usage} == {"model": 1, "judge": 2}


def test_rows_that_bring_their_answers(official, worked):
    made = official.evals.create(data_source_config=CONFIG, testing_criteria=[CHECK])
    rows = [{"item": {"q": "x", "a": "b"}, "sample": {"output_text": "b"}}, {"item": {"q": "x", "a": "b"}}]
    run = official.evals.runs.create(
        made.id, data_source={"type": "jsonl", "source": {"type": "file_content", "content": rows}}
    )
    worked(run.id)
    items = list(official.evals.runs.output_items.list(run.id, eval_id=made.id))
    assert [one.status for one in items] == ["pass", "error"]
    assert items[1].results[0].errors == {"invalid_variable_error": True}
    assert official.evals.runs.retrieve(run.id, eval_id=made.id).result_counts.errored == 1


def test_a_run_that_was_stopped_asks_no_row_twice(official, engines, worked):
    made = official.evals.create(data_source_config=CONFIG, testing_criteria=[CHECK])
    run = official.evals.runs.create(made.id, data_source=completions())
    stop = threading.Event()
    watch = SimpleNamespace(progress=lambda what, done, *_: stop.set() if done == 2 else None)
    worked(run.id, stop=stop, watch=watch)
    half = official.evals.runs.retrieve(run.id, eval_id=made.id)
    assert (half.status, half.result_counts.total) == ("queued", 2)
    first = [one.id for one in official.evals.runs.output_items.list(run.id, eval_id=made.id)]
    worked(run.id)
    done = official.evals.runs.retrieve(run.id, eval_id=made.id)
    assert (done.status, done.result_counts.total, done.per_model_usage[0].invocation_count) == (
        "completed",
        3,
        3,
    )
    assert len(engines["model"].requests) == 3
    assert [one.id for one in official.evals.runs.output_items.list(run.id, eval_id=made.id)][:2] == first
    seeds = [one.seed for one in engines["model"].requests]
    assert len(set(seeds)) == 3


def test_what_models_answered_before(official, site, first_key, engines, worked):
    traffic = site.app(site.check(first_key)).store.traffic
    for n, (id, said) in enumerate([("chatcmpl-1", "Paris"), ("resp_2", "Paris"), ("chatcmpl-3", None)]):
        answers = [{"text": said, "refusal": None if said else "not sure"}]
        traffic.keep(
            Exchange(
                id,
                "model",
                None,
                "0" * 64,
                "k",
                None,
                [{"role": "user", "content": "capital of France"}],
                answers,
                None,
                0,
                1000.0 + n,
            )
        )
    made = official.evals.create(
        data_source_config={"type": "logs"}, testing_criteria=[{**CHECK, "reference": "Paris"}]
    )
    stored = {"type": "completions", "source": {"type": "stored_completions", "model": "model"}}
    run = official.evals.runs.create(made.id, data_source=stored)
    late = Exchange(
        "chatcmpl-9",
        "model",
        None,
        "0" * 64,
        "k",
        None,
        [],
        [{"text": "x", "refusal": None}],
        None,
        0,
        1001.0,
    )
    traffic.keep(late)  # after the run was made: not of it
    worked(run.id)
    items = list(official.evals.runs.output_items.list(run.id, eval_id=made.id))
    assert [(one.status, one.sample.model) for one in items] == [("pass", "model"), ("error", "model")]
    responses = {"type": "responses", "source": {"type": "responses", "created_after": 1001}}
    run = official.evals.runs.create(made.id, data_source=responses)
    worked(run.id)
    assert official.evals.runs.retrieve(run.id, eval_id=made.id).result_counts.passed == 1
    again = {
        **stored,
        "model": "model",
        "input_messages": {"type": "item_reference", "item_reference": "item.input"},
    }
    run = official.evals.runs.create(
        made.id, data_source={**again, "source": {**stored["source"], "limit": 1}}
    )
    worked(run.id)
    [item] = official.evals.runs.output_items.list(run.id, eval_id=made.id)
    assert (item.status, item.sample.input[0].content) == ("pass", "capital of France")


def test_a_file_of_the_project(official, site, first_key, worked):
    good = "\n".join(json.dumps({**row, "sample": {"output_text": "4"}}) for row in ROWS) + "\n"

    app = site.app(site.check(first_key))

    def put(text):
        with app.uploaded.arriving() as arrived:
            arrived.write(text.encode())
            return app.uploaded.enter(arrived, "rows.jsonl", "evals").id

    made = official.evals.create(data_source_config=CONFIG, testing_criteria=[CHECK])
    run = official.evals.runs.create(
        made.id, data_source={"type": "jsonl", "source": {"type": "file_id", "id": put(good)}}
    )
    worked(run.id)
    assert official.evals.runs.retrieve(run.id, eval_id=made.id).result_counts.passed == 1
    with pytest.raises(openai.NotFoundError):
        official.evals.runs.create(
            made.id, data_source={"type": "jsonl", "source": {"type": "file_id", "id": "file-2"}}
        )
    for bad in (
        '{"item": {"q": "x"}, "item": {}}',
        '{"item": []}',
        "[" * 9_000,
        '{"item": {"q": NaN}}',
        '{"item": {"q": 1}}',
        '{"other": 1}',
    ):
        run = official.evals.runs.create(
            made.id, data_source={"type": "jsonl", "source": {"type": "file_id", "id": put(bad)}}
        )
        worked(run.id)
        told = official.evals.runs.retrieve(run.id, eval_id=made.id)
        assert (told.status, told.error.code) == ("failed", "failed") and "row 0" in told.error.message


def test_a_model_that_is_not_there_fails_the_run_and_a_question_that_is_too_long_its_item(
    official, engines, worked
):
    made = official.evals.create(data_source_config=CONFIG, testing_criteria=[CHECK])
    with pytest.raises(openai.NotFoundError, match="no model 'none'"):
        official.evals.runs.create(made.id, data_source=completions() | {"model": "none"})
    run = official.evals.runs.create(made.id, data_source=completions())
    gone = engines.pop("model")
    worked(run.id)
    told = official.evals.runs.retrieve(run.id, eval_id=made.id)
    assert (told.status, "no model 'model'" in told.error.message) == ("failed", True)
    engines["model"] = gone
    rows = [{"item": {"q": "word " * 2_000, "a": "x"}}, *ROWS[:1]]
    run = official.evals.runs.create(made.id, data_source=completions(rows))
    worked(run.id)
    first, second = official.evals.runs.output_items.list(run.id, eval_id=made.id)
    assert (first.status, first.sample.error.code, second.status) == ("error", "invalid_request", "pass")


def test_cancelling_by_both_paths_listing_and_deleting(official, client, engines):
    made = official.evals.create(data_source_config=CONFIG, testing_criteria=[CHECK])
    ids = [official.evals.runs.create(made.id, data_source=completions()).id for _ in range(4)]
    assert official.evals.runs.cancel(ids[0], eval_id=made.id).status == "canceled"
    assert client.post(f"/v1/evals/{made.id}/runs/{ids[1]}", json={}).json()["status"] == "canceled"
    assert client.post(f"/v1/evals/{made.id}/runs/{ids[2]}").json()["status"] == "canceled"
    with pytest.raises(openai.ConflictError):
        official.evals.runs.cancel(ids[0], eval_id=made.id)
    assert [one.id for one in official.evals.runs.list(made.id, limit=3)] == ids
    assert [one.id for one in official.evals.runs.list(made.id, order="desc", limit=3)] == ids[::-1]
    assert [one.id for one in official.evals.runs.list(made.id, status="queued")] == [ids[3]]
    assert official.evals.runs.delete(ids[3], eval_id=made.id).deleted
    with pytest.raises(openai.NotFoundError):
        official.evals.runs.retrieve(ids[3], eval_id=made.id)
    other = official.evals.create(name="b", data_source_config=CONFIG, testing_criteria=[CHECK])
    with pytest.raises(openai.NotFoundError):
        official.evals.runs.retrieve(ids[0], eval_id=other.id)
    official.evals.update(made.id, name="renamed", metadata={"a": "b"})
    assert [one.id for one in official.evals.list()] == [made.id, other.id]
    assert [one.id for one in official.evals.list(order_by="updated_at")] == [other.id, made.id]
    assert [one.id for one in official.evals.list(after=made.id, limit=1)] == [other.id]
    assert official.evals.retrieve(made.id).name == "renamed"
    assert official.evals.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        official.evals.retrieve(made.id)


def test_the_same_request_twice_is_one_run(official, engines):
    made = official.evals.create(data_source_config=CONFIG, testing_criteria=[CHECK])
    sent = {"extra_headers": {"Idempotency-Key": "a"}}
    one, two = (official.evals.runs.create(made.id, data_source=completions(), **sent) for _ in range(2))
    assert one.id == two.id and [run.id for run in official.evals.runs.list(made.id)] == [one.id]
    with pytest.raises(openai.ConflictError):
        official.evals.runs.create(made.id, data_source=completions(), name="other", **sent)


BILLIONS = {
    "$ref": "#/$defs/a0",
    "$defs": {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)} | {"a40": {}},
}
"""Forty lines that would take 2^40 steps."""
REFUSED = [
    ({"data_source_config": {"type": "custom", "item_schema": {"pattern": "(a+)+$"}}}, "pattern"),
    ({"data_source_config": {"type": "custom", "item_schema": {"$ref": "http://x/y"}}}, "another place"),
    ({"data_source_config": {"type": "custom", "item_schema": BILLIONS}}, "another place"),
    ({"data_source_config": {"type": "custom", "item_schema": {"type": "objekt"}}}, "objekt"),
    ({"data_source_config": {"type": "logs", "metadata": {"a": "b"}}}, "leave it out"),
    ({"testing_criteria": []}, "at least 1"),
    ({"testing_criteria": [CHECK, CHECK]}, "one name"),
    ({"testing_criteria": [{"type": "python", "name": "p", "source": "import os"}]}, "no code of clients"),
    ({"testing_criteria": [{**CHECK, "input": "{{item.x|f}}"}]}, "no reference"),
    ({"metadata": {str(n): "" for n in range(17)}}, "16 keys"),
    ({"other": 1}, "no key"),
]


@pytest.mark.parametrize(("change", "why"), REFUSED)
def test_evals_that_are_refused(client, change, why):
    body = {"data_source_config": CONFIG, "testing_criteria": [CHECK], **change}
    answer = client.post("/v1/evals", json=body)
    assert answer.status_code == 400 and why in answer.json()["error"]["message"], answer.text


SOURCE = {"type": "file_content", "content": ROWS}
REFUSED_RUNS = [
    ({"type": "completions", "source": SOURCE}, "a model is needed"),
    ({"type": "completions", "source": SOURCE, "model": "model"}, "go together"),
    ({**completions(), "sampling_params": {"tools": [{"type": "function"}]}}, "at most 0"),
    ({**completions(), "sampling_params": {"max_completion_tokens": 10**9}}, "16384"),
    ({**completions(), "input_messages": {"type": "item_reference", "item_reference": "sample.__class__"}}, "item.NAME"),
    ({**completions(), "input_messages": {"type": "template", "template": [{"role": "user", "content": "{% for %}{{x}}"}]}}, "no reference"),
    ({"type": "completions", "source": {"type": "stored_completions", "metadata": {"a": "b"}}}, "leave it out"),
    ({"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {"q": "x"}}] * 10_001}}, "10000"),
    ({"type": "jsonl", "source": {"type": "stored_completions"}}, "file_content"),
]  # fmt: skip


def test_runs_that_are_refused(client):
    made = client.post("/v1/evals", json={"data_source_config": CONFIG, "testing_criteria": [CHECK]}).json()
    for source, why in REFUSED_RUNS:
        answer = client.post(f"/v1/evals/{made['id']}/runs", json={"data_source": source})
        assert answer.status_code == 400 and why in answer.json()["error"]["message"], answer.text
    assert client.get(f"/v1/evals/{made['id']}/runs").json()["data"] == []
    for query in ("limit=101", "limit=-1", "limit=x", "order=up", "status=done", "other=1"):
        assert client.get(f"/v1/evals/{made['id']}/runs?{query}").status_code == 400, query


def test_another_project_sees_nothing(site, client, first_key):
    from luthier.app.site import Caller
    from luthier.store.accounts import Project

    made = client.post("/v1/evals", json={"data_source_config": CONFIG, "testing_criteria": [CHECK]}).json()
    caller = site.check(first_key)
    site.store.accounts.add(
        Project("proj_b", caller.organisation, "b", time.time()), act=caller.actor.act("x", "y")
    )
    stranger = Caller(**{**vars(caller), "project": "proj_b"})
    from luthier.app.evals import Evals

    with pytest.raises(NotFound):
        Evals(site).get(stranger, made["id"])
    assert Evals(site).list(stranger, after=None, limit=20) == ([], False)


def test_graders_over_http(official, engines):
    engines["judge"] = ScriptedEngine(default=Reply("0.5"))
    graders = official.fine_tuning.alpha.graders
    ran = graders.run(grader=CHECK, model_sample="Paris", item={"a": "Paris"})
    assert (ran.reward, ran.metadata.name, ran.metadata.type, ran.metadata.token_usage) == (
        1.0,
        "right",
        "string_check",
        None,
    )
    assert ran.metadata.errors.model_dump(by_alias=True)["formula_parse_error"] is False
    judge = {
        "type": "score_model",
        "name": "j",
        "model": "judge",
        "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    }
    multi = {"type": "multi", "name": "m", "graders": {"a": CHECK, "b": judge}, "calculate_output": "a + b"}
    ran = graders.run(grader=multi, model_sample="Paris", item={"a": "Paris"})
    assert (ran.reward, ran.sub_rewards) == (1.5, {"a": 1.0, "b": 0.5})
    assert ran.api_model_grader_token_usage_per_model["judge"] == ran.metadata.token_usage > 0
    assert graders.validate(grader=CHECK).grader.name == "right"
    with pytest.raises(openai.BadRequestError, match="no code of clients"):
        graders.validate(grader={"type": "python", "name": "p", "source": "1"})
    with pytest.raises(openai.NotFoundError, match="no model"):
        graders.run(grader={**judge, "model": "none"}, model_sample="x")


def test_the_kind_of_job_is_in_the_table():
    assert load("job", "eval_run") is run
    assert DataError.exit_code == 3
