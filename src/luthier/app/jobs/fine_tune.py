"""The job kind `fine_tune`: files of a project become a recipe, the recipe a release, the release a model that answers under its id.

    copies of the files ─▶ train, validation and test rows ─▶ recipe.json ─▶ App.run ─▶ results file, checkpoint, model id

Each step finds what an earlier attempt made: rows and recipe are the same bytes each time, the line knows its own steps, and what is
entered at the end has ids that follow from the job's.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import IntegrityError

from luthier.app.fine_tuning import CHECKPOINT, MODEL
from luthier.app.tuning_rows import map_of, rows_of
from luthier.app.uploaded import RESULTS
from luthier.core.errors import BeingMade, DataError, Interrupted
from luthier.core.event import Event
from luthier.store.files import write_atomic
from luthier.store.objects import Object

if TYPE_CHECKING:
    from luthier.app.app import App
    from luthier.app.context import Watch
    from luthier.app.running import Run

    from .attempt import Attempt

HELD_BACK = 0.1
"""The share of the training rows that is kept from training for each side that no file is given for."""
MOST_TEST_ROWS = 200
"""Asking the model takes time."""
WAIT_S = 5.0
SIDES = ("train", "validation", "test")
RECIPE = "recipe.json"
Row = dict[str, Any]


def run(at: Attempt) -> Mapping[str, Any]:
    """See attempt.Attempt."""
    wish = at.job.wish
    at.folder.mkdir(parents=True, exist_ok=True)
    counts = _write_rows(at.app, wish, at.folder)
    write_atomic(at.folder / RECIPE, json.dumps(recipe_of(wish), indent=1).encode())
    at.tell(
        f"Rows: {counts['train']} to learn from, {counts['validation']} to validate and {counts['test']} to measure with"
    )
    done = _run(at, at.folder / RECIPE)
    history = _history(at.app, done.digests["model"])
    results = _results(at, history)
    step = max(history["kept"]["steps"])
    metrics = _metrics(history, step)
    name = str(wish["fine_tuned_model"])
    told = {
        "release": done.release,
        "digest": done.digests["release"],
        "job": at.job.id,
        "base": at.job.shown.get("model", ""),
    }
    _once(at.app, Object(MODEL, name, told, at.job.by, time.time()), "model.named")
    checkpoint = {"fine_tuned_model_checkpoint": name, "step_number": step, "metrics": metrics}
    found = Object(
        CHECKPOINT,
        f"ftckpt_{_follows(at, 'checkpoint')}",
        checkpoint,
        at.job.by,
        time.time(),
        parent=at.job.id,
    )
    _once(at.app, found, None)
    at.tell(f"Checkpoint created at step {step}", data={"step": step, "checkpoint": name})
    at.tell(f"New fine-tuned model created: {name}", data={"fine_tuned_model": name, "release": done.release})
    return {
        "fine_tuned_model": name,
        "release": done.release,
        "report": done.digests["report"],
        "result_files": [results],
        "trained_tokens": sum(int(one["tokens"]) for one in history["steps"]),
        "step": step,
    }


def _run(at: Attempt, recipe: Path) -> Run:
    """Where another job makes the very same model just now, wait for it: what it makes is then found."""
    waited = False
    while True:
        try:
            return at.app.recipes.run(recipe, watch=Figures(at.watch), stop=at.stop)
        except BeingMade:  # any other Busy is a failed attempt, and the queue tries again
            if not waited:
                at.tell("Another job is making the same model; waiting for it", level="warn")
            waited = True
            if at.stop.wait(WAIT_S):
                raise Interrupted("stopped while waiting for another job's model.") from None


def recipe_of(wish: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe that a wish means; its files stand beside it."""
    from luthier.core.spec import Tree, parse
    from luthier.training.spec import TrainSpec

    mapped = {**map_of(wish["form"], wish["tools"])}
    sources = [
        {"files": f"{side}.jsonl", "format": "jsonl", "map": mapped, "name": side, "side": side}
        for side in SIDES
    ]
    train = dict(wish["train"])
    usual = parse(TrainSpec, Tree(train, source="train")).peak_learning_rate
    return {
        "name": wish["name"],
        "base": wish["base"],
        "task": dict(wish["task"]),
        "data": {"sources": sources, "split": {"validation": 0, "test": 0}},
        "train": {**train, "learning_rate": usual * float(wish["multiplier"])},
        "evaluate": {"against": ["base"], **({"gate": dict(wish["gate"])} if wish.get("gate") else {})},
    }


# -- rows -----------------------------------------------------------------------------------------------------------------


def _write_rows(app: App, wish: Mapping[str, Any], folder: Path) -> dict[str, int]:
    """train.jsonl, validation.jsonl and test.jsonl. A side without a file of its own takes its share of the training rows, chosen by
    what they say, so that equal rows stay together and the choice is the same each time."""
    files: Mapping[str, str | None] = wish["files"]
    rows: dict[str, list[str]] = {side: [] for side in SIDES}
    for side in SIDES:
        if (file_id := files[side]) is not None:
            path = folder / f"{side}.upload"
            app.uploaded.copy(file_id, path)
            rows[side] = [_line(row) for row in rows_of(path, wish["form"], wish["answer"])]
            path.unlink()
    lacking = [side for side in ("test", "validation") if files[side] is None]
    lines = sorted(
        set(rows["train"]), key=lambda line: hashlib.blake2b(line.encode(), digest_size=8).digest()
    )
    if len(lines) <= len(lacking):
        raise DataError(
            "the training file's rows are too few, or all the same.", remedy="Add rows that differ."
        )
    share = max(1, round(HELD_BACK * len(lines))) if len(lines) > 2 * len(lacking) else 1
    for side in lacking:
        taken = min(share, MOST_TEST_ROWS) if side == "test" else share
        rows[side], lines = lines[:taken], lines[taken:]
    held = {line for side in lacking for line in rows[side]}
    rows["train"] = [line for line in rows["train"] if line not in held]
    rows["test"] = rows["test"][:MOST_TEST_ROWS]
    for side in SIDES:
        write_atomic(folder / f"{side}.jsonl", "".join(rows[side]).encode())
    return {side: len(rows[side]) for side in SIDES}


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"


# -- what is told ---------------------------------------------------------------------------------------------------------


class Figures:
    """A Watch in front of the job's: figures under OpenAI's names, the rest as it is."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._total: int | None = None

    def event(self, event: Event) -> None:
        if event.kind == "training":
            self._total = int(event.data["steps"])
        if event.kind == "step":
            event = Event(
                event.kind,
                event.subject,
                {**step_figures(event.data), "total_steps": self._total},
                event.time_s,
                event.seq,
            )
        elif event.kind == "validation":
            told = {**valid_figures(event.data), "total_steps": self._total}
            event = Event(event.kind, event.subject, told, event.time_s, event.seq)
        self._watch.event(event)

    def progress(self, what: str, done: float, total: float | None, facts: Mapping[str, Any]) -> None:
        self._watch.progress(what, done, total, facts)


def step_figures(told: Mapping[str, Any]) -> dict[str, Any]:
    """
    >>> step_figures({"step": 3, "loss": 0.5, "learning_rate": 1e-4, "tokens": 90, "groups": {}})
    {'step': 3, 'train_loss': 0.5, 'learning_rate': 0.0001, 'tokens': 90}
    """
    figures = {
        "step": told["step"],
        "train_loss": told["loss"],
        "train_mean_token_accuracy": told.get("token_accuracy"),
    }
    figures |= {
        "train_mean_reward": told.get("reward"),
        "learning_rate": told.get("learning_rate"),
        "tokens": told.get("tokens"),
    }
    return {name: value for name, value in figures.items() if value is not None}


def valid_figures(told: Mapping[str, Any]) -> dict[str, Any]:
    figures = {
        "step": told["step"],
        "valid_loss": told["loss"],
        "valid_mean_token_accuracy": told.get("token_accuracy"),
    }
    figures["valid_mean_reward"] = told.get("reward")
    return {name: value for name, value in figures.items() if value is not None}


def _metrics(history: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Of a step, with what was validated of it; those of all validation rows, since all are looked at each time."""
    trained = next((step_figures(one) for one in history["steps"] if one["step"] == step), {})
    valid = next((valid_figures(one) for one in history["validation"] if one["step"] == step), {})
    names = ("train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy")
    found = {"step": step, **{name: both[name] for name in names if name in (both := {**trained, **valid})}}
    for name in ("valid_loss", "valid_mean_token_accuracy"):
        if name in found:
            found[f"full_{name}"] = found[name]
    return found


def _history(app: App, digest: str) -> Mapping[str, Any]:
    folder = app.store.folder(app.store.catalog.get(digest))
    found: Mapping[str, Any] = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    return found


# -- what is left ---------------------------------------------------------------------------------------------------------


def results_csv(history: Mapping[str, Any]) -> bytes:
    """step, train_loss, train_accuracy, valid_loss, valid_mean_token_accuracy: empty where a step was not validated.

    >>> results_csv({"steps": [{"step": 1, "loss": 2.0}], "validation": [{"step": 0, "loss": 3.0}, {"step": 1, "loss": 2.5}]}).decode().split()
    ['step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy', '1,2.0,,2.5,']
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"])
    valid = {one["step"]: one for one in history["validation"]}
    for one in history["steps"]:
        looked = valid.get(one["step"], {})
        figures = [one["loss"], one.get("token_accuracy"), looked.get("loss"), looked.get("token_accuracy")]
        lines.writerow([one["step"], *("" if value is None else value for value in figures)])
    return text.getvalue().encode()


def _results(at: Attempt, history: Mapping[str, Any]) -> str:
    """The id of the results file, made once."""
    file_id, data = f"file-{_follows(at, 'results')}", results_csv(history)
    if not at.app.uploaded.known(file_id):
        with at.app.uploaded.arriving() as arrived:
            arrived.write(data)
            at.app.uploaded.enter(arrived, "step_metrics.csv", RESULTS, own=file_id)
    return file_id


def _follows(at: Attempt, what: str) -> str:
    """Twenty-four hexadecimal digits that follow from the job and nothing else."""
    return hashlib.sha256(f"{what}:{at.job.id}".encode()).hexdigest()[:24]


def _once(app: App, new: Object, action: str | None) -> None:
    act = None if action is None else app.actor.act(action, new.id, {"release": new.data.get("release")})
    try:
        app.store.objects.add(new, act=act)
    except IntegrityError:
        if app.store.objects.find(new.kind, new.id) is None:
            raise
