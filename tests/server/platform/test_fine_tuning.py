"""Fine-tuning jobs over HTTP, without training: what is asked and refused, what comes twice, what others see."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from luthier.app.site import Site
from luthier.models.testing import tiny_model
from luthier.server.platform.make import create_platform
from luthier.server.platform.models import ProjectRouter
from luthier.store.accounts import KeyRow, Project
from luthier.store.jobs import told

JOBS = "/v1/fine_tuning/jobs"
CHAT = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": str(n)}]}
    for n in range(30)
]
PAIRS = [
    {
        "input": {"messages": [{"role": "user", "content": f"{n}?"}]},
        "preferred_output": [{"role": "assistant", "content": "yes"}],
        "non_preferred_output": [{"role": "assistant", "content": "no"}],
    }
    for n in range(10)
]
ITEMS = [{"messages": [{"role": "user", "content": f"{n}?"}], "answer": str(n)} for n in range(10)]
RIGHT = {
    "type": "string_check",
    "name": "right",
    "input": "{{sample.output_text}}",
    "operation": "eq",
    "reference": "{{item.answer}}",
}


@pytest.fixture
def client(site, first_key):
    (site.top.home / "bases.yaml").write_text("gpt-4o-mini: smollm2-135m-instruct\n")
    with TestClient(
        create_platform(site, ProjectRouter(site)),
        base_url="http://127.0.0.1:1",
        headers={"authorization": f"Bearer {first_key}"},
    ) as found:
        yield found


@pytest.fixture
def upload(client):
    def put(lines, name="rows.jsonl"):
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        made = client.post("/v1/files", files={"file": (name, data)}, data={"purpose": "fine-tune"}).json()
        return made["id"]

    return put


@pytest.fixture
def body(upload):
    return {"model": "gpt-4o-mini", "training_file": upload(CHAT)}


@pytest.fixture
def other(site, first_key):
    from luthier.core import keys

    caller = site.check(first_key)
    text, key_id, sha256 = keys.generate()
    project = Project("proj_other", caller.organisation, "other", time.time())
    key = KeyRow(key_id, sha256, caller.user, project.id, "other", time.time())
    site.store.accounts.add(project, key, act=site.top.actor.act("project.made", project.id))
    return {"authorization": f"Bearer {text}"}


def refused(answer, status=400):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def test_a_job_waits_in_the_queue_with_numbers_where_auto_was_asked(client, body):
    made = client.post(
        JOBS,
        json={
            **body,
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}},
        },
    ).json()
    assert (made["object"], made["status"]) == ("fine_tuning.job", "queued")
    assert made["hyperparameters"] == {"n_epochs": 3, "batch_size": 3, "learning_rate_multiplier": 1.0}
    assert made["id"].startswith("ftjob-") and 0 <= made["seed"] < 2**31
    assert client.get(f"{JOBS}/{made['id']}").json() == made
    assert client.get(JOBS).json()["data"] == [made]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"colour": "red"}, "colour"),
        ({"x_luthier": {"what": 1}}, "x_luthier.what"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": "5"}, "seed"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised"),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 0}}}}, "method.supervised.hyperparameters.n_epochs"),
        ({"hyperparameters": {}, "method": {"type": "supervised", "supervised": {}}}, "hyperparameters"),
        ({"x_luthier": {"adapter": {"kind": "lora", "rank": 0}}}, None),
        ({"x_luthier": {"adapter": {"kind": "no"}}}, None),
        ({"method": {"type": "dpo"}}, None),
    ],
)  # fmt: skip
def test_what_is_unknown_or_cannot_be_honoured_is_refused(client, body, change, param):
    assert refused(client.post(JOBS, json={**body, **change}))["param"] == param
    assert client.get(JOBS).json()["data"] == []


def test_models_and_files_that_are_not_there_are_told(client, body):
    assert "GET /v1/models" in refused(client.post(JOBS, json={**body, "model": "/etc"}), 404)["message"]
    refused(client.post(JOBS, json={**body, "training_file": "file-never"}), 404)
    faulty = client.post(
        "/v1/files", files={"file": ("a", b'{"messages": []}\n')}, data={"purpose": "fine-tune"}
    ).json()
    assert "line 1" in refused(client.post(JOBS, json={**body, "training_file": faulty["id"]}))["message"]
    other = client.post("/v1/files", files={"file": ("a", b"x")}, data={"purpose": "user_data"}).json()
    assert "user_data" in refused(client.post(JOBS, json={**body, "validation_file": other["id"]}))["message"]


def test_each_method_becomes_ours(client, upload, site, first_key):
    def wish(file, **method):
        made = client.post(
            JOBS, json={"model": "gpt-4o-mini", "training_file": upload(file), "method": method}
        ).json()
        return made, site.jobs.get(site.check(first_key), made["id"]).wish["train"]["method"]

    made, method = wish(PAIRS, type="dpo", dpo={"hyperparameters": {"beta": 0.5}})
    assert method == {"dpo": {"beta": 0.5}} and made["method"]["dpo"]["hyperparameters"]["beta"] == 0.5
    both = {
        "type": "multi", "name": "both", "calculate_output": "0.7 * a + b",
        "graders": {"a": RIGHT, "b": {**RIGHT, "operation": "ilike", "reference": "1."}},
    }  # fmt: skip
    settings = {"grader": both, "hyperparameters": {"compute_multiplier": 2}}
    made, method = wish(ITEMS, type="reinforcement", reinforcement=settings)
    rewards = ["exact_match", {"regex": {"pattern": "(?i)1\\.", "whole": False}}]
    assert method == {"grpo": {"rewards": rewards, "reward_weights": [0.7, 1.0], "generations": 8}}
    assert made["method"]["reinforcement"]["grader"] == both
    weighed = [
        *CHAT,
        {
            "messages": [
                *CHAT[0]["messages"],
                {"role": "user", "content": "and?"},
                {"role": "assistant", "content": "x", "weight": 0},
            ]
        },
    ]
    assert wish(weighed, type="supervised")[1] == {"sft": {"turns": "last"}}


@pytest.mark.parametrize(
    "grader",
    [
        {"type": "python", "name": "p", "source": "import os"},
        {**RIGHT, "input": "{{item.answer}}"},
        {**RIGHT, "operation": "like"},
        {**RIGHT, "reference": "{{item.other}}"},
        {"type": "multi", "name": "m", "graders": {"a": RIGHT}, "calculate_output": "a ** 9 ** 9 ** 9"},
        {
            "type": "multi",
            "name": "m",
            "graders": {"a": RIGHT},
            "calculate_output": "__import__('os').abort()",
        },
    ],
)
def test_a_grader_without_a_reward_is_refused_and_never_run(client, upload, grader):
    asked = {
        "model": "gpt-4o-mini",
        "training_file": upload(ITEMS),
        "method": {"type": "reinforcement", "reinforcement": {"grader": grader}},
    }
    refused(client.post(JOBS, json=asked))


def test_jobs_are_paused_resumed_and_cancelled(client, body):
    job = client.post(JOBS, json=body).json()["id"]
    for verb, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert client.post(f"{JOBS}/{job}/{verb}").json()["status"] == status
    again = client.post(f"{JOBS}/{job}/cancel")
    assert refused(again, 409) and again.headers["x-should-retry"] == "false"


def test_events_come_newest_first_in_pages_that_follow_each_other(client, body, site):
    job = client.post(JOBS, json=body).json()["id"]
    figures = {"step": 2, "total_steps": 9, "train_loss": 0.25}
    site.store.ledger.append(
        told(job, "Step 2", type="metrics", data=figures), told(job, "Saved", level="warn")
    )
    first = client.get(f"{JOBS}/{job}/events?limit=2").json()
    assert [one["message"] for one in first["data"]] == ["Saved", "Step 2/9: training loss=0.2500"]
    assert first["has_more"] and first["data"][1]["data"] == figures and first["data"][0]["level"] == "warn"
    rest = client.get(f"{JOBS}/{job}/events?after={first['last_id']}").json()
    assert ([one["message"] for one in rest["data"]], rest["has_more"]) == (["Created job"], False)
    refused(client.get(f"{JOBS}/{job}/events?after=ftevent-never"), 404)


def test_jobs_are_found_by_their_metadata(client, body):
    ids = [
        client.post(JOBS, json={**body, "metadata": one}).json()["id"]
        for one in ({"team": "a/b", "n": "1"}, {"team": "c"}, None)
    ]

    def found(query):
        return [one["id"] for one in client.get(f"{JOBS}?{query}").json()["data"]]

    assert found("metadata%5Bteam%5D=a%2Fb") == ids[:1]
    assert found("metadata[team]=a/b&metadata[n]=2") == []
    assert found("metadata=null") == ids[2:]
    assert found("limit=1") == ids[2:] and found(f"limit=1&after={ids[2]}") == [ids[1]]
    refused(client.get(f"{JOBS}?team=a"))


def test_a_silent_retry_finds_the_job_and_a_second_wish_is_a_second_job(client, body):
    def post(count=None, **headers):
        more = {} if count is None else {"x-stainless-retry-count": str(count)}
        return client.post(JOBS, json=body, headers={**more, **headers}).json()["id"]

    first = post(0)
    assert post(1) == post(2) == first
    second = post(0)
    assert second != first and post(1) == second
    assert post() not in (first, second)


def test_a_retry_that_overtakes_its_first_try_is_one_job(site, first_key, client, body):
    """The first request is slow and commits after the retry that its client sent meanwhile."""
    from luthier.app.fine_tuning import Asked
    from luthier.store.retries import Try

    caller, asked = site.check(first_key), Asked("gpt-4o-mini", body["training_file"])
    arrived_s = time.time()
    late = site.fine_tuning.submit(caller, asked, {}, tried=Try("w", 1, time.time()))
    assert site.fine_tuning.submit(caller, asked, {}, tried=Try("w", 0, arrived_s)).id == late.id
    assert site.fine_tuning.submit(caller, asked, {}, tried=Try("w", 0, time.time())).id != late.id
    a_day = site.fine_tuning.submit(caller, asked, {}, tried=Try("v", 1, 0))
    assert a_day.id != late.id


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_fifty_creates_with_one_key_over_a_restart_are_one_job(tmp_path, request, database):
    """Two servers over one home, one of them opened anew half-way."""
    environ = {"LUTHIER_HOME": str(tmp_path / "site")}
    if database == "postgres":
        environ["LUTHIER_DATABASE"] = request.getfixturevalue("postgres_url")
    site = Site.open(environ)
    key = site.found()
    headers = {"authorization": f"Bearer {key}", "idempotency-key": "one"}
    (site.top.home / "bases.yaml").write_text("gpt-4o-mini: smollm2-135m-instruct\n")

    def client(of):
        return TestClient(create_platform(of, {}), base_url="http://127.0.0.1:1", headers=headers)

    with client(site) as first, client(Site.open(environ)) as second:
        data = "".join(json.dumps(line) + "\n" for line in CHAT).encode()
        file = first.post("/v1/files", files={"file": ("a", data)}, data={"purpose": "fine-tune"}).json()[
            "id"
        ]
        body = {"model": "gpt-4o-mini", "training_file": file}
        gate = threading.Barrier(8)

        def create(n):
            if n < 8:
                gate.wait()
            return (first if n % 2 else second).post(JOBS, json=body)

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(create, range(25)))
    with client(Site.open(environ)) as third, ThreadPoolExecutor(8) as threads:
        answers += threads.map(lambda _: third.post(JOBS, json=body), range(25))
        assert {one.status_code for one in answers} == {200}
        assert len({one.json()["id"] for one in answers}) == 1
        assert len(third.get(JOBS).json()["data"]) == 1
        assert third.post(JOBS, json={**body, "seed": 1}).status_code == 409


def test_another_project_sees_no_job(client, body, other):
    job = client.post(JOBS, json=body).json()["id"]
    for verb, path in (
        ("get", ""),
        ("post", "/cancel"),
        ("post", "/pause"),
        ("get", "/events"),
        ("get", "/checkpoints"),
    ):
        found = refused(getattr(client, verb)(f"{JOBS}/{job}{path}", headers=other), 404)["message"]
        never = refused(getattr(client, verb)(f"{JOBS}/ftjob-never{path}", headers=other), 404)["message"]
        assert found.replace(job, "ftjob-never") == never
    assert client.get(JOBS, headers=other).json()["data"] == []
    refused(client.post(JOBS, json=body, headers=other), 404)


def test_a_checkpoint_is_shared_with_a_project_of_the_organisation_and_no_further(
    client, site, first_key, other
):
    from luthier.app.fine_tuning import MODEL
    from luthier.store.objects import Object

    name = "ft:gpt-4o-mini:default:x:1"
    site.app(site.check(first_key)).store.objects.add(
        Object(MODEL, name, {"release": "none@1"}, "x", time.time()), act=None
    )
    place = f"/v1/fine_tuning/checkpoints/{name}/permissions"
    refused(client.get(f"/v1/models/{name}", headers=other), 404)
    refused(client.post(place, json={"project_ids": ["proj_other"]}, headers=other), 404)
    refused(client.post(place, json={"project_ids": ["proj_never"]}), 404)
    made = client.post(place, json={"project_ids": ["proj_other"]}).json()["data"]
    assert client.post(place, json={"project_ids": ["proj_other"]}).json()["data"] == made
    assert client.get(place).json()["data"] == made
    assert client.get(f"/v1/models/{name}", headers=other).json()["id"] == name
    assert name in [one["id"] for one in client.get("/v1/models", headers=other).json()["data"]]
    refused(client.delete(f"/v1/models/{name}", headers=other), 404)
    assert client.delete(f"{place}/{made[0]['id']}").json()["deleted"]
    refused(client.get(f"/v1/models/{name}", headers=other), 404)


def test_a_model_of_another_project_is_missing_like_one_that_never_was(client, site, first_key, other):
    from luthier.app.fine_tuning import MODEL
    from luthier.store.objects import Object

    name = "ft:gpt-4o-mini:default:x:1"
    site.app(site.check(first_key)).store.objects.add(
        Object(MODEL, name, {"release": "none@1"}, "x", time.time()), act=None
    )

    def ask(model):
        asked = {"model": model, "messages": [{"role": "user", "content": "x"}]}
        return client.post("/v1/chat/completions", json=asked, headers=other)

    there, never = ask(name), ask("ft:never")
    assert there.status_code == never.status_code == 404
    assert there.json()["error"]["message"].replace(name, "ft:never") == never.json()["error"]["message"]


@pytest.mark.slow
def test_models_are_loaded_when_asked_and_the_idle_one_makes_room(tmp_path):
    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site")})
    key = site.found()
    tiny_model(site.top.home / "tiny")
    (site.top.home / "bases.yaml").write_text("one: tiny\ntwo: tiny\nbad: tiny/none\n")
    router = ProjectRouter(site, most=1)
    with TestClient(
        create_platform(site, router),
        base_url="http://127.0.0.1:1",
        headers={"authorization": f"Bearer {key}"},
    ) as client:

        def ask(model):
            asked = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
            return client.post("/v1/chat/completions", json=asked)

        assert list(router) == []
        assert ask("one").json()["model"] == "one" and list(router) == ["one"]
        assert ask("two").json()["model"] == "two" and list(router) == ["two"]
        assert refused(ask("bad"), 503)["code"] == "engine_unavailable"
        assert client.get("/healthz").status_code == 200
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["one", "two", "bad"]
