"""The commands as a newcomer meets them: light to start, clear in print, whole with --json."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from luthier.cli.main import main
from luthier.cli.show import Bars, Lines, describe
from luthier.core.event import Event
from luthier.data.spec import MapSpec
from luthier.training.state import BROKEN

HEAVY = "torch", "pyspark", "transformers", "polars", "pyarrow", "duckdb", "sklearn", "fastapi"


def luthier(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize(
    "code",
    [
        "import luthier",
        "from luthier.cli.main import main",
        "import luthier.app.app, luthier.app.recipe, luthier.app.line",
    ],
)
def test_starting_loads_nothing_heavy(code):
    script = f"{code}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_a_mistyped_command_is_told_the_nearest():
    result = luthier("rnu")
    assert result.exit_code == 2 and "did you mean 'run'" in result.output


@pytest.fixture
def tickets(tmp_path):
    path = tmp_path / "support tickets.csv"
    lines = [
        f"Message {i} about the invoice,{'billing' if i % 2 else 'delivery'},c{i // 3}" for i in range(60)
    ]
    path.write_text("body,queue,customer_id\n" + "\n".join(lines) + "\n")
    return path


def test_init_proposes_a_recipe_that_can_be_read_and_says_why(tickets, tmp_path, monkeypatch):
    from luthier.app.recipe import read_recipe

    monkeypatch.chdir(tmp_path)
    result = luthier("init", tickets.name, "-o", "recipe.yaml")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "recipe.yaml").read_text()
    assert "only 2 different values" in text and "'customer_id'" in text
    recipe = read_recipe(tmp_path / "recipe.yaml").recipe
    assert recipe.name == "support-tickets" and recipe.task.kind == "classify"
    assert recipe.data.split.group_by == "customer_id"
    assert recipe.data.sources[0].map.user == "body" and recipe.data.sources[0].map.label == "queue"


@pytest.mark.parametrize("name", ["2024.csv", "null.csv", "1e4.csv"])
def test_init_quotes_a_name_that_yaml_would_read_as_something_else(tickets, tmp_path, name):
    from luthier.app.recipe import read_recipe

    (tmp_path / name).write_bytes(tickets.read_bytes())
    (tmp_path / "recipe.yaml").write_text(luthier("init", tmp_path / name).stdout)
    assert read_recipe(tmp_path / "recipe.yaml").recipe.name == name.removesuffix(".csv")


def test_init_writes_the_path_as_seen_from_the_recipe(tickets, tmp_path, monkeypatch):
    from luthier.app.recipe import read_recipe

    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    assert luthier("init", tickets.name, "-o", "recipes/r.yaml").exit_code == 0
    assert (
        read_recipe(tmp_path / "recipes/r.yaml").recipe.data.sources[0].settings.files
        == "../support tickets.csv"
    )


def test_init_never_overwrites(tickets, tmp_path):
    (tmp_path / "recipe.yaml").write_text("mine")
    result = luthier("init", tickets, "-o", tmp_path / "recipe.yaml")
    assert result.exit_code == 2 and "already there" in result.stderr
    assert (tmp_path / "recipe.yaml").read_text() == "mine"


def test_init_of_a_column_name_with_markup_stays_in_its_place(tmp_path):
    from luthier.app.recipe import read_recipe

    path = tmp_path / "odd.jsonl"
    odd = 'a: "b" # c\n'
    path.write_text(
        "".join(
            json.dumps({"prompt": f"q{i} {odd}", "completion": f"answer {i}: {odd}", odd: i}) + "\n"
            for i in range(20)
        )
    )
    result = luthier("init", path)
    assert result.exit_code == 0, result.output
    (tmp_path / "recipe.yaml").write_text(result.stdout)
    assert read_recipe(tmp_path / "recipe.yaml").recipe.task.kind == "chat"


def test_doctor_says_what_is_missing_and_how_to_get_it(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "s3fs" else real(name, *a)
    )
    result = luthier("doctor", "--json")
    assert result.exit_code == 0, result.output
    findings = {f["what"]: f for f in json.loads(result.stdout)}
    assert findings["s3fs"]["state"] == "missing" and "luthier[s3]" in findings["s3fs"]["remedy"]
    assert findings["torch"]["state"] == "ok" and findings["home"]["state"] == "ok"


def test_an_empty_home_says_what_to_do():
    assert "luthier run RECIPE" in luthier("list").output
    assert json.loads(luthier("list", "--json").stdout) == []
    result = luthier("list", "modle", "--json")
    assert result.exit_code == 2 and "did you mean 'model'" in json.loads(result.stdout)["error"]["remedy"]


def test_plain_progress_says_the_time_left(capsys, monkeypatch):
    import luthier.cli.show as show

    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(show.time, "monotonic", lambda: next(clock))
    lines = Lines(sys.stderr)
    lines._last_s = -100
    for done in (0, 50, 100):  # 50 of 200 in 10 s: the other 100 after it take 20 s
        lines.progress("train", done, 200, {})
    said = capsys.readouterr().err
    assert "train: 50 of 200 (25%, 30.0 s left)" in said and "train: 100 of 200 (50%, 20.0 s left)" in said


def test_bars_and_events_live_together(capsys):
    bars = Bars()
    bars.event(Event("stage.started", "r", {"step": "model"}))
    bars.progress("train", 1, 10, {"loss": 0.5})
    bars.event(Event("warning", "r", {"message": "[red]not markup[/red]"}))
    bars.event(
        Event(
            "stage.finished", "r", {"step": "model", "digest": "a" * 64, "seconds": 61.0, "peak_bytes": 5e8}
        )
    )
    bars.close()
    said = capsys.readouterr().err
    assert "note: [red]not markup[/red]" in said
    assert "model: done in 1 min 01 s, 500.0 MB at most (aaaaaaaaaaaa)" in said


PROOF = {
    "ends": {"answers": 60, "learnt": 60},
    "packing": {"gradient": 2e-3},
    "fused": {"used": True, "gradient": 4e-2},
    "memory": {"by": "plan"},
    "seconds": 2.0,
}
STEP = {"step": 4, "loss": 0.0, "learning_rate": 1e-4, "gradient_norm": 1.5, "tokens": 90, "supervised": 32, "reward": 0.625,
        "answer_tokens": 8.0, "tokens_per_s": 90.0, "rss_bytes": 5e8, "seconds": 1.0}  # fmt: skip
MAP = MapSpec(user=["title", "body"], label="queue").plain()


@pytest.mark.parametrize(
    ("kind", "data", "told"),
    [
        ("proof", PROOF, "packed = alone to 2e-03, fused = plain to 4e-02, memory fits by plan"),
        ("proof", PROOF | {"fused": {"used": False, "gradient": 0.9}}, "packed = alone to 2e-03, memory"),
        ("proof", PROOF | {"fused": {"used": True, "gradient": 0, "left": {"kernels": "no compiler"}}}, "left plain: kernels"),
        ("fallback", {"what": "fused parts", "reason": "they differ"}, "note: they differ"),
        ("tokens.damaged", {"file": "x", "reason": "the rows are tokenised again"}, "note: the rows are"),
        ("checkpoint.damaged", {"name": "checkpoint-000003", "reason": "a hash differs"}, "checkpoint-000003 is damaged"),
        ("kept", {"how": "average", "steps": [3, 6], "loss": 1.0, "why": None}, "kept: average, step 3 and 6"),
        ("kept", {"how": "best", "steps": [3], "loss": 1.0, "why": "it diverged"}, "step 3 (it diverged)"),
        ("diverged", {"step": 9, "reason": "training diverged.", "best_step": 4}, "stopped at step 9: training diverged. The weights of step 4"),
        ("rows.skipped", {"rows": 2, "of": 60, "limit": 512, "longest": 900, "first": "a:1"}, "2 of 60 rows have more than 512"),
        ("teacher.answered", {"split": "train", "rows": 48, "unfinished": 2}, "48 train rows; 2 came to no end"),
        ("proof", PROOF | {"packing": {"gradient": None}}, "packed = alone, fused = plain to 4e-02"),
        ("prepared.damaged", {"reason": "a hash differs"}, "note: a hash differs"),
        ("averaged", {"steps": [3, 6], "value": 0.9, "best": 1.0, "tried": 2}, "averages tried: 2; that of 2 weights validates at 0.9, the best alone at 1"),
        ("averaged", {"steps": [3], "value": 1.0, "best": 1.0, "tried": 2}, "averages tried: 2; none validates as well as the best weights alone"),
        ("layout", {"source": "rows.jsonl", "layout": "labelled", "map": MAP, "reason": "3 values"}, "rows.jsonl: read as labelled, user: title + body, label: queue (3 values)"),
        ("note", {"about": "length", "message": "length matched no row"}, "note: length matched no row"),
        ("step", STEP, "step     4  loss   0.0000  reward   0.6250  answer_tokens   8.0000  grad    1.500       90 tokens/s"),
        ("validation", {"step": 4, "loss": -0.7, "reward": 0.7, "seconds": 1.0}, "validation at step 4: loss -0.7000, reward 0.7000"),
        ("validation", {"step": 4, "loss": 1.0, "groups": {"faq": 0.5, "tickets": 1.5}}, "loss 1.0000; loss by source: faq 0.5000, tickets 1.5000"),
    ],
)  # fmt: skip
def test_what_happens_in_training_is_told_in_a_line(kind, data, told):
    assert told in (describe(Event(kind, "run-1", data)) or "")


QUIET = {
    "run.started", "run.finished", "forecast", "actual",  # the command itself begins, ends and prints them
    "search.started", "search.finished",                  # as it does these
    "dataset", "rule", "evaluated", "asked",              # on the report's page
    "checkpoint",                                         # all the time
}  # fmt: skip
"""Facts that are kept and not shown as they happen."""


def emitted():
    """Every kind of event that the source names. Four places name none: the loop passes on how a run broke, the
    listener what other processes emitted, the probe and a search what they hear."""
    kinds, unnamed = set(BROKEN), set()
    for path in (Path(__file__).parents[2] / "src" / "luthier").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "emit"
            ):
                kind = node.args[0]
                if isinstance(kind, ast.Constant):
                    kinds.add(kind.value)
                else:
                    unnamed.add((path.name, ast.unparse(kind)))
    assert unnamed == {
        ("loop.py", "stopped"), ("launch.py", "told['event']"), ("probe.py", "kind"), ("trying.py", "kind"),
    }  # fmt: skip
    return kinds


def test_every_event_is_told_or_quiet_on_purpose():
    cases = ast.walk(ast.parse(inspect.getsource(describe)))
    told = {node.value.value for node in cases if isinstance(node, ast.MatchValue)}
    assert told.isdisjoint(QUIET)
    assert told | QUIET == emitted()
