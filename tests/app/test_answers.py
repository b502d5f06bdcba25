"""A recipe's way to an answer, from the report through the package to the engine that serves it."""

from __future__ import annotations

import json

from luthier.app.app import App
from luthier.serving.engine import Message, Request

CHAT = (
    "task={kind: chat, instruction: 'Route the message.'}",
    "data.sources=[{files: rows.jsonl, map: {user: text, assistant: queue}}]",
    "evaluate.max_tokens=4",
    "evaluate.against=[base]",
)


def words(*sets: str) -> list[str]:
    return [word for one in sets for word in ("--set", one)]


def test_a_model_whose_steps_refuse_is_packed_and_served_as_it_was_measured(workshop):
    """A model that knows nothing says no JSON, so that every answer is refused, in the report and by the engine. The packed weights
    are held against what the model says before any step."""
    done = workshop.run(*words(*CHAT, "postprocess.answers=[json]"))
    app = App.open()
    package = app.store.folder(app.store.catalog.get(done["digests"]["package"]))
    served = json.loads((package / "parity.json").read_text())["served"]
    assert served["tokens"] > 8 and served["top_1"] == 1.0
    folder = app.store.folder(app.store.catalog.get(done["digests"]["report"]))
    report = json.loads((folder / "report.json").read_text())
    [step] = report["answers"]["steps"]
    assert step["step"] == "json" and step["refused"] == report["answers"]["refused"] > 0
    answerer = app.models.engine("router")
    try:
        *_, last = answerer.engine.generate(Request((Message("user", "Where is my parcel?"),), max_tokens=4))
    finally:
        answerer.engine.close()
    assert last.text == "" and last.refusal == "json: the answer holds no JSON."


def test_a_vote_is_packed(workshop):
    done = workshop.run(*words(*CHAT, "postprocess.vote={samples: 2}"))
    app = App.open()
    package = app.store.folder(app.store.catalog.get(done["digests"]["package"]))
    served = json.loads((package / "parity.json").read_text())["served"]
    assert served["tokens"] > 8 and served["top_1"] == 1.0
