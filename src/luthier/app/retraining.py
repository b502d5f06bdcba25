"""A new run of old rows and of what people judged: begun when the recipe's `monitor.retrain` says so, gated against what is in use, and
handed over to a rollout, by a person's word or by the gate's.

    nothing ──due──▶ started ──gate──▶ pending ──approve──▶ approved ──▶ handed over
                        │                 └────decline──▶ declined
                        └──▶ refused (the gate), failed (anything else)

Each arrow is an event `retrain`. A step that was killed goes on with the same rows, since how far the traffic had come is in the
event; what was finished of the run is found again. Not here: how a release comes into use (rollouts).
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import GateFailed, Interrupted, LuthierError, NotFound, SpecError
from luthier.core.event import Event
from luthier.core.spec import override, read_yaml
from luthier.monitoring import retrain as rule
from luthier.monitoring.retrain import Due, Facts, Old, Part
from luthier.monitoring.spec import RetrainSpec

from .context import Watch
from .recipe import Wish, again, parse_recorded, read_recipe

if TYPE_CHECKING:
    from .app import App
    from .line import Results

EVENT = "retrain"


@dataclass(frozen=True)
class Retrained:
    """`state`: waiting (and `why` says for what), pending, approved (not handed over yet), handed over, refused or failed."""

    state: str
    why: str
    release: str | None = None
    parts: tuple[Part, ...] = ()

    def plain(self) -> dict[str, Any]:
        return {**vars(self), "parts": [asdict(one) for one in self.parts]}


class Retraining:
    def __init__(self, app: App, clock: Callable[[], float] = time.time) -> None:
        self._app, self._clock = app, clock

    def step(
        self, name: str, spec: RetrainSpec, *, recipe: Path | None, folder: Path | None, watch: Watch | None, stop: threading.Event | None, by: str
    ) -> Retrained:  # fmt: skip
        """Whatever is next. Raises Interrupted; what goes wrong in a run is told, and is an event."""
        last = self._app.store.ledger.last(kind=EVENT, subject=name)
        state = None if last is None else last.data["state"]
        if last is not None and state == "pending":
            release = last.data["release"]
            why = f"{release} waits for a person: luthier monitor approve {name}"
            return Retrained("pending", why, release, _known(last.data))
        if last is not None and state == "approved":
            return self._handed(name, last.data, by=last.data["by"], reason=last.data["reason"])
        if last is not None and state == "started":
            return self._run(name, spec, last.data, recipe, folder, watch, stop, by)
        facts = self._facts(name)
        due = rule.due(spec, facts)
        if due.why is None:
            return Retrained("waiting", due.waits or "")
        return self._run(name, spec, self._started(name, facts, due, by), recipe, folder, watch, stop, by)

    def approve(self, name: str, *, by: str, reason: str) -> dict[str, Any]:
        waits = self._pending(name)
        parts = waits.get("parts", [])
        told = self._say(name, "approved", release=waits["release"], by=by, reason=reason, parts=parts)
        return self._handed(name, told, by=by, reason=reason).plain()

    def decline(self, name: str, *, by: str, reason: str) -> dict[str, Any]:
        waits = self._pending(name)
        return self._say(name, "declined", release=waits["release"], by=by, reason=reason)

    # -- is it time -------------------------------------------------------------------------------------------------

    def _facts(self, name: str) -> Facts:
        store = self._app.store
        begun = [e for e in store.ledger.read(kind=EVENT, subject=name) if e.data["state"] == "started"]
        history = store.catalog.history(name)
        if not history:
            raise NotFound(
                f"nothing is released as {name!r}, so there is nothing to train anew.",
                remedy="Run its recipe first.",
            )
        last_s = begun[-1].time_s if begun else history[-1].created_s
        judged = store.traffic.first_judged(
            name, begun[-1].data["judgements"] if begun else 0, store.traffic.through().judgements
        )
        labels = sum(one.corrected or (one.rating or 0) > 0 for one in judged)
        # what was told of a release that answers no longer is what the one in use was made for
        in_use = self._in_use(name)
        alarms = [
            one["id"]
            for event in store.ledger.read(kind="drift.look", subject=name)
            if event.time_s > last_s and event.data["release"] in (None, in_use)
            for one in event.data["alarms"]
        ]
        return Facts(self._clock(), last_s, labels, alarms)

    def _started(self, name: str, facts: Facts, due: Due, by: str) -> dict[str, Any]:
        store, now_s = self._app.store, self._clock()
        through = store.traffic.through()
        labels = sum(
            one.corrected or (one.rating or 0) > 0
            for one in store.traffic.read(name, until_s=now_s, through=through)
        )
        return self._say(
            name, "started", why=due.why, labels=labels, until=datetime.fromtimestamp(now_s, UTC).isoformat(),
            exchanges=through.exchanges, judgements=through.judgements, production=self._in_use(name), by=by,
        )  # fmt: skip

    def _in_use(self, name: str) -> str:
        """The release that answers; never one that waits for a person, or was declined."""
        found = self._app.rollouts.answering(name)
        assert found is not None, "facts were found of it, so there is one"
        return found

    # -- the run ----------------------------------------------------------------------------------------------------

    def _run(
        self, name: str, spec: RetrainSpec, told: Mapping[str, Any], recipe: Path | None, folder: Path | None, watch: Watch | None,
        stop: threading.Event | None,
        by: str,
    ) -> Retrained:  # fmt: skip
        from .running import run_line

        parts: list[Part] = []
        try:
            wish = self._wish(name, spec, told, recipe, folder)
            with closing(self._app.recipes.context(wish, watch, stop)) as at:

                def also(so_far: Results) -> None:
                    parts[:] = self._parts(so_far, spec)
                    if broken := [one.reason for one in parts if not one.passed]:
                        raise GateFailed(
                            f"the new model may be worse than the release in use: {'; '.join(broken)}.",
                            remedy="Nothing was released. More judged answers, or a larger share of replay, may help.",
                        )

                done = run_line(wish, at, also=also)
        except Interrupted:
            raise  # the next step goes on, from the same weights
        except GateFailed as stopped:
            self._ended(name, "refused", why=stopped.message, parts=[asdict(one) for one in parts])
            return Retrained("refused", stopped.message, None, tuple(parts))
        except LuthierError as stopped:
            self._ended(name, "failed", why=str(stopped))
            return Retrained("failed", str(stopped))
        if done.release == told["production"]:
            why = "the new run gave the release that is in use"
            self._ended(name, "failed", why=why)
            return Retrained("failed", why)
        known = [asdict(one) for one in parts]
        if spec.approve == "human":
            self._ended(name, "pending", release=done.release, why=told["why"], parts=known)
            return Retrained(
                "pending",
                f"{done.release} waits for a person: luthier monitor approve {name}",
                done.release,
                tuple(parts),
            )
        reason = f"passed the gate; {told['why']}"
        approved = self._ended(name, "approved", release=done.release, by=by, reason=reason, parts=known)
        return self._handed(name, approved, by=by, reason=reason)

    def _wish(
        self, name: str, spec: RetrainSpec, told: Mapping[str, Any], recipe: Path | None, folder: Path | None
    ) -> Wish:
        from .checking import check, check_answers
        from .monitoring import recorded

        if recipe is not None:
            wish = read_recipe(recipe)
        else:
            found = recorded(self._app, name)
            if found is None:
                raise SpecError(
                    f"the recipe of {name!r} is not on record in this home.",
                    remedy=f"Name it: luthier monitor step {name} --recipe FILE",
                )
            said = [one for one in found.overrides if not is_start(self._app.home, one)]
            wish = parse_recorded(
                {"recipe": found.text, "overrides": said, "source": found.source}, folder=folder
            )
        tree = override(read_yaml(wish.text, wish.source), wish.overrides)
        method = wish.recipe.train.method.name
        old = Old(tree.value, wish.recipe.task.kind, method, name, told["production"])
        base = None if spec.start == "base" else self._exported(told["production"])
        through = (
            {"exchanges": told["exchanges"], "judgements": told["judgements"]}
            if "exchanges" in told
            else None
        )
        more = rule.words(old, spec, until=told["until"], labels=told["labels"], through=through, base=base)
        wish = again(wish, more)
        check(wish.recipe)
        check_answers(wish)
        return wish

    def _exported(self, release: str) -> str:
        """The merged weights of a release as a folder that training can start from."""
        folder = _starts(self._app.home) / release.replace("@", "-")
        if not (folder / "config.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._app.models.export(release, folder, form="merged")
        return str(folder)

    def _parts(self, so_far: Results, spec: RetrainSpec) -> list[Part]:
        """How the new model does on all test rows, on old and on new ones, against the release in use."""
        from luthier.data.shards import Side
        from luthier.evaluation.predictions import by_system, read

        store = self._app.store
        assert so_far.report is not None and so_far.dataset is not None
        folder = store.folder(so_far.report)
        answers = by_system(read(folder / "predictions.parquet"))
        if "production" not in answers:
            return [Part("all", 0, None, None, None, False, "the release in use was not asked")]
        source: dict[str, str] = {}
        for batch in Side(store.folder(so_far.dataset) / "test.parquet").batches(["id", "source"]):
            source |= dict(zip(batch["id"].to_pylist(), batch["source"].to_pylist(), strict=True))
        task = json.loads((folder / "report.json").read_text(encoding="utf-8"))["task"]
        return rule.parts(answers["tuned"], answers["production"], source, task, spec)

    # -- afterwards -------------------------------------------------------------------------------------------------

    def _handed(self, name: str, told: Mapping[str, Any], *, by: str, reason: str) -> Retrained:
        release, parts = told["release"], _known(told)
        try:
            self._app.rollouts.start(release, by=by, reason=reason)
        except LuthierError as stopped:
            return Retrained(
                "approved",
                f"it could not be handed over, and the next step tries again: {stopped}",
                release,
                parts,
            )
        self._say(name, "handed over", release=release, by=by, reason=reason)
        return Retrained("handed over", reason, release, parts)

    def _pending(self, name: str) -> Mapping[str, Any]:
        last = self._app.store.ledger.last(kind=EVENT, subject=name)
        if last is None or last.data["state"] not in ("pending", "approved"):
            raise NotFound(
                f"no model of {name!r} waits for approval.",
                remedy=f"`luthier monitor show {name}` says where it stands.",
            )
        return last.data

    def _ended(self, name: str, state: str, **data: Any) -> dict[str, Any]:
        """The run is over, so the weights that it started from are not needed any more: a base has its own copy."""
        told = self._say(name, state, **data)
        for folder in _starts(self._app.home).glob(f"{name}-*"):
            if folder.name.removeprefix(f"{name}-").isdecimal():  # not those of a name that begins alike
                shutil.rmtree(folder, ignore_errors=True)
        return told

    def _say(self, name: str, state: str, **data: Any) -> dict[str, Any]:
        told = {"state": state, **data}
        self._app.store.ledger.append(Event(EVENT, name, told, self._clock()))
        return told


def _starts(home: Path) -> Path:
    """Where merged weights lie while a run that starts from them is under way."""
    return home / "monitor" / "starts"


def is_start(home: Path, override: str) -> bool:
    """Whether it names such weights as `base`: a run wrote that which is over, and the recipe's own base is meant."""
    return override.startswith("base=" + json.dumps(f"{_starts(home)}/", ensure_ascii=False)[:-1])


def _known(told: Mapping[str, Any]) -> tuple[Part, ...]:
    """How the new model did, as the event of its run says; nothing in events of earlier versions."""
    return tuple(Part(**one) for one in told.get("parts", ()))
