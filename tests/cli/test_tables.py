"""What is printed of plain results, which may hold words of others or of a server: nothing of them steers the terminal."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from luthier.app.report.wording import visible
from luthier.cli.asking import told_of
from luthier.cli.command import safe, told
from luthier.cli.tables import print_artifact, print_lineage, print_plan, print_run
from luthier.core.errors import SpecError

STEERS = "a\u202eb\rc\x07"
SHOWN = "a⟨U+202E⟩b⟨U+000D⟩c⟨U+0007⟩"
DIGEST = "d" * 64


def _said(capsys):
    out = capsys.readouterr().out
    assert not set("\u202e\r\x07") & set(out), ascii(out)
    return out


def test_words_of_others_are_written_out(capsys):
    waiver = {"metric": "accuracy", "rule": "at_least", "verdict": "failed", "by": STEERS, "on": "2026-11-30", "because": STEERS, "recorded": True}  # fmt: skip
    found = {"kind": "release", "digest": DIGEST, "names": ["router@1"], "summary": {"licence": STEERS}, "waivers": [waiver], "parents": {"base": DIGEST},
             "files": [{"path": STEERS, "size_bytes": 1, "sha256": DIGEST}], "folder": None, "report": None}  # fmt: skip
    print_artifact(found)
    assert _said(capsys).count("⟨U+202E⟩") == 4
    plan = {"name": "router", "steps": [{"step": "base", "state": "to do", "detail": STEERS}], "sections": [["rules", [["quality", STEERS]]]],
            "over_budget": [STEERS], "notes": [STEERS]}  # fmt: skip
    print_plan(told_of(plan))
    assert _said(capsys).count(SHOWN) == 4
    print_run(told_of({"name": "r", "release": "r@1", "made": [], "seconds": 1.0, "lines": [STEERS], "report_path": None}))  # fmt: skip
    assert SHOWN in _said(capsys)


def test_what_a_release_was_made_from_is_listed_before_it(capsys):
    kinds = ("release", "report", "calibration", "model", "source", "package", "dataset")
    nodes = [{"kind": kind, "digest": DIGEST, "relation": "from", "names": [], "summary": {"note": STEERS}} for kind in kinds]  # fmt: skip
    print_lineage(told_of({"answer": None, "subject": "r", "nodes": nodes, "edges": [], "rows": []}))
    lines = _said(capsys).splitlines()
    assert [line.split()[1] for line in lines] == [
        "source", "dataset", "model", "calibration", "report", "package", "release",
    ]  # fmt: skip
    assert all(SHOWN in line for line in lines)


def test_errors_too():
    @click.command()
    @told
    def fails():
        raise SpecError(f"no {STEERS}.", remedy="Look again.")

    result = CliRunner().invoke(fails)
    assert result.exit_code == SpecError.exit_code
    assert result.stderr == f"error: no {SHOWN}.\n  → Look again.\n"


@pytest.mark.parametrize(
    "text", ["", "plain", "café → א\n\tx", "a\u200cb", "\u00a0", "\ue000", STEERS, "\x1b[2J"]
)
def test_the_short_way_says_the_same(text):
    assert safe(text) == visible(text)
