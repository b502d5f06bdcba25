"""Jobs over HTTP: submit, look, ask, follow. Nothing runs here but what a scripted launcher says."""

from __future__ import annotations

import json
import time

import pytest

from luthier.app.jobs.launchers.scripted import Scripted
from luthier.app.jobs.reconciler import Reconciler, folder_of
from luthier.server.platform.job_stream import Streams

RECIPE = "name: router\nbase: smollm2-135m-instruct\ndata: {sources: [{files: rows.jsonl, map: {user: text, label: queue}}]}\n"


@pytest.fixture
def who(site, first_key):
    return site.check(first_key)


@pytest.fixture
def launcher():
    return Scripted()


@pytest.fixture
def reconciler(site, who, launcher):
    return Reconciler(site, owner="one", launcher=launcher)


def submitted(client, **given):
    answer = client.post("/luthier/v1/jobs", json={"recipe": RECIPE, **given})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_recipe_is_submitted_listed_shown_and_comes_to_its_end(client, reconciler, launcher):
    job = submitted(client, priority=2, resources={"cores": 1})
    assert (job["object"], job["state"], job["kind"], job["priority"]) == (
        "luthier.job",
        "queued",
        "recipe",
        2,
    )
    reconciler.step()
    found = client.get(f"/luthier/v1/jobs/{job['id']}").json()
    assert (found["state"], found["history"][0]["state"]) == ("running", "starting")
    assert "fence" not in json.dumps(found)
    launcher.end(f"{job['id']}/1", {"state": "succeeded", "result": {"release": "router@1"}, "time_s": 1.0})
    reconciler.step()
    found = client.get(f"/luthier/v1/jobs/{job['id']}").json()
    assert (found["state"], found["result"]) == ("succeeded", {"release": "router@1"})
    listed = client.get("/luthier/v1/jobs?state=succeeded,failed&kind=recipe&limit=1").json()
    assert [one["id"] for one in listed["data"]] == [job["id"]]
    assert client.get("/luthier/v1/jobs?state=queued").json()["data"] == []
    told = client.get(f"/luthier/v1/jobs/{job['id']}/events").json()["data"]
    assert [one["message"] for one in told] == ["Created job", "Attempt 1 begins", "Job succeeded"]
    rest = client.get(f"/luthier/v1/jobs/{job['id']}/events?after={told[0]['seq']}&limit=1").json()
    assert ([one["message"] for one in rest["data"]], rest["has_more"]) == (["Attempt 1 begins"], True)


def test_a_list_is_small_however_large_the_wishes_are(client, site, who):
    large = submitted(client, sets=["train.epochs=2"] * 200)
    site.jobs.submit(who, "verb", {"verb": "recipes.run", "recipe": {"text": RECIPE}})
    verb, row = client.get("/luthier/v1/jobs").json()["data"]
    assert (verb["verb"], row["id"], row["state"]) == ("recipes.run", large["id"], "queued")
    assert not {"wish", "shown", "result"} & {*row, *verb}
    assert len(client.get(f"/luthier/v1/jobs/{large['id']}").json()["wish"]["sets"]) == 200


def test_the_same_request_again_is_the_same_job_and_another_with_its_key_is_refused(client):
    head = {"idempotency-key": "monday"}
    one = client.post("/luthier/v1/jobs", json={"recipe": RECIPE}, headers=head).json()
    assert client.post("/luthier/v1/jobs", json={"recipe": RECIPE}, headers=head).json()["id"] == one["id"]
    other = client.post("/luthier/v1/jobs", json={"recipe": RECIPE, "priority": 1}, headers=head)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")


def test_asking(client):
    job = submitted(client)["id"]
    ask = lambda verb, **body: client.post(f"/luthier/v1/jobs/{job}/{verb}", json=body)  # noqa: E731
    assert ask("pause").json()["state"] == "paused"
    assert ask("resume").json()["state"] == "queued"
    assert ask("priority", priority=-3).json()["priority"] == -3
    assert ask("cancel").json()["state"] == "cancelled"
    assert ask("resume").status_code == 409
    assert ask("priority", priority=1).status_code == 409


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "recipe"),
        ({"recipe": RECIPE, "prio": 1}, "prio"),
        ({"recipe": "name: x\n"}, "base"),
        ({"recipe": RECIPE, "priority": 101}, "the priority 101"),
        ({"recipe": RECIPE, "resources": {"tpus": 1}}, "there is no resource"),
        ({"recipe": RECIPE, "needs": ["job-of-another"]}, "there is no job"),
        ({"recipe": RECIPE.replace("rows.jsonl", "/etc/passwd")}, "may not be read"),
        ({"recipe": RECIPE.replace("rows.jsonl", "../../luthier.db")}, "may not be read"),
        ({"recipe": RECIPE.replace("rows.jsonl", "file:///etc/passwd")}, "may not be read"),
        ({"recipe": RECIPE.replace("rows.jsonl", "'${LUTHIER_DATABASE}'")}, "LUTHIER_DATABASE"),
        ({"recipe": RECIPE, "sets": ["base=/srv/others"]}, "may not be used"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_entered(client, body, says):
    answer = client.post("/luthier/v1/jobs", json=body)
    assert answer.status_code in (400, 403, 404)
    assert says in answer.json()["error"]["message"]
    assert client.get("/luthier/v1/jobs").json()["data"] == []


def test_places_and_variables_that_the_policy_allows(client, site, allow):
    allow(site, sources=["/data/shared", "s3://tickets", "${TICKETS_URL}"], environment=["TICKETS_URL"])
    for place in ("/data/shared/a.jsonl", "s3://tickets/june.jsonl", "'${TICKETS_URL}'"):
        submitted(client, recipe=RECIPE.replace("rows.jsonl", place))
    for place in ("/data/shared/../x", "s3://tickets-of-others/x", "/data/sharedness"):
        answer = client.post("/luthier/v1/jobs", json={"recipe": RECIPE.replace("rows.jsonl", place)})
        assert answer.status_code == 403


def test_nothing_of_another_project_can_be_named(client, site, who):
    from dataclasses import replace

    mine = submitted(client)["id"]
    schedule = site.jobs.schedules.add(who, "x", "@daily", "recipe", {})
    stranger = replace(who, project="proj_other")
    for verb in (site.jobs.get, site.jobs.events, site.jobs.logs, site.jobs.attempts, site.jobs.steps):
        with pytest.raises(Exception, match="there is no job"):
            verb(stranger, mine)
    for wanted in ("cancel", "pause", "run"):
        with pytest.raises(Exception, match="there is no job"):
            site.jobs.ask(stranger, mine, wanted)
    with pytest.raises(Exception, match="there is no schedule"):
        site.jobs.schedules.remove(stranger, schedule.id)
    for path in ("/luthier/v1/jobs/x%00y", "/luthier/v1/jobs/job-0/events", "/luthier/v1/schedules/x"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1&limit=2", "stat=queued", "limit=%D9%A3"])
def test_parameters_are_not_accepted_and_ignored(client, query):
    assert client.get(f"/luthier/v1/jobs?{query}").status_code == 400


def test_logs_show_the_last_lines_and_no_secret(client, site, reconciler):
    job = submitted(client)["id"]
    reconciler.step()
    site.environ["TICKETS_PASSWORD"] = "hunter22"
    log = folder_of(site, job) / "logs" / "1.log"
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwo: cannot log in with hunter22\nthree\n")
    log.with_suffix(".old").write_text("zero\n")
    assert client.get(f"/luthier/v1/jobs/{job}/logs?lines=3").json()["data"] == [
        "one", "two: cannot log in with ${TICKETS_PASSWORD}", "three",
    ]  # fmt: skip
    assert client.get(f"/luthier/v1/jobs/{job}/logs?containing=ZERO").json()["data"] == ["zero"]
    assert client.get(f"/luthier/v1/jobs/{job}/logs?attempt=2").status_code == 400


def events_of(text):
    return [
        dict(line.split(": ", 1) for line in piece.split("\n") if not line.startswith(":"))
        for piece in text.strip().split("\n\n")
    ]


def test_a_stream_goes_on_where_the_client_was_and_ends_with_the_job(client, reconciler, launcher):
    job = submitted(client)["id"]
    reconciler.step()
    launcher.end(f"{job}/1", {"state": "succeeded", "result": {}, "time_s": 1.0})
    reconciler.step()

    def stream(**head):
        return client.get(f"/luthier/v1/jobs/{job}/events", headers={"accept": "text/event-stream", **head})

    whole = stream()
    assert whole.headers["content-type"].startswith("text/event-stream")
    told = events_of(whole.text)
    assert [json.loads(one["data"]).get("message") for one in told[:-1]] == [
        "Created job",
        "Attempt 1 begins",
        "Job succeeded",
    ]
    assert (told[-1]["event"], json.loads(told[-1]["data"])["state"]) == ("job.ended", "succeeded")
    rest = events_of(stream(**{"last-event-id": told[1]["id"]}).text)
    assert [one["event"] for one in rest] == ["job.told", "job.ended"]
    assert stream(**{"last-event-id": "-1"}).status_code == 400
    assert (
        client.get("/luthier/v1/jobs/job-none/events", headers={"accept": "text/event-stream"}).status_code
        == 404
    )


async def _take(pieces, count):
    return [await anext(pieces) for _ in range(count)]


def test_a_stream_beats_while_nothing_happens_and_tells_what_comes(site, who):
    import asyncio

    job = site.jobs.submit(who, "scripted", {})
    streams = Streams(site, look_s=0.01, beat_s=0.0)

    async def follow():
        pieces = streams._pieces(who, job.id, 0, _still)
        first = await _take(pieces, 2)
        site.jobs.ask(who, job.id, "cancel")
        rest = [piece async for piece in pieces]
        return first, [one for one in rest if one != b": beat\n\n"]

    first, rest = asyncio.run(follow())
    assert b"Created job" in first[0]
    assert first[1] == b": beat\n\n"
    assert len(rest) == 2
    assert b"Job cancelled" in rest[0]
    assert b"job.ended" in rest[1]


def test_a_job_that_many_follow_is_looked_at_more_seldom_and_all_are_woken_together(site, who, monkeypatch):
    import asyncio

    from luthier.server.platform import job_stream
    from luthier.store.jobs import told

    monkeypatch.setattr(job_stream, "FOLLOWED_AT_ONCE", 10)
    job = site.jobs.submit(who, "scripted", {})
    streams, looked = Streams(site, look_s=0.02, beat_s=60.0), []
    grow = streams._grow

    async def counted(*given):
        looked.append(time.monotonic())
        await grow(*given)

    streams._grow = counted

    async def follow():
        found = []
        async for piece in streams._pieces(who, job.id, 0, _still):
            found.append(piece)
        return b"".join(found)

    async def all_of_them():
        readers = [asyncio.create_task(follow()) for _ in range(40)]
        await asyncio.sleep(0.3)
        looked.clear()
        began = time.monotonic()
        readers += [asyncio.create_task(follow()) for _ in range(10)]  # who come in between hold up nobody
        await asyncio.sleep(0.5)
        looks, seconds = len(looked), time.monotonic() - began
        site.store.ledger.append(told(job.id, "news"))
        await asyncio.sleep(0.5)
        site.jobs.ask(who, job.id, "cancel")
        return await asyncio.gather(*readers), looks, seconds

    found, looks, seconds = asyncio.run(all_of_them())
    assert all(one.count(b'"news"') == 1 and b"job.ended" in one for one in found)
    assert 1 <= looks <= seconds / 0.08 + 2  # and not once in 0.02 s


@pytest.mark.parametrize("page", [3, 500])
def test_streams_of_a_job_share_what_is_looked_up_and_each_tells_all_of_it_once(site, who, monkeypatch, page):
    import asyncio

    from luthier.server.platform import job_stream
    from luthier.store.jobs import told

    monkeypatch.setattr(job_stream, "PAGE", page)
    job = site.jobs.submit(who, "scripted", {})
    streams, looks = Streams(site, look_s=0.05, beat_s=60.0), []
    look = streams._look
    streams._look = lambda *given: looks.append(given) or look(*given)

    async def follow():
        return [piece async for piece in streams._pieces(who, job.id, 0, _still)]

    async def tell():
        for number in range(20):
            site.store.ledger.append(told(job.id, f"line {number}"))
            await asyncio.sleep(0.02)
        leaving.cancel()
        site.jobs.ask(who, job.id, "cancel")

    async def all_of_them():
        nonlocal leaving
        leaving = asyncio.create_task(follow())
        *found, _ = await asyncio.gather(*(follow() for _ in range(30)), tell())
        return found

    leaving = None
    found = asyncio.run(all_of_them())
    for pieces in found:
        *events, last = events_of(b"".join(pieces).decode())
        assert last["event"] == "job.ended"
        messages = [json.loads(one["data"])["message"] for one in events]
        assert messages == ["Created job", *(f"line {number}" for number in range(20)), "Job cancelled"]
    if page == 500:
        assert (
            len(looks) < 31 + 40
        )  # each once at first, then together: not 30 times in each twentieth of a second
    assert not streams._tails


def test_a_number_that_was_never_told_spoils_nothing(client, site, who):
    job = site.jobs.submit(who, "scripted", {})
    site.jobs.ask(who, job.id, "cancel")
    head = {"accept": "text/event-stream"}
    far = client.get(f"/luthier/v1/jobs/{job.id}/events?after={1 << 60}", headers=head)
    assert [one["event"] for one in events_of(far.text)] == ["job.ended"]

    import asyncio

    other = site.jobs.submit(who, "scripted", {})
    streams = Streams(site, look_s=0.01, beat_s=0.0)

    async def follow():
        answer = await streams.open(who, other.id, 1 << 60, _still)
        pieces = answer.body_iterator
        assert await anext(pieces) == b": beat\n\n"
        site.jobs.ask(who, other.id, "cancel")
        return [one async for one in pieces if one != b": beat\n\n"]

    told = asyncio.run(follow())
    assert b"Job cancelled" in told[0] and b"job.ended" in told[1]


@pytest.mark.parametrize(("away", "ends"), [(4, False), (5, True)])
def test_a_stream_bears_it_that_the_records_are_away_for_a_moment(site, who, away, ends):
    import asyncio

    from luthier.core.errors import Busy

    job = site.jobs.submit(who, "scripted", {})
    site.jobs.ask(who, job.id, "cancel")
    streams, look = Streams(site, look_s=0.01), []

    def failing(*given):
        look.append(given)
        if len(look) <= away:
            raise Busy("away")
        return Streams._look(streams, *given)

    streams._look = failing

    async def follow():
        return [piece async for piece in streams._pieces(who, job.id, 0, _still)]

    pieces = asyncio.run(follow())
    assert (pieces == []) is ends
    assert ends or b"job.ended" in pieces[-1]


def test_a_stream_ends_with_the_right_to_read_it(site, who, first_key, monkeypatch):
    import asyncio

    from starlette.requests import Request

    from luthier.server.guard import Guard
    from luthier.server.platform import job_stream
    from luthier.server.platform.jobs import JobRoutes
    from luthier.server.platform.ring import Ring

    monkeypatch.setattr(job_stream, "STILL_S", 0.0)
    job = site.jobs.submit(who, "scripted", {})
    routes = JobRoutes(site)
    routes._streams = Streams(site, look_s=0.01, beat_s=0.0)
    path = f"/luthier/v1/jobs/{job.id}/events"
    head = {"host": "127.0.0.1", "authorization": f"Bearer {first_key}", "accept": "text/event-stream"}
    scope = {
        "type": "http", "method": "GET", "path": path, "query_string": b"", "app": None,
        "headers": [(name.encode(), value.encode()) for name, value in head.items()],
    }  # fmt: skip

    async def follow():
        async def app(scope, receive, send):
            answer = await routes.events(Request(scope), job.id)
            assert routes._streams._open[who.project] == 1
            pieces = answer.body_iterator
            assert b"Created job" in await anext(pieces)
            site.store.accounts.end_key(who.key_id, site.top.actor.act("key.ended", who.key_id))
            async with asyncio.timeout(20):
                assert {piece async for piece in pieces} <= {b": beat\n\n"}

        await Guard(app, Ring(site), (), routes=JobRoutes.ROUTES)(scope, None, None)

    asyncio.run(follow())


def test_streams_are_bounded_for_each_project_from_when_they_are_opened(site, who, monkeypatch):
    import asyncio

    from luthier.server.errors import ApiError
    from luthier.server.platform import job_stream

    monkeypatch.setattr(job_stream, "MOST_OF_A_PROJECT", 2)
    job = site.jobs.submit(who, "scripted", {})
    site.jobs.ask(who, job.id, "cancel")
    streams = Streams(site)

    async def ask():
        first, _ = [await streams.open(who, job.id, 0, _still) for _ in range(2)]
        with pytest.raises(ApiError, match="2 of the project"):
            await streams.open(who, job.id, 0, _still)
        await first({"type": "http", "asgi": {"spec_version": "2.4"}}, None, _nothing)
        await streams.open(who, job.id, 0, _still)

    asyncio.run(ask())


async def _still():
    return True


async def _nothing(_message):
    pass


def test_schedules(client):
    made = client.post(
        "/luthier/v1/schedules", json={"title": "nightly", "cron": "0 3 * * *", "recipe": RECIPE}
    )
    assert made.status_code == 201, made.text
    one = made.json()
    path = f"/luthier/v1/schedules/{one['id']}"
    assert one["enabled"]
    assert one["job"]["kind"] == "recipe"
    assert client.post(path, json={"enabled": False}).json()["enabled"] is False
    assert [found["id"] for found in client.get("/luthier/v1/schedules").json()["data"]] == [one["id"]]
    assert client.delete(path).json()["deleted"]
    assert client.get(path).status_code == 404
    wrong = client.post("/luthier/v1/schedules", json={"title": "x", "cron": "hourly", "recipe": RECIPE})
    assert wrong.status_code == 400
    outside = client.post(
        "/luthier/v1/schedules",
        json={"title": "x", "cron": "@daily", "recipe": RECIPE.replace("rows.jsonl", "/etc/x")},
    )
    assert "may not be read" in outside.json()["error"]["message"]


def test_roles(client, site, who):
    """A viewer sees jobs and asks nothing of them."""
    from luthier.core import keys
    from luthier.store.accounts import Grant, KeyRow, User

    text, key_id, sha256 = keys.generate()
    site.store.accounts.add(
        User("user_v", "person", "v", 0.0), Grant(who.project, "user_v", "viewer", 0.0), KeyRow(key_id, sha256, "user_v", who.project, "v", 0.0),
        act=who.actor.act("user.added", "user_v"),
    )  # fmt: skip
    head, job = {"authorization": f"Bearer {text}"}, submitted(client)["id"]
    assert client.get(f"/luthier/v1/jobs/{job}", headers=head).status_code == 200
    for path in ("jobs", f"jobs/{job}/cancel", f"jobs/{job}/priority", "schedules"):
        assert client.post(f"/luthier/v1/{path}", json={}, headers=head).status_code == 403
