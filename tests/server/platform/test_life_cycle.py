"""The whole life of a fine-tuned model with the official clients, over a real port: upload, job, events, checkpoints, chat, delete."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import openai
import pytest

from luthier.app.site import Site
from luthier.models.testing import tiny_model
from luthier.server.platform.make import create_platform
from luthier.server.platform.models import ProjectRouter
from luthier.server.serve import running

from .attempting import run_job

pytestmark = pytest.mark.slow
ROWS = [
    {"messages": [{"role": "user", "content": f"{n} {word}?"}, {"role": "assistant", "content": word}]}
    for n in range(6)
    for word in ("one", "two")
]


@pytest.mark.parametrize("base", ["tiny-1", pytest.param("smollm2-135m-instruct", marks=pytest.mark.model)])
def test_from_a_file_to_answers_and_back(tmp_path, node_modules, base):
    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site")})
    key = site.found()
    if base == "tiny-1":
        tiny_model(site.top.home / "tiny")
        (site.top.home / "bases.yaml").write_text("tiny-1: tiny\n")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with running(create_platform(site, ProjectRouter(site, most=2, wait_s=600))) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=600)
        assert [one.id for one in client.models.list()] == [base]
        with (tmp_path / "rows.jsonl").open("rb") as handle:
            file = client.files.create(file=handle, purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model=base, training_file=file.id, suffix="Lab / x", seed=7, metadata={"team": "a"},
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}}},
        )  # fmt: skip
        assert (job.status, job.seed) == ("queued", 7)
        assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (1, 4)
        assert job.hyperparameters.learning_rate_multiplier == 1.0
        worker = threading.Thread(target=run_job, args=(site, site.check(key).project, job.id))
        worker.start()
        try:
            while (job := client.fine_tuning.jobs.retrieve(job.id)).status in ("queued", "running"):
                time.sleep(0.5)
        finally:
            worker.join()
        assert job.status == "succeeded", job.error
        name = job.fine_tuned_model
        assert name.startswith(f"ft:{base}:default:lab-x:") and "/" not in name
        assert job.trained_tokens > 0 and job.finished_at >= job.created_at
        _looked_at(client, job, name)
        _asked(client, name, base)
        told = _node(node_modules, url, key, job.id, name, base)
        assert (
            told["events"] >= 4
            and told["checkpoint"] == name
            and told["answer"]
            and told["uploaded"] == "processed"
        )
        assert client.models.delete(name).deleted
        for forbidden in (lambda: client.models.retrieve(name), lambda: _ask(client, name)):
            with pytest.raises(openai.NotFoundError):
                forbidden()
        assert client.files.delete(file.id).deleted


def _looked_at(client, job, name):
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))
    assert events[-1].message == "Created job" and len({one.id for one in events}) == len(events)
    figures = [one.data for one in events if one.type == "metrics"]
    assert any("train_loss" in one for one in figures) and any("valid_loss" in one for one in figures)
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert checkpoint.fine_tuned_model_checkpoint == name
    assert checkpoint.metrics.full_valid_loss is not None
    table = client.files.content(job.result_files[0]).text.splitlines()
    assert table[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert len(table) - 1 == max(one["step"] for one in figures)
    assert client.files.retrieve(job.result_files[0]).purpose == "fine-tune-results"
    assert [one.id for one in client.fine_tuning.jobs.list(extra_query={"metadata[team]": "a"})] == [job.id]
    assert list(client.fine_tuning.jobs.list(extra_query={"metadata": "null"})) == []


def _ask(client, name, **more):
    return client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": "1 one?"}], max_tokens=4, **more
    )


def _asked(client, name, base):
    assert name in [one.id for one in client.models.list()]
    assert client.models.retrieve(name).owned_by.startswith("org_")
    whole = _ask(client, name, seed=1, temperature=0)
    assert whole.model == name and whole.usage.completion_tokens > 0
    streamed = [
        one.choices[0].delta.content or ""
        for one in _ask(client, name, seed=1, temperature=0, stream=True)
        if one.choices
    ]
    assert "".join(streamed) == whole.choices[0].message.content
    assert _ask(client, base).model == base


def _node(node_modules, url, key, job, model, base):
    environment = {
        **os.environ,
        "NODE_PATH": str(node_modules),
        "BASE_URL": f"{url}/v1",
        "KEY": key,
        "JOB": job,
        "MODEL": model,
        "BASE": base,
    }
    script = Path(__file__).with_name("life_cycle.js")
    done = subprocess.run(["node", str(script)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
