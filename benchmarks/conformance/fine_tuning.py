"""Fine-tuning jobs, checkpoints and permissions. The job of the tests waits in the queue whenever it is asked to change; another one has
ended long ago and left a checkpoint. Nothing trains."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import sqlalchemy as sa
from files import put

from luthier.app.fine_tuning import CHECKPOINT, KIND, MODEL, Asked
from luthier.app.sharing import PERMISSION
from luthier.app.uploaded import FINE_TUNE
from luthier.store.accounts import Project
from luthier.store.jobs import told
from luthier.store.objects import Object
from luthier.store.tables import holds, jobs, objects

if TYPE_CHECKING:
    from tenant import Tenant

TESTS = (
    "tests/api_resources/fine_tuning/test_jobs.py",
    "tests/api_resources/fine_tuning/jobs/test_checkpoints.py",
    "tests/api_resources/fine_tuning/checkpoints/test_permissions.py",
)
_WANDB = "it sends an integration with Weights & Biases and the settings of three methods; what is not honoured is refused here (400)"
_JOBS = "tests/api_resources/fine_tuning/test_jobs.py"
SKIPPED: Mapping[str, str] = {
    f"{_JOBS}::TestJobs::test_method_create_with_all_params": _WANDB,
    f"{_JOBS}::TestAsyncJobs::test_method_create_with_all_params": _WANDB,
}
NAMES: dict[str, dict[str, str]] = {}
JOB = "ft-AF1WoRqd3aJAHsqc9NY7iL8F"
MODEL_ID = "ft:gpt-4o-mini-2024-07-18:org:weather:B7R9VjQd"
PERMISSION_ID = "cp_zc4Q7MP6XxulcVzj4MZdwsAB"
ROWS = "".join(
    json.dumps(
        {
            "messages": [
                {"role": "user", "content": f"{n} and {n}?"},
                {"role": "assistant", "content": str(2 * n)},
            ]
        }
    )
    + "\n"
    for n in range(20)
)


def seed(tenant: Tenant) -> None:
    (tenant.site.top.home / "bases.yaml").write_text("gpt-4o-mini: smollm2-135m-instruct\n")
    put(tenant, "file-abc123", FINE_TUNE, ROWS.encode())
    older, made = (
        tenant.site.fine_tuning.submit(tenant.caller, Asked("gpt-4o-mini", "file-abc123"), _shown())
        for _ in range(2)
    )
    NAMES["/fine_tuning/jobs"] = {"after": older.id}  # a run of an evaluation is called that already
    with tenant.site.store.database.transaction() as connection:
        connection.execute(
            holds.delete().where(holds.c.job == made.id)
        )  # promises are made to the id of then
        connection.execute(jobs.update().where(jobs.c.id == made.id).values(id=JOB))
    ledger = tenant.site.store.ledger
    figures = {"step": 10, "train_loss": 0.5, "total_steps": 60}
    first, *_ = ledger.append(
        told(JOB, "Created job"), told(JOB, "Step 10", type="metrics", data=figures), told(JOB, "Step 20")
    )
    NAMES["/events"] = {"after": f"ftevent-{first.seq}"}
    store = tenant.site.app(tenant.caller).store.objects
    metrics = {"step": 60, "train_loss": 0.5, "valid_loss": 0.6, "full_valid_loss": 0.6}
    data = {"fine_tuned_model_checkpoint": MODEL_ID, "step_number": 60, "metrics": metrics}
    for n, name in enumerate(("after", "ftckpt_1")):
        store.add(Object(CHECKPOINT, name, data, "seed", time.time() + n, parent=JOB), act=None)
    for name in (MODEL_ID, JOB):
        store.add(Object(MODEL, name, {"release": "none@1", "job": JOB}, "seed", time.time()), act=None)
    caller = tenant.caller
    act = tenant.site.top.actor.act("project.made", "string")
    tenant.site.store.accounts.add(
        Project("string", str(caller.organisation), "another", time.time()), act=act
    )
    for name, model in ((PERMISSION_ID, MODEL_ID), ("after", JOB), ("cp_2", JOB)):
        tenant.site.store.objects.add(_permission(tenant, name, model), act=None)


def restore(tenant: Tenant, method: str, path: str) -> None:
    store = tenant.site.store
    if method == "POST" and path.startswith(f"/v1/fine_tuning/jobs/{JOB}/"):
        with store.database.transaction() as connection:
            # what is asked to pause runs until its attempt has stopped; `paused` then is in no list of OpenAI's
            state = "running" if path.endswith("/pause") else "queued"
            as_before = {"state": state, "wanted": "run", "finished_s": None}
            connection.execute(jobs.update().where(jobs.c.id == JOB).values(as_before))
    if method == "DELETE" and path.endswith(PERMISSION_ID):
        with store.database.transaction() as connection:
            which = sa.and_(objects.c.kind == PERMISSION, objects.c.id == PERMISSION_ID)
            connection.execute(objects.update().where(which).values(ended_s=None))


def _shown() -> dict[str, object]:
    return {
        "kind": KIND,
        "model": "gpt-4o-mini",
        "training_file": "file-abc123",
        "method": "supervised",
        "metadata": {"foo": "string"},
    }


def _permission(tenant: Tenant, name: str, model: str) -> Object:
    data = {"owner": tenant.caller.project, "project": "string"}
    return Object(PERMISSION, name, data, "seed", time.time(), parent=model)
