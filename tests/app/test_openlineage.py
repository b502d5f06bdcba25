"""Events for other tools: complete and in their form, never a secret, and never the reason that a run waits or fails."""

from __future__ import annotations

import json
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from luthier.app import openlineage
from luthier.app.app import App
from luthier.app.line import Make, prepared
from luthier.core.errors import DataError, Interrupted, SpecError

RECIPE = """\
name: router
base: tiny
data:
  sources: [{{files: "{files}", map: {{user: q, assistant: a}}}}]
  rules: {{quality: [normalize]}}
  about: {{owner: support, purpose: route, tags: [a]}}
"""


def shop(tmp_path, files="rows.jsonl", rows=40, **environ):
    lines = (json.dumps({"q": f"Question {n}?", "a": f"Answer {n}."}) for n in range(rows))
    (tmp_path / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(files=files))
    app = App(tmp_path / "home", {"HOME": str(tmp_path), **environ})
    wish = app.recipes.read(tmp_path / "recipe.yaml", ())
    return app, wish, app.recipes.context(wish, None)


def prepare(tmp_path, **more):
    app, wish, at = shop(tmp_path, **more)
    with closing(at):
        return app, prepared(wish, at, Make(at))


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_step_begins_and_ends_in_one_run_with_what_it_read_and_made(tmp_path):
    _, dataset = prepare(tmp_path, LUTHIER_OPENLINEAGE=str(tmp_path / "events.jsonl"))
    begun, done = lines(tmp_path / "events.jsonl")
    assert (begun["eventType"], done["eventType"]) == ("START", "COMPLETE")
    assert begun["run"]["runId"] == done["run"]["runId"] and begun["job"] == done["job"]
    assert done["job"]["namespace"] == "luthier" and done["job"]["name"] == "router.dataset"
    (source,), (made,) = done["inputs"], done["outputs"]
    assert (source["namespace"], source["name"]) == ("file", "rows.jsonl")
    assert len(source["facets"]["version"]["datasetVersion"]) == 64
    assert made["name"] == "router/dataset" and made["facets"]["version"]["datasetVersion"] == dataset.digest
    assert {one["name"] for one in made["facets"]["schema"]["fields"]} >= {"id", "messages", "weight"}
    assert made["facets"]["ownership"]["owners"] == [{"name": "support", "type": "OWNER"}]
    assert (
        made["facets"]["documentation"]["description"] == "route"
        and made["facets"]["tags"]["tags"][0]["key"] == "a"
    )
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == 40


def test_nothing_is_sent_by_default(tmp_path):
    _app, wish, at = shop(tmp_path)
    assert at.lineage is None
    prepared(wish, at, Make(at))
    at.close()
    assert not any(thread.name == "openlineage" for thread in threading.enumerate())


def test_the_client_takes_every_event(tmp_path):
    client = pytest.importorskip("openlineage.client.event_v2", reason="openlineage-python is not installed")
    import importlib

    prepare(tmp_path, LUTHIER_OPENLINEAGE=str(tmp_path / "events.jsonl"))
    generated = {
        "parent": ("parent_run", "ParentRunFacet"), "processing_engine": ("processing_engine_run", "ProcessingEngineRunFacet"),
        "errorMessage": ("error_message_run", "ErrorMessageRunFacet"), "jobType": ("job_type_job", "JobTypeJobFacet"),
        "version": ("dataset_version_dataset", "DatasetVersionDatasetFacet"), "schema": ("schema_dataset", "SchemaDatasetFacet"),
        "ownership": ("ownership_dataset", "OwnershipDatasetFacet"), "documentation": ("documentation_dataset", "DocumentationDatasetFacet"),
        "tags": ("tags_dataset", "TagsDatasetFacet"), "outputStatistics": ("output_statistics_output_dataset", "OutputStatisticsOutputDatasetFacet"),
    }  # fmt: skip
    assert set(generated) == set(openlineage.FACETS)

    def facets(told):
        for name, facet in told.items():
            module, kind = generated[name]
            made = getattr(importlib.import_module(f"openlineage.client.generated.{module}"), kind)
            made(**{k: v for k, v in facet.items() if not k.startswith("_")})
            assert facet["_schemaURL"] == made._get_schema()

    for event in lines(tmp_path / "events.jsonl"):
        facets(event["run"]["facets"])
        facets(event["job"]["facets"])
        for one in (*event["inputs"], *event["outputs"]):
            facets({**one["facets"], **one.get("outputFacets", {})})
        client.RunEvent(
            eventType=client.RunState[event["eventType"]], eventTime=event["eventTime"], producer=event["producer"],
            run=client.Run(runId=event["run"]["runId"]), job=client.Job(namespace="luthier", name=event["job"]["name"]),
        )  # fmt: skip


def test_a_failure_says_its_kind_and_not_its_message(tmp_path):
    _app, wish, at = shop(tmp_path, LUTHIER_OPENLINEAGE=str(tmp_path / "events.jsonl"))
    (tmp_path / "rows.jsonl").write_text('{"q": "my secret question", "a": null}\n' * 40)
    with closing(at), pytest.raises(DataError):
        prepared(wish, at, Make(at))
    last = lines(tmp_path / "events.jsonl")[-1]
    assert last["eventType"] == "FAIL" and last["run"]["facets"]["errorMessage"]["message"] == "DataError"
    assert "secret" not in json.dumps(last) and last["outputs"] == []


def test_a_stop_is_an_abort(tmp_path):
    _app, wish, at = shop(tmp_path, LUTHIER_OPENLINEAGE=str(tmp_path / "events.jsonl"))

    class Stops(Make):
        """Asked to stop as soon as the work has begun."""

    with closing(at), pytest.raises(Interrupted):
        emit = at.emit
        at.emit = lambda kind, **data: (
            at.stop.set() if kind == "stage.started" else None,
            emit(kind, **data),
        )[1]
        prepared(wish, at, Stops(at))
    assert [one["eventType"] for one in lines(tmp_path / "events.jsonl")] == ["START", "ABORT"]


@pytest.mark.parametrize(
    ("place", "want"),
    [
        ("s3://key:se/cret@bucket/a/*.parquet?token=secret", ("s3://bucket", "a/*.parquet")),
        ("https://user:secret@host:8080/x.jsonl#secret", ("https://host:8080", "x.jsonl")),
        ("https://host/x.jsonl?sig=secret", ("https://host", "x.jsonl")),
        ("abfs://data@account.dfs.core.windows.net/x", ("abfs://account.dfs.core.windows.net", "x")),
        ("file:///data/x.jsonl", ("file", "/data/x.jsonl")),
        ("data/rows.jsonl", ("file", "data/rows.jsonl")),
        ("s3://${BUCKET}/x", ("s3://${BUCKET}", "x")),
    ],
)
def test_an_address_leaves_without_user_password_and_query(place, want):
    assert openlineage._address(place) == want


def test_a_value_of_the_environment_is_never_sent(tmp_path):
    prepare(
        tmp_path,
        files="${PLACE}",
        PLACE="rows.jsonl",
        LUTHIER_OPENLINEAGE="${LINEAGE}/events.jsonl",
        LINEAGE=str(tmp_path),
    )
    told = (tmp_path / "events.jsonl").read_text()
    assert "${PLACE}" in told and "rows.jsonl" not in told and str(tmp_path) not in told


def test_a_variable_that_is_not_set_is_told(tmp_path):
    with pytest.raises(SpecError, match="LINEAGE is not set"):
        shop(tmp_path, LUTHIER_OPENLINEAGE="${LINEAGE}")


# -- collectors -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def collector():
    """Answers as `answer` says: a status, seconds to wait first, a place to go to."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.seen.append((dict(self.headers), json.loads(body)))
            time.sleep(server.wait_s)
            self.send_response(server.status)
            if server.location:
                self.send_header("Location", server.location)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.status, server.wait_s, server.location = [], 201, 0.0, None
    server.url = f"http://127.0.0.1:{server.server_port}/api/v1/lineage"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def warnings(app):
    return [
        e.data["message"] for e in app.store.ledger.read(kind="warning") if e.data["about"] == "openlineage"
    ]


def test_a_collector_gets_them_in_order_with_its_key(tmp_path, collector):
    app, _ = prepare(tmp_path, LUTHIER_OPENLINEAGE=collector.url, LUTHIER_OPENLINEAGE_KEY="k3y")
    assert [body["eventType"] for _, body in collector.seen] == ["START", "COMPLETE"]
    assert collector.seen[0][0]["Authorization"] == "Bearer k3y" and warnings(app) == []


def test_a_redirect_is_not_followed_with_the_key(tmp_path, collector):
    collector.status, collector.location = 307, collector.url + "/elsewhere"
    app, dataset = prepare(tmp_path, LUTHIER_OPENLINEAGE=collector.url, LUTHIER_OPENLINEAGE_KEY="k3y")
    assert dataset is not None and len(collector.seen) == 2  # each event once, none at the second place
    assert "307" in warnings(app)[0]


@pytest.mark.parametrize("status", [400, 500])
def test_a_collector_that_refuses_changes_nothing_but_a_note(tmp_path, collector, status):
    collector.status = status
    app, dataset = prepare(tmp_path, LUTHIER_OPENLINEAGE=collector.url)
    assert dataset is not None and f"HTTPError {status}" in warnings(app)[0]


def test_nobody_there_is_a_note_without_the_address(tmp_path):
    app, dataset = prepare(tmp_path, LUTHIER_OPENLINEAGE="http://user:hunter2@127.0.0.1:1/x")
    assert dataset is not None and "2 OpenLineage events were not delivered" in warnings(app)[0]
    assert "hunter2" not in warnings(app)[0]


def test_a_folder_that_cannot_be_written_is_a_note(tmp_path):
    app, dataset = prepare(tmp_path, LUTHIER_OPENLINEAGE=str(tmp_path / "none" / "events.jsonl"))
    assert dataset is not None and "FileNotFoundError" in warnings(app)[0]


def test_a_slow_collector_is_not_waited_for(collector, monkeypatch):
    monkeypatch.setattr(openlineage, "LAST_WAIT_S", 0.3)
    collector.wait_s = 5.0
    sender = openlineage.Sender(collector.url)
    began = time.monotonic()
    for n in range(100):
        sender.send({"n": n})
    assert time.monotonic() - began < 0.5
    said = sender.close()
    assert time.monotonic() - began < 2.5 and "not delivered" in said


def test_a_collector_that_is_gone_is_given_up(monkeypatch):
    tried = []
    sender = openlineage.Sender("http://127.0.0.1:1/x")
    monkeypatch.setattr(
        sender, "_deliver", lambda body: tried.append(body) or (_ for _ in ()).throw(OSError("no"))
    )
    for n in range(50):
        sender.send({"n": n})
    assert "50 OpenLineage events were not delivered: OSError" in sender.close()
    assert len(tried) == openlineage.TRIES


def test_more_than_fits_is_dropped_and_counted(monkeypatch, tmp_path):
    monkeypatch.setattr(openlineage, "MOST_WAITING", 5)
    monkeypatch.setattr(openlineage, "LAST_WAIT_S", 0.2)
    hold = threading.Event()
    sender = openlineage.Sender(str(tmp_path / "nowhere"))
    monkeypatch.setattr(sender, "_deliver", lambda body: hold.wait(10))
    for n in range(20):
        sender.send({"n": n})
    assert "too slow" in sender.close()
    hold.set()


def test_datasets_of_one_recipe_are_told_apart(tmp_path):
    app, dataset = prepare(tmp_path)
    wish = app.recipes.read(tmp_path / "recipe.yaml", ())
    at = app.recipes.context(wish, None)
    with closing(at):
        made = [
            openlineage.event(at, "COMPLETE", step, "k", {}, dataset)["outputs"]
            for step in ("dataset", "general")
        ]
        used = openlineage.event(at, "START", "report", "k", {"dataset": dataset, "general": dataset}, None)[
            "inputs"
        ]
    names = [one["name"] for (one,) in made]
    assert names == [one["name"] for one in used] == ["router/dataset", "router/general"]
