"""Of the queue's records: lists that are chosen from, stories from their end, requests that are known by a key."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from luthier.core.errors import Conflict, NotFound
from luthier.store import Store
from luthier.store.audit import Act
from luthier.store.jobs import Job, in_brief, told
from luthier.store.tables import jobs

ACT = Act("local", "job.submitted", "job")
JOB = Job("job-0", "proj_a", "fine_tune", {}, "user_a", 1.0)


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "home")


@pytest.mark.parametrize("where", ["sqlite", "postgres"])
def test_a_brief_list_reads_nothing_that_is_large(where, request, tmp_path):
    url = None if where == "sqlite" else request.getfixturevalue("postgres_url")
    store = Store.open(tmp_path / "home", database_url=url)
    store.jobs.submit(replace(JOB, wish={"recipe": "x" * 1000}, shown={"name": "y"}), ACT)
    store.jobs.submit(replace(JOB, id="job-1", kind="verb", wish={"verb": "recipes.run", "text": "z"}), ACT)
    [verb, recipe], _ = store.jobs.list("proj_a", brief=True)
    assert (verb.wish, recipe.wish, recipe.shown) == ({"verb": "recipes.run"}, {}, {})
    assert in_brief(recipe)["id"] == "job-0"
    assert store.jobs.list("proj_a")[0][1].wish == {"recipe": "x" * 1000}


def test_a_condition_of_ours_does_not_make_a_query_of_every_two_jobs(store):
    rows = [{**vars(replace(JOB, id=f"job-{n}"))} for n in range(500)]
    for row in rows:
        row.pop("seq")
    with store.database.transaction() as connection:
        connection.execute(jobs.insert(), rows)
    asked = []
    sa.event.listen(
        store.database.engine, "before_cursor_execute", lambda *given: asked.append(given[2]), named=False
    )
    found, more = store.jobs.list("proj_a", limit=1, matching=lambda job: job.id in ("job-0", "job-1"))
    assert ([one.id for one in found], more) == (["job-1"], True)
    assert sum("FROM jobs" in text for text in asked) == 3
    found, more = store.jobs.list("proj_a", limit=1, before="job-1", matching=lambda job: True)
    assert ([one.id for one in found], more) == (["job-0"], False)


def test_the_end_of_a_story_is_read_from_its_end(store):
    store.jobs.submit(JOB, ACT)
    store.ledger.append(*(told(JOB.id, f"Step {n}") for n in range(1, 5)))
    first = store.jobs.newest_told(JOB.id, limit=2)
    assert [one.data["message"] for one in first] == ["Step 4", "Step 3"]
    rest = store.jobs.newest_told(JOB.id, before=first[-1].seq, limit=9)
    assert [one.data["message"] for one in rest] == ["Step 2", "Step 1", "Created job"]
    with pytest.raises(NotFound):
        store.jobs.newest_told("job-other", before=first[0].seq, limit=2)


def test_a_key_of_a_request_is_its_users_and_of_its_kind(store):
    once = ("monday", "0" * 64)
    first = store.jobs.submit(JOB, ACT, once=once)
    assert store.jobs.submit(replace(JOB, id="job-again"), ACT, once=once).id == first.id
    for n, other in enumerate(({"by": "user_b"}, {"kind": "verb"}, {"project": "proj_b"})):
        made = store.jobs.submit(replace(JOB, id=f"job-other-{n}", **other), ACT, once=("monday", "1" * 64))
        assert made.id == f"job-other-{n}"
    assert store.retries.known("proj_a", "user_a", "fine_tune", once) == "job-0"
    assert store.retries.known("proj_a", "user_c", "fine_tune", once) is None
    with pytest.raises(Conflict):
        store.retries.known("proj_a", "user_b", "fine_tune", once)
