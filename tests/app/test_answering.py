"""A release answers where and in which number format its report was measured, and says so where it cannot."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from luthier.app.answering import as_measured
from luthier.app.app import App
from luthier.app.context import RunContext, Silent
from luthier.core.artifact import Artifact

FREE = ("--set", "train.dtype=auto")
FORMATS = {torch.float32: "fp32", torch.bfloat16: "bf16"}


class Notes(Silent):
    def __init__(self):
        self.told = []

    def event(self, event):
        if event.kind == "fallback":
            self.told.append(event.data["reason"])


@pytest.fixture
def hardware(monkeypatch):
    """Say whether this processor has bf16."""
    return lambda has: monkeypatch.setattr("luthier.models.place._cpu_has_bf16", lambda: has)


@contextmanager
def served(notes=None):
    """The number format in which the newest release answers."""
    answerer = App.open().models.engine("router", watch=notes or Notes())
    yield FORMATS[next(answerer.engine.backend._model.parameters()).dtype]
    answerer.engine.close()


def test_what_is_trained_in_fp32_is_measured_and_served_in_it(workshop, hardware):
    hardware(True)
    workshop.run()
    (report,) = App.open().store.catalog.all("report")
    assert report.spec["dtype"] == "fp32"
    notes = Notes()
    with served(notes) as dtype:
        assert dtype == "fp32" and notes.told == []


def test_a_chosen_number_format_is_served_even_where_it_is_slow(workshop, hardware):
    hardware(False)
    workshop.run("--set", "evaluate.dtype=bf16")
    with served() as dtype:
        assert dtype == "bf16"


@pytest.mark.parametrize(
    ("then", "now", "wanted", "told"),
    [(True, True, "bf16", []), (False, True, "fp32", []), (True, False, "fp32", ["was measured in bf16"])],
)
def test_what_auto_came_out_as_is_what_counts(workshop, hardware, then, now, wanted, told):
    hardware(then)
    workshop.run(*FREE)
    hardware(now)
    notes = Notes()
    with served(notes) as dtype:
        assert dtype == wanted
    assert [part in said for part, said in zip(told, notes.told, strict=True)] == [True] * len(told)


def test_a_device_that_is_not_here_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    app, notes = App.open(), Notes()
    spec = {"device": "cuda", "dtype": "fp32"}
    report = app.store.catalog.record(Artifact("report", "a report", spec, 1, {}, ()))
    release = Artifact("release", "a release", {}, 1, {"report": report.digest}, ())
    at = RunContext(app.store, "answer-router", tmp_path, {}, notes)
    where = as_measured(at, release)
    assert (where.device, where.dtype) == ("cpu", "fp32")
    assert notes.told == [
        "the release was measured on cuda, which is not here: it answers on cpu; its answers may differ from the report's"
    ]
