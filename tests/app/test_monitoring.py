"""A desk that is watched: a release of records alone (no model is trained), traffic with a clock of our own, and cron's command."""

from __future__ import annotations

import html
import json
import re
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.app.acting import system_user
from luthier.app.app import App
from luthier.app.models import Models
from luthier.app.monitoring import Monitor
from luthier.app.retraining import Retraining
from luthier.core.artifact import key_of
from luthier.core.errors import Busy, Interrupted, NotFound, SpecError
from luthier.core.event import Event
from luthier.core.spec import resolve
from luthier.data.connectors.traffic import TrafficConnector
from luthier.data.records import RECORD
from luthier.evaluation import predictions
from luthier.monitoring import retrain as rule
from luthier.store.traffic import Exchange, Judgement

DAY = 86_400.0
START = 30_000 * DAY  # later than any clock says, so that what is made now was there before
SUBJECTS = {
    "billing": ["invoice", "payment", "refund", "charge", "receipt", "account", "balance", "tax", "amount"],
    "delivery": ["parcel", "courier", "package", "address", "depot", "tracking", "driver", "door", "lorry"],
}
OTHER = ["router", "modem", "firmware", "wifi", "antenna", "signal", "password", "browser"]
GLUE = [
    "the",
    "my",
    "is",
    "was",
    "not",
    "and",
    "with",
    "for",
    "please",
    "about",
    "this",
    "when",
    "will",
    "you",
    "have",
]
RECIPE = """\
name: desk
base: tiny
task: {{kind: classify, labels: [billing, delivery]}}
data:
  sources: [{{files: rows.jsonl}}]
  rules: {{quality: [normalize], quantity: [{{sample: {{n: 5000}}}}]}}
  split: {{validation: 0.1, test: 0.1}}
evaluate: {{against: [base]}}
monitor:
{monitor}
"""
PLAIN = "  drift: {every: 1 day}"


def sentence(generator, words):
    return " ".join(
        generator.choice(words if generator.random() < 0.4 else GLUE)
        for _ in range(generator.integers(8, 25))
    )


@dataclass
class Desk:
    app: App
    folder: Path
    now_s: float = START

    @property
    def monitor(self):
        return Monitor(self.app, lambda: self.now_s)

    def traffic(self, day, n=50, *, words=None, seed=0, release="desk@1", mix=0.5, right=0.9, prefix="q"):
        """A day's requests; the clock is an hour after its end."""
        generator = np.random.default_rng([day, seed])
        for i in range(n):
            label = "billing" if generator.random() < mix else "delivery"
            self.app.store.traffic.keep(
                Exchange(
                    f"{prefix}{day}-{seed}-{i}", "desk", release, "p" * 64, "k", None,
                    [{"role": "user", "content": sentence(generator, words or SUBJECTS[label])}],
                    [{"text": label if generator.random() < right else "delivery", "refusal": None}],
                    float(generator.beta(8, 2)), 0, START + day * DAY + DAY * i / n,
                )
            )  # fmt: skip
        self.now_s = START + (day + 1) * DAY + 3600

    def judge(self, day, n, *, correction=None, rating=None, seed=0):
        self.app.store.traffic.judge(
            [
                Judgement(f"q{day}-{seed}-{i}", 0, rating, correction, None, "people", self.now_s)
                for i in range(n)
            ]
        )

    def events(self, kind):
        return list(self.app.store.ledger.read(kind=kind, subject="desk"))


def release(app, folder, recipe):
    """A release desk@1 with the files that monitoring reads, and its run in the ledger."""
    store, generator = app.store, np.random.default_rng(0)
    sides = {"train": 600, "validation": 80, "test": 300}
    lines = []

    def dataset(out):
        for side, n in sides.items():
            rows = []
            for i in range(n):
                label = ("billing", "delivery")[i % 2]
                asked = sentence(generator, SUBJECTS[label])
                turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": label}]
                rows.append(
                    {"id": f"{side}{i:04d}", "messages": turns, "label": label, "source": "rows.jsonl"}
                )
                if side == "test":
                    said = label if generator.random() < 0.9 else "delivery"
                    lines.append(
                        {"id": f"{side}{i:04d}", "model": "tuned", "reference": label, "prediction": said, "correct": said == label,
                         "probability": float(generator.beta(8, 2))}
                    )  # fmt: skip
            pq.write_table(pa.Table.from_pylist(rows, RECORD), out / f"{side}.parquet")
        (out / "dataset.json").write_text(json.dumps({"labels": ["billing", "delivery"]}))

    def report(out):
        predictions.write(predictions.table(lines), out / "predictions.parquet")
        (out / "report.json").write_text(
            json.dumps({"task": {"kind": "classify", "labels": ["billing", "delivery"]}})
        )

    def made(kind, fill, parents):
        digests = {role: one.digest for role, one in parents.items()}
        key = key_of(kind, {}, 1, digests)
        with store.working(key) as (out, _):
            fill(out)
            return store.commit(kind, key, {}, 1, digests, out, {})

    of = made("dataset", dataset, {})
    told = made("report", report, {"dataset": of})
    done = made("release", lambda out: None, {"dataset": of, "report": told})
    store.catalog.name("desk", done.digest)
    store.ledger.append(
        Event(
            "run.started",
            "run-1",
            {"name": "desk", "recipe": recipe, "overrides": [], "source": "recipe.yaml"},
        ),
        Event("run.finished", "run-1", {"name": "desk", "release": "desk@1"}),
    )


@pytest.fixture
def desk(tmp_path, request):
    monitor = getattr(request, "param", PLAIN)
    app = App.open({"LUTHIER_HOME": str(tmp_path / "home"), "SECRET": "s" * 20})
    release(app, tmp_path, RECIPE.format(monitor=monitor))
    return Desk(app, tmp_path)


def test_steps_look_at_each_window_once_and_tell_once(desk):
    for day in range(3):
        desk.traffic(day)
    first = desk.monitor.step("desk")
    assert [one["rows"] for one in first.looks] == [50, 50, 50] and not first.told
    again = desk.monitor.step("desk")
    assert not again.looks and len(desk.events("drift.look")) == 3
    for day in (3, 4):
        desk.traffic(day, 60, words=OTHER)
        found = desk.monitor.step("desk")
        if found.told:
            break
    [alert] = found.told
    assert alert.group == "content" and len(alert.examples) == 3 and "router" in str(alert.examples)
    desk.traffic(day + 1, 60, words=OTHER, seed=1)
    later = desk.monitor.step("desk")
    assert not later.told and later.open == [alert.id.partition(":")[2]]


def test_an_hour_of_a_day_that_is_not_over_is_left_alone(desk):
    desk.traffic(0)
    desk.now_s = START + DAY + 10
    assert not desk.monitor.step("desk").looks, "exchanges may still be on their way"
    desk.now_s = START + DAY + 61
    assert len(desk.monitor.step("desk").looks) == 1


def test_a_step_that_is_asked_to_stop_looks_no_further(desk):
    desk.traffic(0)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        desk.monitor.step("desk", stop=stop)
    assert not desk.events("drift.look")


def test_a_row_of_the_future_and_one_that_came_late_hide_nothing(desk):
    desk.traffic(3, 1, prefix="future")
    for day in (1, 0):  # what was asked first is written last
        desk.traffic(day, 50)
    desk.now_s = START + 2 * DAY + 3600
    assert [one["rows"] for one in desk.monitor.step("desk").looks] == [50, 50]


def test_no_words_of_people_are_in_the_ledger(desk):
    desk.traffic(0, 60, words=["confidential", "widgets", "sprocket"])
    desk.monitor.step("desk")
    assert "sprocket" not in json.dumps([dict(e.data) for e in desk.app.store.ledger.read()])
    assert desk.events("drift.look")[0].data["alarms"]


def test_one_step_at_a_time(desk):
    with desk.monitor._alone("desk"), pytest.raises(Busy, match="another process"):
        desk.monitor.step("desk")


def test_a_killed_step_goes_on_where_it_was(desk, monkeypatch):
    for day in range(2):
        desk.traffic(day, 60, words=OTHER)
    monitor = desk.monitor
    monkeypatch.setattr(monitor, "_tell", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        monitor.step("desk")
    found = desk.monitor.step("desk")
    assert not found.looks and [one.group for one in found.told].count("content") == 1
    assert not desk.monitor.step("desk").told


def test_a_report_of_one_stretch(desk):
    desk.traffic(0, 60)
    desk.traffic(1, 60, words=OTHER)
    desk.judge(1, 20, rating=-1.0)
    found = desk.monitor.report("desk", since="3 days")
    told = {one.view: one for one in found.views}
    assert told["unknown"].differs and not told["private"].differs
    assert found.rows == 120 and found.whole.told_apart.low > 0.5
    assert found.quality.judged == 20 and found.quality.worse
    assert json.loads(json.dumps(found.plain(), allow_nan=False))["views"]


def test_an_alarm_of_quality_tells_what_was_judged_and_not_what_was_asked_meanwhile(desk):
    for day in range(2):
        desk.traffic(day, 60)
    desk.judge(0, 20, rating=1.0)
    desk.judge(1, 60, rating=-1.0)
    desk.monitor.step("desk")
    [alarm] = [
        one
        for event in desk.events("drift.look")
        for one in event.data["alarms"]
        if one["group"] == "quality"
    ]
    [[view, _, now]] = alarm["tested"]
    assert (view, now) == (
        "right",
        "25.0%",
    )  # though in the first window, where it is told, all that was judged was right


def test_the_page_fetches_nothing_and_shows_hostile_text_as_text(desk):
    from luthier.app.report.monitor_page import render

    desk.traffic(0, 60)
    for i in range(20):
        asked = f"<script>alert(1)</script> jo@firm.com \u202e zebra quagga okapi tapir gnu{i}"
        desk.app.store.traffic.keep(
            Exchange(f"evil{i}", "desk", "desk@1", "p" * 64, "k", None, [{"role": "user", "content": asked}],
                     [{"text": "billing", "refusal": None}], 0.9, 0, desk.now_s - 7200)
        )  # fmt: skip
    desk.monitor.step("desk")
    written = render(desk.monitor.report("desk", since="3 days"))
    assert "<script" not in written
    page = html.unescape(written)
    assert "jo@firm.com" not in page and "\u202e" not in page and "default-src 'none'" in page
    assert "alert(1)" in page, "the strangest request is shown"
    assert not re.search(r"https?://|<link|<img", page)
    assert page.count("<svg") > 5


def test_another_release_begins_anew_and_a_canary_does_not_flap(desk):
    desk.traffic(0)
    desk.monitor.step("desk")
    desk.app.store.catalog.name("desk", desk.app.store.catalog.get("desk@1").digest)
    desk.traffic(1, 50)
    desk.traffic(1, 10, release="desk@2", seed=1)
    desk.monitor.step("desk")
    looks = desk.events("drift.look")
    assert [e.data["release"] for e in looks] == ["desk@1", "desk@1"]


def test_a_baseline_of_good_traffic(desk):
    for day in range(4):
        desk.traffic(day, 60, words=OTHER)
    assert desk.monitor.step("desk").told
    done = desk.monitor.baseline("desk", since="5 days", by="ann", because="the desk has moved")
    assert done["rows"] == 240
    for day in range(4, 7):
        desk.traffic(day, 60, words=OTHER)
    found = desk.monitor.step("desk")
    assert len(found.looks) == 3 and not found.told and not found.open
    assert desk.monitor.show("desk")["baseline"]["because"] == "the desk has moved"


def test_a_baseline_that_was_judged_otherwise_is_another_reference(desk):
    desk.traffic(0, 150)
    take = lambda: desk.monitor.baseline("desk", since="5 days", by="ann", because="good")["reference"]  # noqa: E731
    first = take()
    assert take() == first
    desk.judge(0, 80, rating=1.0)
    assert take() != first


def test_what_cannot_be(desk):
    with pytest.raises(NotFound, match="no traffic"):
        desk.monitor.report("desk")
    with pytest.raises(SpecError, match="neither a time"):
        desk.monitor.report("desk", since="yesterday")
    with pytest.raises(NotFound, match="nobody has looked"):
        desk.monitor.show("desk")
    with pytest.raises(NotFound, match="waits for approval"):
        desk.monitor.approve("desk", by="ann", reason="why not")
    desk.app.store.traffic.keep(
        Exchange(
            "b",
            "base-model",
            None,
            "p" * 64,
            "k",
            None,
            [{"role": "user", "content": "x"}],
            [],
            None,
            0,
            START,
        )
    )
    desk.now_s = START + 2 * DAY
    [(what, why)] = desk.monitor.step("base-model").failed
    assert what == "look" and "luthier monitor baseline" in why


# -- alerts --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "desk",
    ["  alerts: {webhook: {url: 'http://127.0.0.1:9/x', secret: '${SECRET}'}, examples: 1}"],
    indirect=True,
)
def test_a_message_that_does_not_get_through_is_tried_again(desk, monkeypatch):
    from luthier.monitoring import webhook

    desk.traffic(0, 60, words=OTHER)
    found = desk.monitor.step("desk")
    assert found.told and {channel for channel, _ in found.failed} == {"webhook"}
    sent = []
    monkeypatch.setattr(webhook, "send", lambda alert, spec, secret, now_s: sent.append(alert))
    again = desk.monitor.step("desk")
    assert {alert.id for alert in found.told} == {alert.id for alert in sent} and not again.told
    assert len(sent[0].examples) == 1
    desk.monitor.step("desk")
    assert len(sent) == len(found.told)


# -- a new run -----------------------------------------------------------------------------------------------------------------

RETRAIN = "  retrain: {on: [drift, labels], min_labels: 30, replay: 0.25, at_most_every: 0 s}"


@pytest.fixture
def started(monkeypatch):
    """What rollouts were begun, instead of beginning them."""
    from luthier.app.rollouts import Rollouts

    found = []
    monkeypatch.setattr(
        Rollouts, "start", lambda _, ref, *, by, reason, plan=None: found.append((ref, by, reason))
    )
    return found


@pytest.fixture
def runs(monkeypatch):
    """What would be run; each gives the next version."""
    from types import SimpleNamespace

    from luthier.app import running

    found = []

    def run_line(wish, at, *, also=None):
        found.append(wish)
        return SimpleNamespace(release=f"desk@{len(found) + 1}")

    monkeypatch.setattr(running, "run_line", run_line)
    return found


@pytest.mark.parametrize("desk", [RETRAIN], indirect=True)
def test_a_new_run_waits_for_labels_and_then_for_a_person(desk, runs, started):
    desk.traffic(0, 60)
    assert desk.monitor.step("desk").retrain.why == "nothing makes it due"
    desk.judge(0, 20, correction="billing")
    assert not runs
    desk.judge(0, 35, rating=1.0)
    found = desk.monitor.step("desk").retrain
    assert (found.state, found.release) == ("pending", "desk@2") and not started
    [wish] = runs
    feedback = wish.recipe.data.sources[-1]
    assert (feedback.connector, feedback.name, feedback.settings.name) == ("traffic", "feedback", "desk")
    [sample, replay] = wish.recipe.data.rules.quantity
    assert (sample.name, replay.name) == ("sample", "replay")
    assert (replay.settings.new, replay.settings.at_most) == (["feedback"], 12), (
        "35 new rows, a quarter old: 35 / 3"
    )
    base, production = wish.recipe.evaluate.against
    assert base == "base" and production.production == "desk@1", "the release that answers"
    assert wish.recipe.evaluate.gate["macro_f1"].not_worse_than == "production"
    assert desk.monitor.step("desk").retrain.state == "pending" and len(runs) == 1
    done = desk.monitor.approve("desk", by="ann", reason="looked at")
    assert done["state"] == "handed over" and started == [("desk@2", "ann", "looked at")]
    assert desk.monitor.step("desk").retrain.state == "waiting"
    with pytest.raises(NotFound):
        desk.monitor.approve("desk", by="ann", reason="again")


@pytest.mark.parametrize("desk", [RETRAIN.replace("on:", "approve: gate, on:")], indirect=True)
def test_the_gate_alone_hands_over_and_a_failed_rollout_is_tried_again(desk, runs, request):
    desk.traffic(0, 60)
    desk.judge(0, 40, correction="billing")
    found = desk.monitor.step("desk").retrain
    assert found.state == "approved" and "desk@2" in found.why  # there is no such version: nothing ran
    started = request.getfixturevalue("started")
    assert desk.monitor.step("desk").retrain.state == "handed over" and len(runs) == 1
    assert started[0][0] == "desk@2"


@pytest.mark.parametrize("desk", [RETRAIN], indirect=True)
def test_a_run_that_was_cut_off_goes_on_with_the_same_rows(desk, runs, monkeypatch):
    from luthier.app import running
    from luthier.core.errors import Interrupted

    desk.traffic(0, 60)
    desk.judge(0, 40, correction="billing")
    whole = running.run_line
    monkeypatch.setattr(running, "run_line", lambda *a, **k: (_ for _ in ()).throw(Interrupted("stopped")))
    with pytest.raises(Interrupted):
        desk.monitor.step("desk")
    monkeypatch.setattr(running, "run_line", whole)
    until = desk.events("retrain")[-1].data["until"]
    desk.now_s += 7200
    desk.traffic(1, 10)
    desk.app.store.traffic.judge(
        [Judgement(f"q0-0-{i}", 0, None, "delivery", None, "people", desk.now_s) for i in (0, 50, 51)]
    )
    desk.monitor.step("desk")
    source = runs[0].recipe.data.sources[-1]
    assert source.settings.until == until and len(desk.events("retrain")) == 2
    home = {"LUTHIER_HOME": str(desk.app.home)}
    connector = TrafficConnector(source, desk.folder, lambda text: resolve(text, home))
    assert connector.pinned()["rows"] == 40, "three that were judged meanwhile are for the next run"
    assert all("billing" in str(row["messages"][-1]) for row in connector.head(100).rows)


@pytest.mark.parametrize("desk", [RETRAIN], indirect=True)
def test_a_declined_model_is_not_what_the_next_is_compared_with(desk, runs):
    store = desk.app.store
    with store.working("2" * 64) as (out, _):
        parents = dict(store.catalog.get("desk@1").parents)
        made = store.commit("release", "2" * 64, {"n": 2}, 1, parents, out, {})
    store.catalog.name("desk", made.digest)
    assert [str(one) for one in store.catalog.history("desk")] == ["desk@1", "desk@2"]
    store.ledger.append(Event("retrain", "desk", {"state": "declined", "release": "desk@2"}, START))
    desk.traffic(0, 60, release=None)
    desk.judge(0, 40, correction="billing")
    desk.monitor.step("desk")
    assert desk.events("drift.look")[0].data["release"] == "desk@1"
    assert runs[0].recipe.evaluate.against[-1].production == "desk@1"


@pytest.mark.parametrize("desk", [RETRAIN], indirect=True)
def test_the_recipe_is_that_of_the_release_that_answers(desk, runs):
    """A bad candidate's own recipe, or what it says of monitoring, must not outlive its rollback."""
    store, verbs = desk.app.store, desk.app.rollouts
    with store.working("2" * 64) as (out, _):
        parents = dict(store.catalog.get("desk@1").parents)
        made = store.commit("release", "2" * 64, {"n": 2}, 1, parents, out, {})
    store.catalog.name("desk", made.digest)
    bad = RECIPE.format(monitor=PLAIN).replace("rows.jsonl", "shuffled.jsonl")
    store.ledger.append(
        Event("run.started", "run-2", {"name": "desk", "recipe": bad, "overrides": [], "source": "bad.yaml"}),
        Event("run.finished", "run-2", {"name": "desk", "release": "desk@2"}),
    )
    verbs.start("desk@2", by="ann", reason="planted")
    verbs.roll_back("desk", by="ann", reason="worse")
    desk.traffic(0, 60)
    desk.judge(0, 40, correction="billing")
    assert desk.monitor.step("desk").retrain.state == "pending"
    assert "rows.jsonl" in runs[0].text and "shuffled" not in runs[0].text


@pytest.mark.parametrize("desk", [RETRAIN.replace("[drift, labels]", "drift")], indirect=True)
@pytest.mark.parametrize(("release", "state"), [("desk@1", "pending"), ("desk@0", "waiting")])
def test_an_alarm_of_a_release_that_answers_no_longer_makes_nothing_due(desk, runs, release, state):
    """In a canary the one before is still watched; once another is promoted, that one was made for it."""
    desk.app.store.ledger.append(
        Event("drift.look", "desk", {"release": release, "alarms": [{"id": "quality-1"}]}, START)
    )
    desk.traffic(0, 60)
    desk.judge(0, 40, correction="billing")
    facts = Retraining(desk.app, lambda: desk.now_s)._facts("desk")
    assert (facts.alarms == ["quality-1"]) is (state == "pending")
    settings = desk.monitor.settings("desk").retrain
    assert (rule.due(settings, facts).why is not None) is (state == "pending")


@pytest.mark.parametrize("desk", [RETRAIN.replace("on:", "start: release, on:")], indirect=True)
def test_weights_that_a_run_starts_from_go_with_it_and_are_nobodys_base(desk, runs, started, monkeypatch):
    def export(self, release, folder, *, form):
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(Models, "export", export)
    monkeypatch.setattr("luthier.app.checking.check", lambda recipe: None)
    desk.traffic(0, 60)
    desk.judge(0, 40, correction="billing")
    (desk.app.home / "monitor" / "starts" / "desk-two-1").mkdir(parents=True)
    assert desk.monitor.step("desk").retrain.state == "pending"
    [wish] = runs
    assert wish.recipe.base.endswith("starts/desk-1")
    there = [one.name for one in (desk.app.home / "monitor" / "starts").iterdir()]
    assert there == ["desk-two-1"], "another name's is left alone"
    store = desk.app.store
    with store.working("2" * 64) as (out, _):
        made = store.commit(
            "release", "2" * 64, {"n": 2}, 1, dict(store.catalog.get("desk@1").parents), out, {}
        )
    store.catalog.name("desk", made.digest)
    desk.monitor.approve("desk", by="ann", reason="looked at")  # so desk@2 answers, and its recipe counts
    told = {"name": "desk", "recipe": wish.text.replace("start: release, ", ""), "overrides": list(wish.overrides), "source": "recipe.yaml"}  # fmt: skip
    desk.app.store.ledger.append(
        Event("run.started", "run-2", told),
        Event("run.finished", "run-2", {"name": "desk", "release": "desk@2"}),
    )
    desk.traffic(1, 60)
    desk.judge(1, 40, correction="billing")
    desk.monitor.step("desk")
    assert runs[1].recipe.base == "tiny", "the recipe's own"


@pytest.mark.parametrize("desk", [RETRAIN], indirect=True)
def test_an_alert_is_told_before_a_new_run_and_only_then_counts_as_told(desk, runs):
    desk.traffic(0, 60, words=OTHER)
    desk.judge(0, 40, correction="billing")

    def full(alert):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        desk.monitor.step("desk", log=full)
    assert not desk.events("alert.sent") and not runs
    heard = []
    found = desk.monitor.step("desk", log=lambda alert: heard.append((alert.id, len(runs))))
    assert heard == [(alert.id, 0) for alert in found.told] and heard and len(runs) == 1


@pytest.mark.parametrize("desk", [RETRAIN], indirect=True)
def test_what_the_gate_refuses_is_told_and_not_tried_at_once_again(desk, monkeypatch):
    from luthier.app import running
    from luthier.core.errors import GateFailed

    desk.traffic(0, 60)
    desk.judge(0, 40, correction="billing")
    monkeypatch.setattr(
        running, "run_line", lambda *a, **k: (_ for _ in ()).throw(GateFailed("macro_f1 is too low"))
    )
    found = desk.monitor.step("desk").retrain
    assert found.state == "refused" and "macro_f1" in found.why
    assert desk.monitor.step("desk").retrain.state == "waiting", "the same labels make no second run"


@pytest.mark.parametrize("desk", ["  keep_for: 3 days"], indirect=True)
def test_old_traffic_is_purged(desk):
    old = Exchange(
        "old", "desk", "desk@1", "p" * 64, "k", None, [{"role": "user", "content": "x"}], [], None, 0, 5.0
    )
    desk.app.store.traffic.keep(old)
    desk.traffic(0, 5)
    desk.app.store.traffic.keep(replace(old, id="other", name="shop", release=None))
    assert desk.monitor.step("desk").removed == 1 and desk.events("drift.look")[0].data["rows"] == 5
    assert [one.exchange.id for one in desk.app.store.traffic.read("shop")] == ["other"], "its own rule says"


def test_the_commands(desk, monkeypatch):
    from click.testing import CliRunner

    from luthier.cli.main import main

    monkeypatch.setenv("LUTHIER_HOME", str(desk.app.home))
    monkeypatch.setattr(
        Monitor, "__init__", lambda self, app: vars(self).update(_app=app, _clock=lambda: desk.now_s)
    )
    desk.traffic(0, 60)
    run = lambda *words: CliRunner().invoke(main, ["monitor", *words])  # noqa: E731
    done = run("step", "desk", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["looks"][0]["rows"] == 60
    assert "no window is over" in run("step", "desk").output
    since = ["--since", "2050-01-01", "--until", "2060-01-01"]
    told = run("report", "desk", *since)
    assert told.exit_code == 0 and "unknown" in told.output and "MMD" in told.output
    page = desk.folder / "page.html"
    assert run("report", "desk", *since, "--html", str(page)).exit_code == 0 and page.stat().st_size > 10_000
    assert run("report", "desk", *since, "--html", str(page)).exit_code == 2
    assert json.loads(run("show", "desk", "--json").stdout)["last"]["rows"] == 60
    assert run("approve", "desk", "--reason", "yes").exit_code == 5
    assert run("report", "nobody").exit_code == 5
    monkeypatch.setenv("LOGNAME", "somebody-else")  # who acts is what the operating system says
    desk.app.store.ledger.append(Event("retrain", "desk", {"state": "pending", "release": "desk@2"}))
    done = run("decline", "desk", "--reason", "no", "--json")
    assert json.loads(done.stdout)["by"] == system_user()


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_an_alert_once(desk, monkeypatch, as_json):
    from click.testing import CliRunner

    from luthier.cli.main import main

    monkeypatch.setenv("LUTHIER_HOME", str(desk.app.home))
    monkeypatch.setattr(
        Monitor, "__init__", lambda self, app: vars(self).update(_app=app, _clock=lambda: desk.now_s)
    )
    desk.traffic(0, 60, words=OTHER)
    done = CliRunner().invoke(main, ["monitor", "step", "desk", *(["--json"] if as_json else [])])
    told = len(desk.events("alert.sent"))
    assert told and (done.stderr if as_json else done.stdout).count("ALERT ") == told
    if as_json:
        assert len(json.loads(done.stdout)["alerts"]) == told


def test_a_name_that_nobody_knows_is_not_watched(desk):
    with pytest.raises(NotFound, match="nothing here is called 'dsek'") as told:
        desk.monitor.step("dsek")
    assert "desk" in str(told.value.remedy)
