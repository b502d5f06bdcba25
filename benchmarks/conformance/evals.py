"""Evals, their runs and output items, and graders: one of each under the ids that the tests ask for; deleted and cancelled ones come back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.app.eval_item import NO_ERROR
from luthier.app.evals import EVAL
from luthier.app.jobs.eval_run import ITEM, RUN
from luthier.store.objects import Object
from luthier.store.tables import jobs, objects

if TYPE_CHECKING:
    from tenant import Tenant

TESTS = (
    "tests/api_resources/test_evals.py",
    "tests/api_resources/evals",
    "tests/api_resources/fine_tuning/alpha",
)
SKIPPED: Mapping[str, str] = {
    f"tests/api_resources/test_evals.py::{who}::test_{how}": "a message of the grader has the role 'role', which no model knows"
    for who in ("TestEvals", "TestAsyncEvals")
    for how in ("method_create", "raw_response_create", "streaming_response_create")
}
NAMES: Mapping[str, str] = {}
CHECK = {
    "type": "string_check",
    "name": "name",
    "input": "input",
    "reference": "reference",
    "operation": "eq",
}
SOURCE = {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {"foo": "bar"}}]}}


def seed(tenant: Tenant) -> None:
    config = {"type": "custom", "item_schema": {"foo": "bar"}, "include_sample_schema": False}
    about = {"data_source_config": config, "testing_criteria": [CHECK]}
    run = {
        "name": "name",
        "metadata": {},
        "data_source": SOURCE,
        "model": "",
        "models": {},
        "eval": about,
        "through": 0,
    }
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0, "total_tokens": 0}
    sample = {
        "input": [], "output": [], "finish_reason": "", "model": "", "usage": usage, "error": NO_ERROR, "temperature": 0.0,
        "top_p": 1.0, "seed": 0, "max_completion_tokens": 0,
    }  # fmt: skip
    item: dict[str, Any] = {
        "object": "eval.run.output_item", "created_at": 0, "run_id": "run_id", "eval_id": "eval_id", "status": "fail",
        "datasource_item_id": 0, "datasource_item": {"foo": "bar"}, "sample": sample,
        "results": [{"name": "name", "type": "string_check", "score": 0.0, "passed": False, "sample": None}],
    }  # fmt: skip
    store, now = tenant.site.app(tenant.caller).store, time.time()
    for name in ("eval_id", "after", "eval_last"):
        store.objects.add(Object(EVAL, name, {"name": name, "metadata": {}, **about}, "seed", now), act=None)
    for name in ("run_id", "after", "run_last"):
        store.objects.add(Object(RUN, name, run, "seed", now, "eval_id"), act=None)
        tenant.site.jobs.submit(tenant.caller, "eval_run", {"eval": "eval_id", "run": name}, id=name)
    for name in ("output_item_id", "after", "item_last"):
        store.objects.add(Object(ITEM, name, {"id": name, **item}, "seed", now, "run_id"), act=None)


def restore(tenant: Tenant, method: str, path: str) -> None:
    if not path.startswith("/v1/evals"):
        return
    fixed = ("eval_id", "run_id")
    with tenant.site.app(tenant.caller).store.database.transaction() as connection:
        which = objects.c.kind.in_([EVAL, RUN]) & objects.c.id.in_(fixed)
        connection.execute(objects.update().where(which).values(ended_s=None))
    if method != "POST":
        return
    with tenant.site.store.database.transaction() as connection:
        as_new = {"state": "queued", "wanted": "run", "finished_s": None}
        connection.execute(jobs.update().where(jobs.c.id == "run_id").values(as_new))
