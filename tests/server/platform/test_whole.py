"""The server as a company runs it, a process of its own: a file becomes a model that answers, is measured, paid for, told of and deleted;
killed outright while it trains, the server finds its job again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import openai
import pytest

from luthier.app.jobs.launchers import processes
from luthier.models.testing import tiny_model

ROWS = [
    {"messages": [{"role": "user", "content": f"{n} {word}?"}, {"role": "assistant", "content": word}]}
    for n in range(8)
    for word in ("one", "two")
]
EVAL = {
    "data_source_config": {
        "type": "custom",
        "item_schema": {"type": "object", "properties": {"q": {"type": "string"}, "a": {"type": "string"}}},
        "include_sample_schema": True,
    },
    "testing_criteria": [
        {"type": "string_check", "name": "same", "input": "{{sample.output_text}}", "reference": "{{item.a}}", "operation": "eq"}
    ],
}  # fmt: skip
PATIENCE_S = 300.0


class Company:
    """A home, the server that runs on it now, and what it is asked."""

    def __init__(self, place):
        self.place, self.key, self.process = place, None, None
        self.environ = {
            **os.environ, "HOME": str(place), "LUTHIER_HOME": str(place / "site"), "LUTHIER_EGRESS_HOSTS": "127.0.0.1",
            "XDG_CONFIG_HOME": str(place / "config"),
        }  # fmt: skip

    def start(self):
        words = ("server", "start", "--port", "0", "--json")
        log = (self.place / "log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "luthier", *words], stdout=subprocess.PIPE, stderr=log, text=True, env=self.environ
        )  # fmt: skip
        said = self.process.stdout.readline()
        assert said, (self.place / "log").read_text()
        told = json.loads(said)
        self.address, self.key = told["address"], told["api_key"] or self.key
        self.http = httpx.Client(base_url=self.address, headers={"authorization": f"Bearer {self.key}"}, timeout=PATIENCE_S)  # fmt: skip
        self.client = openai.OpenAI(
            base_url=told["base_url"], api_key=self.key, max_retries=0, timeout=PATIENCE_S
        )

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def luthier(self, *words, given=None):
        done = subprocess.run(
            [sys.executable, "-m", "luthier", *words], env=self.environ, input=given, capture_output=True, text=True, timeout=PATIENCE_S
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert self.key not in done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def company(tmp_path):
    home = tmp_path / "site"
    home.mkdir()
    tiny_model(home / "tiny")
    (home / "bases.yaml").write_text("tiny-1: tiny\n")
    company = Company(tmp_path)
    try:
        company.start()
        yield company
        company.process.terminate()
        assert company.process.wait(PATIENCE_S) == 0
    finally:
        company.kill()
        for folder in (home / "jobs").glob("*"):
            for attempt in (1, 2, 3):
                processes.kill(processes.marked(f"{folder.name}/{attempt}"))
    assert "Traceback" not in (tmp_path / "log").read_text()


@contextmanager
def listening():
    """(its address, what it was sent: headers and body)."""
    sent = []

    class Heard(BaseHTTPRequestHandler):
        def do_POST(self):
            sent.append((dict(self.headers), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Heard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/told", sent
        server.shutdown()


def until(found, of=bool):
    for_s = time.monotonic() + PATIENCE_S
    while not of(value := found()):
        assert time.monotonic() < for_s, value
        time.sleep(0.3)
    return value


@pytest.mark.slow
def test_from_a_file_to_a_model_and_back_through_a_kill(company):
    with listening() as (url, sent):
        told = {"name": "us", "url": url, "event_types": ["fine_tuning.job.succeeded", "eval.run.succeeded"]}
        secret = company.http.post("/v1/webhook_endpoints", json=told).json()["signing_secret"]
        file = company.client.files.create(
            file=("rows.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS).encode()), purpose="fine-tune"
        )
        job = _trained_through_a_kill(company, file.id)
        _told_of(company, job)
        name = job.fine_tuned_model
        patient = company.client.with_options(max_retries=3)  # a model that is still loading is a 503
        answer = patient.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "1 one?"}], max_tokens=4
        )
        run = _measured(company, name)
        until(lambda: len(sent) >= 2)
        found = [company.client.webhooks.unwrap(body, headers, secret=secret) for headers, body in sent]
    assert {(one.type, one.data.id) for one in found} == {
        ("fine_tuning.job.succeeded", job.id),
        ("eval.run.succeeded", run.id),
    }
    _paid_for(company, job, answer, run)
    _seen_from_elsewhere(company, job)
    assert company.client.models.delete(name).deleted and company.client.files.delete(file.id).deleted
    assert [one.id for one in company.client.models.list()] == ["tiny-1"]


def _trained_through_a_kill(company, file):
    jobs = company.client.fine_tuning.jobs
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}}}
    job = jobs.create(model="tiny-1", training_file=file, seed=7, method=method)
    until(lambda: jobs.retrieve(job.id), lambda job: job.status == "running")
    until(
        lambda: [one.message for one in jobs.list_events(job.id)],
        lambda told: "Began the step dataset" in told,
    )
    trainer = processes.marked(f"{job.id}/1")
    company.kill()
    company.start()
    assert trainer and set(trainer) & set(processes.marked(f"{job.id}/1"))  # it outlives the server
    jobs = company.client.fine_tuning.jobs
    job = until(lambda: jobs.retrieve(job.id), lambda job: job.status not in ("queued", "running"))
    assert job.status == "succeeded", job.error
    return job


def _told_of(company, job):
    jobs = company.client.fine_tuning.jobs
    events = list(jobs.list_events(job.id, limit=100))
    messages = [one.message for one in events]
    for once in ("Created job", "Attempt 1 begins", "Job succeeded"):
        assert messages.count(once) == 1
    assert not [one for one in messages if one.startswith("Attempt 2")]
    figures = [one.data for one in events if one.type == "metrics"]
    assert any("train_loss" in one for one in figures) and any("valid_loss" in one for one in figures)
    (checkpoint,) = jobs.checkpoints.list(job.id)
    assert checkpoint.fine_tuned_model_checkpoint == job.fine_tuned_model


def _measured(company, name):
    evals = company.client.evals
    made = evals.create(name="same", **EVAL)
    source = {
        "type": "completions", "model": name, "sampling_params": {"max_completion_tokens": 2},
        "input_messages": {"type": "template", "template": [{"role": "user", "content": "{{item.q}}"}]},
        "source": {"type": "file_content", "content": [{"item": {"q": "1 one?", "a": "one"}}, {"item": {"q": "1 two?", "a": "two"}}]},
    }  # fmt: skip
    run = evals.runs.create(made.id, name="first", data_source=source)
    run = until(
        lambda: evals.runs.retrieve(run.id, eval_id=made.id),
        lambda run: run.status not in ("queued", "in_progress"),
    )
    assert (run.status, run.result_counts.total, run.result_counts.errored) == ("completed", 2, 0)
    return run


def _paid_for(company, job, answer, run):
    def used():
        rows = company.http.get("/luthier/v1/usage", params={"by": "kind,model"}).json()["data"]
        return {(one["kind"], one["unit"]): one for one in rows}

    rows = until(used, lambda rows: ("served", "tokens") in rows)
    assert rows["fine_tune", "tokens"]["amount"] == job.trained_tokens
    assert rows["fine_tune", "tokens"]["model"] == "tiny-1"
    assert rows["served", "tokens"]["amount"] == answer.usage.total_tokens
    assert rows["eval_run", "tokens"]["amount"] == sum(one.total_tokens for one in run.per_model_usage)
    assert rows["fine_tune", "money:USD"]["amount"] > 0  # of the usual price of this kind of machine


def _seen_from_elsewhere(company, job):
    company.luthier("remote", "login", company.address, "--name", "company", given=f"{company.key}\n")
    listed = json.loads(company.luthier("--remote", "company", "job", "list", "--json"))
    assert {one["kind"] for one in listed} == {"fine_tune", "eval_run"}
    shown = json.loads(company.luthier("--remote", "company", "job", "show", job.id, "--json"))
    assert (shown["state"], len(shown["history"])) == ("succeeded", 1)
    assert shown == json.loads(company.luthier("job", "show", job.id, "--json"))  # on its own host
