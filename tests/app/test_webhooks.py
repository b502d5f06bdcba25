"""Signed, delivered at least once with one id, tried again later, given up in the end; the secret is nowhere but in one answer."""

import json
import os
import stat
import threading
import time

import httpx2
import pytest
from openai import OpenAI

from luthier.app.delivering import LEASE_S, MOST_TRIES, Deliverer
from luthier.app.server_key import derived
from luthier.app.site import Site
from luthier.app.webhooks import Webhooks, egress_of
from luthier.core.egress import Egress, NotReached
from luthier.core.errors import Conflict, NotFound, SpecError, StoreError
from luthier.store.webhooks import entered

EVAL = "eval.run.succeeded"


class Receiver(Egress):
    """Takes what would be sent; `status` is a number to answer or an error to raise."""

    def __init__(self, *statuses):
        super().__init__()
        self.__dict__.update(sent=[], statuses=list(statuses), lock=threading.Lock())

    def post(self, url, body, headers):
        self.target(url)
        with self.lock:
            self.sent.append((url, body, dict(headers)))
            answer = self.statuses.pop(0) if self.statuses else 200
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def site(tmp_path):
    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site")})
    site.key = site.found()
    return site


@pytest.fixture
def caller(site):
    return site.check(site.key)


def ended(site, caller, kind="eval_run", state="succeeded", id=None):
    job = site.jobs.submit(caller, kind, {}, id=id)
    with site.store.database.transaction() as connection:
        return entered(connection, type(job)(**{**vars(job), "state": state}))


def unwrapped(secret, body, headers):
    return OpenAI(api_key="x", webhook_secret=secret).webhooks.unwrap(body, headers)


def test_the_official_client_verifies_what_is_sent(site, caller):
    receiver = Receiver()
    hooks = Webhooks(site, receiver)
    hook, secret = hooks.create(caller, title="ci", url="https://hooks.example.com/x", events=[EVAL])
    assert ended(site, caller, id="evalrun_1") == 1
    assert Deliverer(site, receiver).step() == 1
    ((url, body, headers),) = receiver.sent
    event = unwrapped(secret, body, headers)
    assert (url, event.type, event.data.id) == (hook.url, EVAL, "evalrun_1")
    (row,) = hooks.deliveries(caller, hook.id)
    assert (row.state, row.tries, row.status, row.id) == ("delivered", 1, 200, headers["webhook-id"])
    with pytest.raises(Exception, match="signature"):
        unwrapped(secret, body.replace(b"evalrun_1", b"evalrun_2"), headers)


@pytest.mark.parametrize(
    ("kind", "state", "type"),
    [("fine_tune", "succeeded", "fine_tuning.job.succeeded"), ("fine_tune", "failed", "fine_tuning.job.failed"),
     ("fine_tune", "cancelled", "fine_tuning.job.cancelled"), ("eval_run", "failed", "eval.run.failed"),
     ("eval_run", "cancelled", "eval.run.canceled")],
)  # fmt: skip
def test_each_end_of_a_job_is_its_event(site, caller, kind, state, type):
    receiver = Receiver()
    hooks = Webhooks(site, receiver)
    _, secret = hooks.create(caller, title="a", url="https://a.example.com", events=[type])
    hooks.create(caller, title="other", url="https://b.example.com", events=[EVAL])
    assert ended(site, caller, kind, state) == 1
    assert ended(site, caller, "prepare", state) == ended(site, caller, kind, "paused") == 0
    Deliverer(site, receiver).step()
    ((_, body, headers),) = receiver.sent
    assert unwrapped(secret, body, headers).type == type


def test_what_does_not_arrive_comes_again_later_with_the_same_id(site, caller):
    receiver = Receiver(500, 302, SpecError("gone"))
    hooks = Webhooks(site, receiver)
    hook, _ = hooks.create(caller, title="a", url="https://a.example.com", events=[EVAL])
    ended(site, caller)
    now = [time.time()]
    deliverer = Deliverer(site, receiver, clock=lambda: now[0])
    waits = []
    for _ in range(4):
        assert deliverer.step() == 1
        assert deliverer.step() == 0  # not before its time
        (row,) = hooks.deliveries(caller, hook.id)
        waits.append(row.next_s - now[0])
        now[0] = row.next_s + 0.1
    assert (row.state, row.tries) == ("delivered", 4)
    assert 8 <= waits[0] <= 12 and 16 <= waits[1] <= 24 and 32 <= waits[2] <= 48
    assert len({headers["webhook-id"] for _, _, headers in receiver.sent}) == 1
    assert len({body for _, body, _ in receiver.sent}) == 1
    assert (
        len({headers["webhook-signature"] for _, _, headers in receiver.sent}) == 4
    )  # of another moment each


def test_given_up_after_the_last_try_and_told(site, caller):
    receiver = Receiver(*[503] * MOST_TRIES)
    hooks = Webhooks(site, receiver)
    hook, _ = hooks.create(caller, title="a", url="https://a.example.com", events=[EVAL])
    ended(site, caller)
    now = [time.time()]
    deliverer = Deliverer(site, receiver, clock=lambda: now[0])
    began = now[0]
    while deliverer.step():
        now[0] = hooks.deliveries(caller, hook.id)[0].next_s + 0.1
    (row,) = hooks.deliveries(caller, hook.id)
    assert (row.state, row.tries, row.status) == ("given_up", MOST_TRIES, 503)
    assert 2 * 86400 < now[0] - began < 4 * 86400
    (told,) = site.store.ledger.read(kind="webhook.given_up")
    assert told.subject == hook.id and told.data["why"] == "answered 503"


def test_two_deliverers_take_turns_and_a_dead_ones_claim_runs_out(site, caller):
    receiver = Receiver()
    hooks = Webhooks(site, receiver)
    hook, _ = hooks.create(caller, title="a", url="https://a.example.com", events=[EVAL])
    for _ in range(20):
        ended(site, caller)
    pair = [Deliverer(site, receiver), Deliverer(site, receiver)]
    threads = [threading.Thread(target=lambda one=one: [one.step() for _ in range(30)]) for one in pair]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(receiver.sent) == len({headers["webhook-id"] for _, _, headers in receiver.sent}) == 20

    ended(site, caller)
    ((dead, _),) = site.store.webhooks.claim(time.time(), LEASE_S, 8, 2)  # and its server is killed here
    now = time.time()
    assert Deliverer(site, receiver, clock=lambda: now + LEASE_S / 2).step() == 0
    assert Deliverer(site, receiver, clock=lambda: now + LEASE_S + 1).step() == 1
    assert not site.store.webhooks.settle(dead, "given_up", None, 0.0, "woke up late")
    assert hooks.deliveries(caller, hook.id)[0].state == "delivered"


def second(site):
    root = site.operator()
    organisation = site.accounts.projects(root)[0].organisation
    project = site.accounts.create_project(root, organisation, "second")
    user = site.accounts.create_user(root, "person", "another", scope=project.id, role="admin")
    return site.check(site.accounts.keys.create(root, scope=project.id, title="k", user=user.id).text)


def test_one_projects_slow_receiver_holds_up_nobody_else(site, caller):
    slow, over = threading.Event(), threading.Event()

    class Slow(Receiver):
        def post(self, url, body, headers):
            if "slow" in url:
                slow.set()
                over.wait(20)
            return super().post(url, body, headers)

    receiver, other = Slow(), second(site)
    hooks = Webhooks(site, receiver)
    hooks.create(caller, title="a", url="https://slow.example.com", events=[EVAL])
    hooks.create(other, title="b", url="https://quick.example.com", events=[EVAL])
    for who in [*[caller] * 20, other]:
        ended(site, who)
    assert [row.project for _, row in site.store.webhooks.claim(time.time(), 0.0, 16, 2)].count(
        other.project
    ) == 1
    with Deliverer(site, receiver, every_s=0.02).running():
        assert slow.wait(10)
        for _ in range(3):  # and again, while the slow ones are still under way
            count = len(receiver.sent)
            ended(site, other)
            until = time.monotonic() + 10
            while len(receiver.sent) == count and time.monotonic() < until:
                time.sleep(0.02)
            assert len(receiver.sent) > count
        assert {url for url, _, _ in receiver.sent} == {"https://quick.example.com"}
        over.set()


def test_a_host_that_did_not_answer_is_left_alone_for_a_while(site, caller):
    receiver = Receiver(NotReached("nobody"), 200)
    hooks = Webhooks(site, receiver)
    hook, _ = hooks.create(caller, title="a", url="https://a.example.com", events=[EVAL])
    now = [time.time()]
    deliverer = Deliverer(site, receiver, clock=lambda: now[0])
    for _ in range(2):
        ended(site, caller)
        now[0] = time.time() + 1
        assert deliverer.step() == 1
    assert len(receiver.sent) == 1
    assert {row.state for row in hooks.deliveries(caller, hook.id)} == {"waiting"}
    now[0] += 600
    assert deliverer.step() == 2
    assert {row.state for row in hooks.deliveries(caller, hook.id)} == {"delivered"}


def test_a_deliverer_in_its_thread_sends_and_stops(site, caller):
    receiver = Receiver()
    Webhooks(site, receiver).create(caller, title="a", url="https://a.example.com", events=[EVAL])
    with Deliverer(site, receiver, every_s=0.02).running():
        ended(site, caller)
        until = time.monotonic() + 10
        while not receiver.sent and time.monotonic() < until:
            time.sleep(0.02)
    assert len(receiver.sent) == 1


def test_another_secret_and_for_a_day_both(site, caller):
    receiver = Receiver()
    hooks = Webhooks(site, receiver)
    hook, first = hooks.create(caller, title="a", url="https://a.example.com", events=[EVAL])
    _, second = hooks.rotate(caller, hook.id, keep_previous=True)
    hooks.test(caller, hook.id, EVAL)
    for secret in (first, second):
        assert unwrapped(secret, *receiver.sent[-1][1:]).data.id == "evalrun_sample"
    _, third = hooks.rotate(caller, hook.id)
    hooks.test(caller, hook.id, EVAL)
    unwrapped(third, *receiver.sent[-1][1:])
    with pytest.raises(Exception, match="signature"):
        unwrapped(second, *receiver.sent[-1][1:])
    assert len({first, second, third}) == 3


def test_the_secret_is_in_no_record(site, caller):
    hooks = Webhooks(site, Receiver())
    _, secret = hooks.create(caller, title="a", url="https://a.example.com/t0ken-of-theirs", events=[EVAL])
    home = site.top.home
    assert stat.S_IMODE(os.stat(home / "server.key").st_mode) == 0o600
    kept = b"".join(path.read_bytes() for path in home.glob("luthier.db*"))
    for text in (secret, secret.removeprefix("whsec_"), (home / "server.key").read_bytes().hex()):
        assert text.encode() not in kept
    trail = json.dumps([entry.data for entry in site.store.audit.read(action="webhook.")], default=dict)
    assert "a.example.com" in trail and "t0ken" not in trail
    os.chmod(home / "server.key", 0o644)
    with pytest.raises(StoreError, match="read by others"):
        derived(home, "x")


def test_what_is_refused(site, caller):
    hooks = Webhooks(site, egress_of(site.environ))
    good = {"title": "a", "url": "https://a.example.com", "events": [EVAL]}
    for bad in ({"url": "http://a.example.com"}, {"url": "https://127.1/"}, {"events": []}, {"events": ["batch.completed"]},
                {"title": ""}, {"title": "a\nb"}):  # fmt: skip
        with pytest.raises(SpecError):
            hooks.create(caller, **{**good, **bad})
    hook, _ = hooks.create(caller, **good)
    stranger = type(caller)(**{**vars(caller), "project": "proj_other"})
    for ask in (lambda: hooks.get(stranger, hook.id), lambda: hooks.end(stranger, hook.id), lambda: hooks.rotate(stranger, hook.id),
                lambda: hooks.deliveries(stranger, hook.id), lambda: hooks.change(stranger, hook.id, title="x")):  # fmt: skip
        with pytest.raises(NotFound):
            ask()
    for _ in range(19):
        hooks.create(caller, **good)
    with pytest.raises(Conflict, match="20 webhooks"):
        hooks.create(caller, **good)
    hooks.end(caller, hook.id)
    with pytest.raises(NotFound):
        hooks.get(caller, hook.id)


def test_what_waits_for_a_webhook_that_was_deleted_is_not_sent(site, caller):
    receiver = Receiver()
    hooks = Webhooks(site, receiver)
    hook, _ = hooks.create(caller, title="a", url="https://a.example.com", events=[EVAL])
    ended(site, caller)
    hooks.end(caller, hook.id)
    assert Deliverer(site, receiver).step() == 0 and receiver.sent == []


def test_over_http_as_the_official_client_asks(site, caller):
    from fastapi.testclient import TestClient

    from luthier.server.platform.make import create_platform

    with TestClient(create_platform(site, {}), base_url="http://127.0.0.1:1") as http:
        told = http.post(
            "/v1/webhook_endpoints",
            json={"name": "ci", "url": "https://hooks.invalid/x", "event_types": [EVAL]},
            headers={"authorization": f"Bearer {site.key}"},
        ).json()

        def pass_on(request):
            answer = http.request(
                request.method, str(request.url), content=request.content, headers=dict(request.headers)
            )
            return httpx2.Response(answer.status_code, content=answer.content, headers=dict(answer.headers))

        client = OpenAI(
            api_key=site.key, base_url="http://127.0.0.1:1/v1", http_client=httpx2.Client(transport=httpx2.MockTransport(pass_on))
        )  # fmt: skip
        assert told["signing_secret"].startswith("whsec_")
        assert (
            client.webhooks.retrieve(told["id"]).signing_secret_hint
            == f"whsec_…{told['signing_secret'].rstrip('=')[-4:]}"
        )
        renewed = client.webhooks.rotate_secret(told["id"], keep_old_secret_active_for_24_hours=True)
        assert renewed.signing_secret != told["signing_secret"]
        assert client.webhooks.update(told["id"], name="other").name == "other"
        assert [one.id for one in client.webhooks.list(limit=1)] == [told["id"]]
        assert EVAL in client.webhooks.event_types.list().data
        with pytest.raises(Exception, match="not found"):  # .invalid leads nowhere
            client.webhooks.test(told["id"], event_type=EVAL)
        assert client.webhooks.delete(told["id"]).deleted
        assert list(client.webhooks.list()) == []


def test_on_postgresql_two_deliverers_take_turns(postgres_url, tmp_path):
    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site"), "LUTHIER_DATABASE": postgres_url})
    caller = site.check(site.found())
    receiver = Receiver()
    Webhooks(site, receiver).create(caller, title="a", url="https://a.example.com", events=[EVAL])
    for _ in range(12):
        ended(site, caller)
    pair = [Deliverer(site, receiver), Deliverer(site, receiver)]
    threads = [threading.Thread(target=lambda one=one: [one.step() for _ in range(6)]) for one in pair]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(receiver.sent) == len({headers["webhook-id"] for _, _, headers in receiver.sent}) == 12
