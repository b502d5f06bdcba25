"""Rollouts through the App: every step recorded, plans of recipes, two operators, and the rule over what servers have told."""

import threading

import pytest

from luthier.app.app import App
from luthier.core.errors import Conflict, NotFound, SpecError
from luthier.core.event import Event
from luthier.deployment.evidence import Count, Tally
from luthier.deployment.spec import RolloutSpec

FAST = {"canary": ["10%", "100%"], "each": 0, "least": 10}


@pytest.fixture
def app(tmp_path):
    found = App.open({"LUTHIER_HOME": str(tmp_path / "home")})
    for number in (1, 2, 3):
        key = str(number) * 64
        with found.store.working(key) as (out, _):
            (out / "release.json").write_text(f'{{"n": {number}}}')
            made = found.store.commit("release", key, {"n": number}, 1, {}, out, {})
        found.store.catalog.name("router", made.digest)
    return found


def start(app, ref="router@2", plan=FAST):
    return app.rollouts.start(ref, by="ann", reason="new data", plan=plan)


def seen(app, at, requests=10, **counts):
    app.rollouts.observe(at, Tally(requests=requests, counts=counts))


def test_a_rollout_from_start_to_promotion_and_back(app):
    at = start(app)
    assert (at.stable, at.candidate, at.state, at.share) == ("router@1", "router@2", "canary", 0.1)
    seen(app, at)
    at = app.rollouts.review("router")
    assert (at.state, at.share, at.by) == ("canary", 1.0, "the rule") and "10 requests" in at.reason
    assert app.rollouts.review("router") == at  # the ten were of the stage before
    seen(app, at)
    assert app.rollouts.review("router").state == "promoted"
    back = app.rollouts.roll_back("router", by="bob", reason="complaints came in")
    assert back.answers == "router@1"
    assert [h.action for h in app.rollouts.history("router")] == ["start", "advance", "advance", "roll_back"]
    told = list(app.store.ledger.read(kind="rollout", subject="router"))
    assert [(e.data["by"], e.data["state"]) for e in told] == [
        ("ann", "canary"), ("the rule", "canary"), ("the rule", "promoted"), ("bob", "rolled_back"),
    ]  # fmt: skip
    assert all(e.data["reason"] and e.time_s for e in told)
    assert app.rollouts.listing() == [back]


def test_the_next_rollout_starts_from_what_answers(app):
    start(app)
    app.rollouts.promote("router", by="ann", reason="sure")
    assert start(app, "router").stable == "router@2"  # NAME is the newest, router@3
    app.rollouts.roll_back("router", by="ann", reason="not sure")
    assert start(app, "router@3").stable == "router@2"


def test_a_candidate_that_is_worse_is_taken_back_with_the_numbers(app):
    at = start(app)
    seen(app, at, 100, error_rate=Count(worse=60, same=40))
    at = app.rollouts.review("router")
    assert at.state == "rolled_back" and at.by == "the rule" and "error_rate +60.0%" in at.reason
    assert app.rollouts.review("router") == at


def test_servers_are_added_up(app):
    at = start(app, plan={**FAST, "least": 1000})
    for _ in range(5):  # no one of them has enough
        seen(app, at, 5, error_rate=Count(worse=5))
    assert app.rollouts.status("router").requests == 25
    assert app.rollouts.review("router").state == "rolled_back"


def test_drift_pauses_once(app):
    at = start(app, plan={**FAST, "least": 1000})
    app.store.ledger.append(Event("drift", "router", {"reason": "lengths changed"}, at.time_s - 1))
    assert app.rollouts.review("router").state == "canary"
    app.store.ledger.append(Event("drift", "other", {}))
    app.store.ledger.append(Event("drift.look", "router", {"alarms": []}))
    assert app.rollouts.review("router").state == "canary"
    app.store.ledger.append(Event("drift", "router", {"reason": "lengths changed"}))
    at = app.rollouts.review("router")
    assert at.state == "paused" and "lengths changed" in at.reason
    app.rollouts.resume("router", by="ann", reason="looked at it")
    assert app.rollouts.review("router").state == "canary"
    app.store.ledger.append(Event("drift.look", "router", {"alarms": [{"view": "lengths"}]}))
    at = app.rollouts.review("router")
    assert at.state == "paused" and "found a shift" in at.reason
    app.rollouts.resume("router", by="ann", reason="looked at it")
    for alarms in ([{"view": "lengths"}], []):  # one step looked at two windows, and the newer is quiet
        app.store.ledger.append(Event("drift.look", "router", {"alarms": alarms}))
    assert app.rollouts.review("router").state == "paused"


def test_bad_feedback_takes_it_back(app):
    from luthier.store.traffic import Exchange, Judgement

    at = start(app, plan={**FAST, "least": 1000})
    for i in range(40):
        for release, rating in (("router@1", 1.0), ("router@2", -1.0)):
            ident = f"{release}-{i}"
            app.store.traffic.keep(
                Exchange(ident, "router", release, "d", "k", None, [], [{"text": "a", "refusal": None}], None, 0, at.time_s + 1)
            )  # fmt: skip
            app.store.traffic.judge([Judgement(ident, 0, rating, None, None, "ann", at.time_s + 2)])
    at = app.rollouts.review("router")
    assert at.state == "rolled_back" and "feedback +100.0%" in at.reason


def test_a_person_must_agree(app):
    at = start(app, plan={"canary": [1], "each": 0, "least": 1, "approve": "human"})
    seen(app, at)
    assert app.rollouts.review("router").state == "awaiting_approval"
    assert app.rollouts.review("router").state == "awaiting_approval"
    assert app.rollouts.status("router").waits_for() == "somebody to approve it"
    at = app.rollouts.approve("router", by="carol", reason="read the report")
    assert at.state == "promoted" and at.by == "carol"


def test_two_operators_at_once(app, monkeypatch):
    start(app)
    both, told = threading.Barrier(2), []
    current = app.rollouts.current

    class Slow(type(app.rollouts)):
        def current(self, name):
            found = current(name)
            both.wait()  # both have looked before either writes
            return found

    def act(verb):
        try:
            getattr(Slow(app), verb)("router", by=verb, reason="because")
            told.append("done")
        except Conflict as error:
            told.append(error.message)

    threads = [threading.Thread(target=act, args=(verb,)) for verb in ("promote", "roll_back")]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert told.count("done") == 1
    assert len([t for t in told if "a moment before you" in t]) == 1
    assert len(app.rollouts.history("router")) == 2


def test_the_rule_gives_way_to_a_person(app, monkeypatch):
    at = start(app)
    seen(app, at)
    drifted = type(app.rollouts)._drifted

    def meanwhile(self, at):
        app.rollouts.pause("router", by="ann", reason="wait")
        return drifted(self, at)

    monkeypatch.setattr(type(app.rollouts), "_drifted", meanwhile)
    assert app.rollouts.review("router").state == "paused"


def test_a_broken_candidate_is_out(app):
    at = start(app)
    assert app.rollouts.reject(at, "no weights").state == "rejected"
    assert app.rollouts.reject(at, "no weights").step == 2  # another server says the same: nothing new


def test_the_plan_is_the_recipes(app):
    recipe = "name: router\ndeploy: {rollout: {shadow: 1 h, canary: [50%], approve: human}}\n"
    for run, release, overrides in (
        ("run-1", "router@2", ["deploy.rollout.least=7"]),
        ("run-2", "router@3", []),
    ):
        told = {"recipe": recipe, "overrides": overrides}
        app.store.ledger.append(Event("run.started", run, told))
        app.store.ledger.append(Event("run.finished", run, {"release": release}))
        recipe = "name: router\n"
    at = app.rollouts.start("router@2", by="ann", reason="so")
    assert (at.state, at.plan.shadow, at.plan.canary, at.plan.least, at.plan.approve) == (
        "shadow",
        3600,
        [0.5],
        7,
        "human",
    )
    app.rollouts.roll_back("router", by="ann", reason="so")
    assert (
        app.rollouts.start("router@3", by="ann", reason="so").plan == RolloutSpec()
    )  # its recipe says nothing of it


def test_what_is_kept_is_what_was_begun(app):
    for plan in (RolloutSpec(ab=0.5), RolloutSpec(shadow=60), RolloutSpec.model_validate(FAST)):
        at = start(app, plan=plan)
        assert app.rollouts.current("router") == at
        app.rollouts.roll_back("router", by="ann", reason="so")


def test_what_cannot_be_begun(app):
    with pytest.raises(NotFound, match="ruoter"):
        start(app, "ruoter")
    with pytest.raises(NotFound, match="versions 1, 2, 3"):
        start(app, "router@9")
    with pytest.raises(SpecError, match="no key 'canry'"):
        start(app, plan={"canry": [1]})
    for by, reason in (("", "why"), ("ann", " "), ("ann", "a\u202eb")):
        with pytest.raises(SpecError):
            app.rollouts.start("router@2", by=by, reason=reason)
    with pytest.raises(NotFound, match="has no rollout"):
        app.rollouts.promote("router", by="ann", reason="so")
    with pytest.raises(NotFound, match="nothing here is called"):
        app.rollouts.status("nobody")
    start(app)
    with pytest.raises(SpecError, match="cannot start"):
        start(app, "router@3")


def test_the_only_version_of_a_name_has_nothing_to_take_over_from(app):
    app.store.catalog.name("single", app.store.catalog.get("router@1").digest)
    with pytest.raises(SpecError, match="only version"):
        start(app, "single")


def test_the_first_rollout_takes_over_from_what_is_served(app):
    """A server that began when router@1 was the newest still answers with it, whatever was released since."""
    app.rollouts.serving("router", "router@1")
    assert start(app, "router@3").stable == "router@1"


def test_what_is_served_takes_over_from_nothing(app):
    app.rollouts.serving("router", "router@3")
    with pytest.raises(SpecError, match="router@3 is what answers already"):
        start(app, "router@3")


def test_status_says_what_it_waits_for(app):
    at = start(app, plan={**FAST, "advance": "not_worse"})
    assert app.rollouts.status("router").waits_for() == (
        "10 more requests to the candidate, which gets 10 % of all and proof that it is no worse in error_rate, latency, refusals"
    )
    seen(app, at, 10, error_rate=Count(same=1000), refusals=Count(same=1000))
    assert app.rollouts.status("router").waits_for() == "proof that it is no worse in latency"
    app.rollouts.promote("router", by="ann", reason="sure")
    at = start(app, "router@3", plan={"shadow": 60, "least": 5})
    assert "5 more copies" in app.rollouts.status("router").waits_for()


def test_what_waits_for_a_person_does_not_answer(app):
    """A new run gives its release a version before anybody has approved it."""
    assert app.rollouts.answering("router") == "router@3" and app.rollouts.answering("nobody") is None
    app.store.ledger.append(Event("retrain", "router", {"state": "pending", "release": "router@3"}))
    assert app.rollouts.answering("router") == "router@2"
    app.store.ledger.append(Event("retrain", "router", {"state": "declined", "release": "router@3"}))
    assert app.rollouts.answering("router") == "router@2"
    assert start(app, "router@3").stable == "router@2"
    app.rollouts.promote("router", by="ann", reason="sure")
    assert app.rollouts.answering("router") == "router@3"
