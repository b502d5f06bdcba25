"""How a released model fares: `report` compares a stretch of its traffic with what it was measured on, `step` is what cron calls.

    step    purge what is too old · look at every window that is over · tell who is to be told · see whether a new run is due

A step may run at any time, twice, or be killed: what was looked at, told and begun stands in the ledger, and one process of a home
steps at a time. Nothing here is imported by a server.
"""

from __future__ import annotations

import fcntl
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact, digest_of
from luthier.core.errors import Busy, DataError, LuthierError, NotFound, SpecError, did_you_mean
from luthier.core.event import Event
from luthier.monitoring import alerts as telling
from luthier.monitoring import look as looking
from luthier.monitoring import mail, webhook
from luthier.monitoring.alerts import Alert, NotSent
from luthier.monitoring.look import Episode, State
from luthier.monitoring.rows import Row, of_dataset, of_traffic, sampled, with_answers
from luthier.monitoring.spec import DriftSpec, MonitorSpec

from .context import RunContext, Silent, Watch
from .line import Make
from .recipe import Wish, parse_recorded

if TYPE_CHECKING:
    from luthier.monitoring.reference import Material, Reference
    from luthier.monitoring.tested import Quality, Tested, Whole

    from .app import App
    from .retraining import Retrained

LOOK, BASELINE, SENT, FAILED = "drift.look", "drift.baseline", "alert.sent", "alert.failed"
STAYS = 0.2
"""The share of a window that a release must have answered to stay the one that is watched: in a canary two answer."""
RESEND_S = 7 * 86_400.0
"""How long a message that did not get through is tried again."""
SHOWN = 5


@dataclass(frozen=True)
class Stepped:
    """What one step did. `looks`: {"since_s", "until_s", "rows", "capital", ...} of each window; `told`: alerts that are new, whether
    or not anybody else than the log was told; `failed`: (what, reason), of a channel or of `look`."""

    name: str
    removed: int
    looks: list[dict[str, Any]]
    told: list[Alert]
    ended: list[str]
    open: list[str]
    failed: list[tuple[str, str]]
    retrain: Retrained | None

    def plain(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "removed": self.removed,
            "looks": self.looks,
            "alerts": [one.plain() for one in self.told],
            "ended": self.ended,
            "open": self.open,
            "failed": [{"channel": channel, "reason": reason} for channel, reason in self.failed],
            "retrain": self.retrain and self.retrain.plain(),
        }


@dataclass(frozen=True)
class Reported:
    """One stretch of traffic against the reference. `timeline`: (end of window, capital in days) of the looks so far."""

    name: str
    release: str | None
    reference: Mapping[str, Any]
    since_s: float
    until_s: float
    rows: int
    repeated: int
    left_out: int
    views: list[Tested]
    whole: Whole | None
    quality: Quality | None
    timeline: list[tuple[float, float]]
    alpha: float
    open: list[Episode]
    examples: list[tuple[str, str]] = field(repr=False)

    def plain(self) -> dict[str, Any]:
        def found(one: Any) -> Any:
            return one and {k: (None if v != v else v) for k, v in vars(one).items()}

        return {
            **{
                k: v
                for k, v in vars(self).items()
                if k not in ("views", "whole", "quality", "open", "examples")
            },
            "views": [
                {
                    **vars(one),
                    "found": found(one.found),
                    "stability": found(one.stability),
                    "differs": one.differs,
                }
                for one in self.views
            ],
            "whole": self.whole and {name: found(one) for name, one in vars(self.whole).items()},
            "quality": self.quality and {**vars(self.quality), "worse": self.quality.worse},
            "open": [one.plain() for one in self.open],
            "examples": [{"id": one, "text": text} for one, text in self.examples],
        }


class Monitor:
    """`app.monitor`."""

    def __init__(self, app: App, clock: Callable[[], float] = time.time) -> None:
        self._app, self._clock = app, clock

    # -- verbs ------------------------------------------------------------------------------------------------------

    def report(
        self, name: str, *, since: str | None = None, until: str | None = None, recipe: Path | None = None, watch: Watch | None = None
    ) -> Reported:  # fmt: skip
        """One stretch of a name's traffic against its reference, every test by its name. Raises NotFound without traffic there."""
        from luthier.monitoring import tested
        from luthier.monitoring.rows import distinct

        now_s = self._clock()
        since_s = _moment(since or "7 days", now_s)
        until_s = now_s if until is None else _moment(until, now_s)
        spec = self.settings(name, recipe).drift
        found = of_traffic(self._app.store.traffic.read(name, since_s=since_s, until_s=until_s))
        rows, there = sampled(found, spec.at_most)
        if not rows:
            raise NotFound(
                f"no traffic of {name!r} is kept from that time.",
                remedy="`luthier traffic list` shows what there is; --since takes a time or how long ago.",
            )
        left_out = there - len(rows)
        release = self._answering(name, rows, None)
        with closing(self._context(name, watch)) as at:
            artifact, reference = self._reference(name, release, spec, at, rows)
        wanted = reference.views(spec.views)
        once = distinct(_of_release(rows, release))
        window = reference.fit.measure(once)
        judged = [row.right for row in _of_release(rows, release) if row.right is not None]
        blamed = tested.views(reference, window, wanted)
        differing = [one.view for one in blamed if one.differs and one.view != "right"]
        if differing:
            binned = reference.binned(window, wanted)
            shown = looking.most_unlike(reference, window, binned, wanted, differing, SHOWN)
        else:
            shown = looking.furthest(window, SHOWN)
        state, timeline = None, []
        for event in self._app.store.ledger.read(kind=LOOK, subject=name):
            timeline.append((event.data["until_s"], event.data["capital"]))
            state = event.data["state"]
        return Reported(
            name, release, {**reference.about, "digest": artifact.digest}, since_s, until_s, len(once), len(rows) - len(once),
            left_out, blamed, tested.whole(reference, window), tested.quality(reference, judged), timeline, spec.alpha,
            [Episode.from_plain(one) for one in state["open"]] if state else [],
            self._words(shown),
        )  # fmt: skip

    def step(self, name: str, *, recipe: Path | None = None, folder: Path | None = None, watch: Watch | None = None,
             stop: threading.Event | None = None, by: str = "cron", log: Callable[[Alert], None] | None = None) -> Stepped:  # fmt: skip
        """Purge, look, tell, and see to a new run. `log` is told of each new alert at once: what it has not returned from is told again by
        the next step. Raises Busy where another process is at it, and what `log` raises."""
        from .retraining import Retraining

        self._must_be_known(name)
        settings = self.settings(name, recipe)
        with self._alone(name):
            removed = 0
            if settings.keep_for is not None:
                removed = self._app.traffic.remove(
                    older_s=settings.keep_for, name=name, why="kept long enough", by=by
                )
            with closing(self._context(name, watch, stop)) as at:
                looks: list[dict[str, Any]] = []
                ended: list[str] = []
                failed: list[tuple[str, str]] = []
                try:
                    for one, over in self._look(name, settings.drift, at):
                        looks.append(one)
                        ended += over
                except DataError as stopped:  # there is nothing to compare with: all else can still be done
                    failed.append(("look", str(stopped)))
                told, unsent = self._tell(name, settings, at, log)
            retrained = None
            if settings.retrain is not None:
                retrained = Retraining(self._app, self._clock).step(
                    name, settings.retrain, recipe=recipe, folder=folder, watch=watch, stop=stop, by=by
                )
        return Stepped(
            name, removed, looks, told, ended,
            self._open(name), [*failed, *unsent], retrained,
        )  # fmt: skip

    def _must_be_known(self, name: str) -> None:
        """A name that is misspelt in a crontab would be watched for ever, and nothing seen. Raises NotFound."""
        store = self._app.store
        if store.catalog.history(name) or any(one["name"] == name for one in store.traffic.counts()):
            return
        known = sorted({version.name for version in store.catalog.history()})
        raise NotFound(
            f"nothing here is called {name!r}, and no traffic of it is kept.",
            remedy=did_you_mean(name, known) if known else "nothing has been released yet",
        )

    def baseline(self, name: str, *, since: str, until: str | None = None, by: str, because: str,
                 recipe: Path | None = None, watch: Watch | None = None) -> dict[str, Any]:  # fmt: skip
        """From now on a stretch of good traffic is what is usual, for the release that answered in it; looks begin anew. Raises
        DataError where it is too little."""
        now_s = self._clock()
        since_s, until_s = _moment(since, now_s), now_s if until is None else _moment(until, now_s)
        spec = self.settings(name, recipe).drift
        rows = list(of_traffic(self._app.store.traffic.read(name, since_s=since_s, until_s=until_s)))
        release = self._answering(name, rows, None)
        with self._alone(name), closing(self._context(name, watch)) as at:
            artifact = self._of_traffic(name, release, spec, at, rows, since_s, until_s)
            told = {
                "since_s": since_s,
                "until_s": until_s,
                "release": release,
                "reference": artifact.digest,
                "by": by,
                "because": because,
            }
            self._app.store.ledger.append(Event(BASELINE, name, told, now_s))
        return {**told, "rows": artifact.summary["fitted"] + artifact.summary["compared"]}

    def approve(self, name: str, *, by: str, reason: str) -> dict[str, Any]:
        """Let the model that waits go on to a rollout. Raises NotFound where none waits."""
        from .retraining import Retraining

        with self._alone(name):
            return Retraining(self._app, self._clock).approve(name, by=by, reason=reason)

    def decline(self, name: str, *, by: str, reason: str) -> dict[str, Any]:
        """The model that waits is not used. Raises NotFound where none waits."""
        from .retraining import Retraining

        with self._alone(name):
            return Retraining(self._app, self._clock).decline(name, by=by, reason=reason)

    def show(self, name: str) -> dict[str, Any]:
        """Where monitoring of a name stands: the last look, open episodes, a model that waits."""
        ledger = self._app.store.ledger
        last, retrain = ledger.last(kind=LOOK, subject=name), ledger.last(kind="retrain", subject=name)
        baseline = ledger.last(kind=BASELINE, subject=name)
        if last is None and retrain is None and baseline is None:
            raise NotFound(
                f"nobody has looked at {name!r} yet.", remedy=f"`luthier monitor step {name}` looks."
            )
        told = {} if last is None else {k: v for k, v in last.data.items() if k not in ("state", "by_view")}
        return {
            "name": name,
            "last": told,
            "open": [] if last is None else last.data["state"]["open"],
            "baseline": None if baseline is None else dict(baseline.data),
            "retrain": None if retrain is None else dict(retrain.data),
        }

    # -- settings ---------------------------------------------------------------------------------------------------

    def settings(self, name: str, recipe: Path | None = None) -> MonitorSpec:
        """Of a recipe file, else as recorded with the release that answers; the defaults where neither says anything."""
        from .recipe import read_recipe

        if recipe is not None:
            read = read_recipe(recipe).recipe
            if read.name != name:
                raise SpecError(
                    f"{recipe} is the recipe of {read.name!r}, not of {name!r}.",
                    remedy="Name the recipe that the model was made with, as it is now.",
                )
            return read.monitor or MonitorSpec()
        found = recorded(self._app, name)
        return (found.recipe.monitor if found else None) or MonitorSpec()

    # -- looking ----------------------------------------------------------------------------------------------------

    def _look(self, name: str, spec: DriftSpec, at: RunContext) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Every window that is over, once, in order, with the episodes that it ended; each is in the ledger before the next is looked
        at. Raises DataError where there is nothing to compare with."""
        store, now_s = self._app.store, self._clock()
        last = store.ledger.last(kind=LOOK, subject=name)
        state = None if last is None else State.from_plain(last.data["state"])
        release = None if last is None else last.data["release"]
        baseline = store.ledger.last(kind=BASELINE, subject=name)
        after_s = 0.0 if state is None else state.until_s
        if baseline is not None and (last is None or (baseline.seq or 0) > (last.seq or 0)):
            after_s = max(after_s, baseline.data["until_s"])
        for since_s, until_s in self._windows(name, after_s, now_s, spec.every):
            at.check()
            rows, there = sampled(
                of_traffic(store.traffic.read(name, since_s=since_s, until_s=until_s)), spec.at_most
            )
            release = self._answering(name, rows, release)
            artifact, reference = self._reference(name, release, spec, at, rows)
            ended: list[str] = []
            if (
                state is None
                or state.reference != artifact.digest
                or state.detector.views != reference.views(spec.views)
            ):
                if state is not None:
                    ended += [one.id for one in state.open]
                known = 0 if state is None else state.judgements
                state = looking.begun(reference, artifact.digest, spec, since_s, known)
            through = store.traffic.through()
            judged = _of_release(
                of_traffic(store.traffic.first_judged(name, state.judgements, through.judgements)), release
            )
            found = looking.look(
                state, reference, spec, since_s, until_s, _of_release(rows, release),
                [row for row in judged if row.release == release], through.judgements,
            )  # fmt: skip
            state = found.state
            told = {
                "since_s": since_s, "until_s": until_s, "release": release, "rows": found.rows, "repeated": found.repeated,
                "left_out": there - len(rows),                "judged": found.judged, "capital": min(found.capital, 1e12), "by_view": dict(found.by_view),
                "alarms": [_told(one, reference, found) for one in found.alarms], "ended": [one.id for one in found.ended],
            }  # fmt: skip
            at.store.ledger.append(Event(LOOK, name, {**told, "state": state.plain()}, now_s))
            ended += [one.id for one in found.ended]
            yield {k: v for k, v in told.items() if k != "by_view"}, ended

    def _open(self, name: str) -> list[str]:
        last = self._app.store.ledger.last(kind=LOOK, subject=name)
        return [] if last is None else [one["id"] for one in last.data["state"]["open"]]

    def _windows(
        self, name: str, after_s: float, now_s: float, every_s: float
    ) -> Iterator[tuple[float, float]]:
        """Those with traffic: a gap of any length costs one query. What is dated later than now is not there yet."""
        while True:
            first_s = self._app.store.traffic.first_s(name, after_s, now_s)
            if first_s is None:
                return
            begin = max(first_s // every_s * every_s, after_s // every_s * every_s)
            due = looking.windows(begin, now_s, every_s)
            if not due:
                return
            until_s = due[0][1]
            yield max(due[0][0], after_s), until_s  # `every` may have been another one before
            after_s = until_s

    def _answering(self, name: str, rows: Sequence[Row], before: str | None) -> str | None:
        """The release whose answers are watched: the one before while it still answers, else the one that answers most."""
        known = Counter(row.release for row in rows if row.release is not None)
        if before is not None and known[before] >= STAYS * max(1, sum(known.values())):
            return before
        if known:
            return sorted(known, key=lambda one: (-known[one], one))[0]
        return before or self._app.rollouts.answering(name)

    # -- the reference ----------------------------------------------------------------------------------------------

    def _reference(
        self, name: str, release: str | None, spec: DriftSpec, at: RunContext, rows: Sequence[Row]
    ) -> tuple[Artifact, Reference]:
        from luthier.monitoring import reference as references

        baseline = self._app.store.ledger.last(kind=BASELINE, subject=name)
        if baseline is not None and baseline.data["release"] == release:
            artifact = self._app.store.catalog.get(baseline.data["reference"])
        else:
            artifact = self._of_data(name, release, spec, at)
        return artifact, references.read(at.folder(artifact))

    def _of_data(self, name: str, release: str | None, spec: DriftSpec, at: RunContext) -> Artifact:
        from luthier.monitoring import reference as references

        catalog = self._app.store.catalog
        artifact = None
        if release is not None:
            try:
                artifact = catalog.get(release)
            except NotFound:
                artifact = None
        if artifact is None or artifact.kind != "release":
            raise DataError(
                f"what answers as {name!r} is no release of this home, so there are no rows that it was measured on.",
                remedy=f"Say which traffic was good: luthier monitor baseline {name} --since TIME --until TIME --by NAME --because WHY",
            )
        inputs = {role: catalog.get(artifact.parents[role]) for role in ("dataset", "report")}

        def material(parents: Mapping[str, Artifact], at: Any) -> Material:
            return _material(at.folder(parents["dataset"]), at.folder(parents["report"]), spec)

        stage = references.stage(material, {"of": "data", "release": release})
        return Make(at)("reference", stage, spec.reference, inputs)

    def _of_traffic(
        self, name: str, release: str | None, spec: DriftSpec, at: RunContext, rows: Sequence[Row], since_s: float, until_s: float
    ) -> Artifact:  # fmt: skip
        from luthier.monitoring import reference as references
        from luthier.monitoring.reference import Material, TrafficReferenceSpec

        mine = sorted(_of_release(rows, release), key=lambda row: row.id)
        half = [row for n, row in enumerate(mine) if n % 2 == 0], [row for n, row in enumerate(mine) if n % 2]
        wish = TrafficReferenceSpec(
            **{k: getattr(spec.reference, k) for k in type(spec.reference).model_fields},
            name=name, release=release, since_s=since_s, until_s=until_s, exchanges=len(mine),
            judged=digest_of([[row.id, row.right] for row in mine]),
        )  # fmt: skip
        labels = self._labels(release)
        about = {"of": "traffic", "release": release, "since_s": since_s, "until_s": until_s}
        stage = references.stage(lambda parents, at: Material(half[0], half[1], labels), about)
        return Make(at)("reference", stage, wish, {})

    def _labels(self, release: str | None) -> list[str] | None:
        try:
            artifact = self._app.store.catalog.get(release or "")
        except (NotFound, SpecError):
            return None
        if artifact.kind != "release":
            return None
        folder = self._app.store.folder(self._app.store.catalog.get(artifact.parents["dataset"]))
        labels: list[str] | None = json.loads((folder / "dataset.json").read_text(encoding="utf-8")).get(
            "labels"
        )
        return list(labels) if labels else None

    # -- telling ----------------------------------------------------------------------------------------------------

    def _tell(
        self, name: str, settings: MonitorSpec, at: RunContext, log: Callable[[Alert], None] | None
    ) -> tuple[list[Alert], list[tuple[str, str]]]:
        """Every alert of the last days that a channel has not heard; (those that the log had not heard, what failed)."""
        ledger, now_s = self._app.store.ledger, self._clock()
        heard = {(e.data["alert"], e.data["channel"]) for e in ledger.read(kind=SENT, subject=name)}
        channels: dict[str, Callable[[Alert], None]] = {"log": log or (lambda alert: None)}
        hook, post = settings.alerts.webhook, settings.alerts.email
        if hook is not None:
            channels["webhook"] = lambda alert: webhook.send(alert, hook, at.secret, now_s)
        if post is not None:
            channels["email"] = lambda alert: mail.send(alert, post, at.secret)
        told: dict[str, Alert] = {}
        failed: list[tuple[str, str]] = []
        for event in ledger.read(kind=LOOK, subject=name):
            if now_s - event.time_s > RESEND_S:
                continue
            for one in event.data["alarms"]:
                number = f"{name}:{one['id']}"
                lacking = [channel for channel in channels if (number, channel) not in heard]
                if not lacking:
                    continue
                alert = self._alert(name, event.data["release"], one, settings)
                if "log" in lacking:
                    told[alert.id] = alert
                for channel in lacking:
                    try:
                        channels[channel](alert)
                    except (NotSent, LuthierError) as error:
                        reason = error.message if isinstance(error, LuthierError) else str(error)
                        failed.append((channel, reason))
                        ledger.append(
                            Event(FAILED, name, {"alert": number, "channel": channel, "reason": reason})
                        )
                    else:
                        ledger.append(Event(SENT, name, {"alert": number, "channel": channel}))
        return list(told.values()), failed

    def _alert(self, name: str, release: str | None, told: Mapping[str, Any], settings: MonitorSpec) -> Alert:
        episode = Episode.from_plain({k: v for k, v in told.items() if k != "tested"})
        tested = {view: (usual, now) for view, usual, now in told["tested"]}
        shown = self._words(episode.shown[: settings.alerts.examples])
        return telling.alert(name, release, episode, settings.drift.alpha, tested, shown)

    def _words(self, ids: Sequence[str]) -> list[tuple[str, str]]:
        from luthier.monitoring.rows import asked_in

        found = self._app.store.traffic.find(list(ids))
        return [(one, telling.shown(asked_in(found[one].messages))) for one in ids if one in found]

    # -- one at a time ----------------------------------------------------------------------------------------------

    def _context(self, name: str, watch: Watch | None, stop: threading.Event | None = None) -> RunContext:
        return RunContext(
            self._app.store, f"monitor-{name}", Path.cwd(), self._app._environ, watch or Silent(),
            stop=stop or threading.Event(),
        )  # fmt: skip

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        from luthier.store.catalog import check_name

        folder = self._app.store.home / "monitor"
        folder.mkdir(exist_ok=True)
        with open(folder / f"{check_name(name)}.lock", "a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(
                    f"another process is stepping through {name!r}.",
                    remedy="Wait for it; a step that finds nothing to do does nothing.",
                ) from None
            yield


def recorded(app: App, name: str) -> Wish | None:
    """The recipe of the release that answers to a name, as the ledger has it: a newer one may have been declined, or taken back. Of the
    newest where that one was not made here. Its paths start nowhere: the folder is not recorded."""
    ledger = app.store.ledger
    runs = {
        str(e.data["release"]): e.subject
        for e in ledger.read(kind="run.finished")
        if str(e.data.get("release", "")).startswith(f"{name}@")
    }
    if not runs:
        return None
    run = runs.get(app.rollouts.answering(name) or "") or list(runs.values())[-1]
    started = next(ledger.read(kind="run.started", subject=run), None)
    return None if started is None else parse_recorded(started.data)


def _material(dataset: Path, report: Path, spec: DriftSpec) -> Material:
    from luthier.monitoring.reference import Material

    labels = json.loads((dataset / "dataset.json").read_text(encoding="utf-8")).get("labels")
    settings = spec.reference
    held = [row for side in ("test", "validation") for row in of_dataset(dataset, side, settings.compared)]
    compared = with_answers(held[: settings.compared], report / "predictions.parquet")
    return Material(of_dataset(dataset, "train", settings.fitted), compared, labels or None)


def _of_release(rows: Any, release: str | None) -> list[Row]:
    """All requests, with the answers of one release alone."""
    return [
        row
        if row.release == release
        else replace(row, answer=None, probability=None, refused=None, right=None)
        for row in rows
    ]


def _told(episode: Episode, reference: Reference, found: looking.Looked) -> dict[str, Any]:
    """An episode with what is usual and what is now of its views, as the ledger keeps it."""
    from luthier.monitoring import tested

    assert found.measured is not None
    table = [
        [one.view, one.usual, one.window] for one in tested.views(reference, found.measured, episode.views)
    ]
    if episode.group == "quality" and found.right is not None:
        # of what was judged since the last look, and not of what was asked in this window
        table = [[view, usual, f"{found.right:.1%}"] for view, usual, _ in table]
    return {**episode.plain(), "tested": table}


def _moment(text: str, now_s: float) -> float:
    from luthier.data.connectors.traffic import moment

    try:
        return moment(text, now_s)
    except ValueError as error:
        raise SpecError(f"{error}.", remedy="Write for example --since '7 days'.") from None
