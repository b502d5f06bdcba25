"""A waiver from the command line to the release: granted once, recorded, told everywhere, and of that report alone."""

from __future__ import annotations

import json
from pathlib import Path

from luthier.core.event import Event
from luthier.store import Store

GATE = (
    "--set",
    "evaluate.gate={macro_f1: {at_least: 1.0}, accuracy: {at_least: 0.0}, log_loss: {at_most: 0, waivable: false}}",
)
SOFT = ("--set", "evaluate.gate={macro_f1: {at_least: 1.0}, accuracy: {at_least: 0.0}}")
WHY = ("--because", "The pilot needs it before the new labels arrive.", "--by", "Ann Example")


def stopped(workshop, *words):
    result = workshop.luthier("run", workshop.folder / "recipe.yaml", *words)
    assert result.exit_code in (2, 7), result.output
    return result


def test_a_waiver_from_the_command_line_to_the_release(workshop):
    # nothing is waived: stopped, with the way
    result = stopped(workshop, *SOFT)
    assert result.exit_code == 7 and "--waive macro_f1" in result.stderr
    # words that cannot be a waiver cost nothing
    for words, told in (
        (("--waive", "macro_f1", "--by", "Ann"), "needs a reason"),
        (("--waive", "macro_f1", "--because", WHY[1]), "needs the name"),
        (("--waive", "accuracy", *WHY), "the rule holds"),
        (("--waive", "f1", *WHY), "no such rule"),
    ):
        result = stopped(workshop, *SOFT, *words)
        assert result.exit_code == 2 and told in result.stderr, result.stderr
    assert "may not be waived" in stopped(workshop, *GATE, "--waive", "log_loss", *WHY).stderr
    assert stopped(workshop, *GATE, "--waive", "macro_f1", *WHY).exit_code == 7  # the other still stops it
    assert json.loads(workshop.luthier("list", "--json").stdout) == []
    assert not list(Store.open(workshop.home).ledger.read(kind="waived"))

    done = workshop.run(*SOFT, "--waive", "macro_f1", *WHY)
    assert done["release"] == "router@1" and done["made"] == ["package", "release"]
    (waiver,) = done["waivers"]
    assert waiver["report"] == done["digests"]["report"] and waiver["by"] == "Ann Example"
    (event,) = Store.open(workshop.home).ledger.read(kind="waived", subject=done["digests"]["report"])
    assert event.data["waivers"] == [waiver] and event.data["by_system"] is False
    # it is told where anybody would look
    shown = json.loads(workshop.luthier("show", "router@1", "--json").stdout)
    assert shown["waivers"] == [{**waiver, "recorded": True}] and shown["summary"]["waived"] == "macro_f1"
    assert "waived: macro_f1 at least 1" in workshop.luthier("show", "router@1").stdout
    assert "waived macro_f1" in workshop.luthier("list").stdout
    folder = Path(shown["folder"])
    assert json.loads((folder / "release.json").read_text())["waivers"] == [waiver]
    for page in (Path(done["report_path"]), folder / "MODEL_CARD.md"):
        text = page.read_text(encoding="utf-8")
        assert "Released under waiver" in text and "Ann Example" in text and "before the new labels" in text

    # said again it is the same release; said otherwise, or not at all, it is not
    again = workshop.run(*SOFT, "--waive", "macro_f1", *WHY)
    assert again["made"] == [] and again["release"] == "router@1" and again["waivers"] == [waiver]
    assert stopped(workshop, *SOFT).exit_code == 7
    other = workshop.run(*SOFT, "--waive", "macro_f1", *WHY[:2], "--by", "Bob Example")
    assert other["release"] == "router@2" and other["made"] == ["release"]
    # another report needs a new one, even with the same words; it is granted for that report alone
    changed = workshop.run(*SOFT, "--set", "evaluate.resamples=300", "--waive", "macro_f1", *WHY)
    assert changed["waivers"][0]["report"] != waiver["report"]
    assert len(list(Store.open(workshop.home).ledger.read(kind="waived"))) == 3


def test_an_event_of_another_report_is_no_waiver_of_this(workshop):
    """Put into the ledger under this report's digest by hand, it still names the other one, and is not taken."""
    from luthier.governance import waiver

    asked = waiver.Asked.of(("macro_f1",), WHY[1], "Ann Example")
    facts = {
        "metric": "macro_f1", "rule": "at least 1", "verdict": "it is 0.3", "report": "b" * 64, "because": WHY[1],
        "by": "Ann Example", "on": "2020-01-01 00:00:00 UTC",
    }  # fmt: skip
    event = Event(waiver.EVENT, "a" * 64, {"waivers": [facts]})
    assert waiver.granted(asked, "a" * 64, [event]) == []
