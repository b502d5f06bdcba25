"""A run of a recipe as a job: the line, told as the job's story; what it made is found again."""

from __future__ import annotations

import json

import pytest

from luthier.app.jobs.watching import JobWatch
from luthier.core.errors import NotAllowed, SpecError
from luthier.core.event import Event


def test_the_lines_events_become_the_jobs_story():
    written, now = [], [0.0]
    watch = JobWatch(
        "job-1", lambda events, progress: written.append((list(events), progress)), lambda: now[0]
    )
    watch.event(Event("forecast", "run", {"seconds": 100.0}))
    watch.event(Event("stage.started", "run", {"step": "model", "key": "k"}))
    watch.progress("train", 0, 10, {})
    for n in range(1, 4):
        now[0] += 0.25
        watch.event(Event("step", "run", {"step": n, "loss": 1.0 / n, "odd": float("nan")}))
        watch.progress("train", n, 10, {})
    now[0] += 0.5
    watch.progress("train", 4, 10, {})
    watch.event(Event("artifact.of.no.interest", "run", {}))
    watch.event(Event("warning", "run", {"message": "hm"}))
    told = [event.data for events, _ in written for event in events]
    assert [one["message"] for one in told] == ["Began the step model", "Step 1", "Step 2", "Step 3", "hm"]
    assert [one["type"] for one in told] == ["message", "metrics", "metrics", "metrics", "message"]
    assert told[1]["data"] == {"step": 1, "loss": 1.0}
    assert told[-1]["level"] == "warn"
    progress = [one for _, one in written if one is not None][-1]
    # four steps took 1.25 s, six are left: 1.875 s; of a forecast of 100 s 1.25 are over
    assert progress == {
        "what": "train",
        "done": 4,
        "total": 10,
        "share": 0.4,
        "left_s": 1.9,
        "left_in_all_s": 98.8,
    }


RECIPE = """\
name: router
base: {base}
task: {{kind: classify, instruction: "Route the message."}}
data:
  sources: [{{files: {rows}, map: {{user: text, label: queue}}}}]
  split: {{validation: 0.15, test: 0.25}}
train: {{epochs: 1, learning_rate: 0.01, batch: {{rows: 8, micro_tokens: 512}}, dtype: fp32, adapter: {{kind: lora, rank: 4}}}}
evaluate: {{resamples: 200}}
"""


def test_a_recipe_is_checked_whole_when_it_is_submitted(yard):
    with pytest.raises(SpecError, match="did you mean 'data'"):
        yard.site.jobs.submit_recipe(yard.caller, "name: x\nbase: tiny\ndata_: {}\n")
    with pytest.raises(SpecError, match="characters"):
        yard.site.jobs.submit_recipe(yard.caller, "x" * 1_000_001)
    with pytest.raises(NotAllowed, match="may not be used"):
        yard.site.jobs.submit_recipe(yard.caller, RECIPE.format(base="/srv/base", rows="rows.jsonl"))


@pytest.mark.slow
def test_a_recipe_runs_as_a_job(yard, tiny_base):
    words = ["invoice", "parcel", "error"]
    rows = [{"text": f"Message {n}: the {words[n % 3]} again.", "queue": f"q{n % 3}"} for n in range(60)]
    uploaded = yard.site.app(yard.caller).uploaded
    with uploaded.arriving() as arrived:
        arrived.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        file = uploaded.enter(arrived, "rows.jsonl", "user_data").id
    yard.site.policies.lay(yard.site.operator(), "site", f"bases: ['{tiny_base}']", "for this test")
    recipe = RECIPE.format(base=tiny_base, rows=file)
    job = yard.site.jobs.submit_recipe(yard.caller, recipe)
    again = yard.site.jobs.submit_recipe(yard.caller, recipe, needs=[job.id])
    done, again = yard.finish(job, again, by=[yard.reconciler()], seconds=600.0)
    assert (done.state, done.error) == ("succeeded", None)
    assert done.result["release"] == again.result["release"] == "router@1"
    assert "model" in done.result["made"]
    assert again.result["made"] == []
    told = yard.messages(job)
    assert "Began the step model" in told
    assert any(event.data["type"] == "metrics" for event in yard.site.jobs.events(yard.caller, job.id))
    assert not list(yard.folder(job).rglob(".job-*"))
    steps = [event.data["data"] for event in yard.site.jobs.events(yard.caller, job.id) if event.data["message"].startswith("Step")]  # fmt: skip
    used = yard.site.budgets.usage(yard.site.operator(job.project), ["job"], unit="tokens")
    assert [(one["job"], one["amount"]) for one in used] == [(job.id, sum(one["tokens"] for one in steps))]
