"""`luthier data ...` as a person meets it: clear in print, whole with --json, errors with a remedy and an exit code."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from luthier.cli.main import main

RECIPE = """\
name: router
base: tiny
data:
  sources: [{files: rows.jsonl, map: {user: q, assistant: a, group: who}}]
  rules: {quality: [normalize, deduplicate]}
  about: {owner: support, tags: [tickets]}
"""


def luthier(*words, **more):
    return CliRunner().invoke(main, [str(word) for word in words], **more)


def told(*words):
    result = luthier(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def made(tmp_path):
    """(digest of a dataset of 41 rows, the recipe)"""
    from contextlib import closing

    from luthier.app.app import App
    from luthier.app.line import Make, prepared

    rows = [{"q": f"Question  {n}?", "a": f"Answer {n}.", "who": f"c{n // 2}"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    app = App.open()
    wish = app.recipes.read(recipe, ())
    with closing(app.recipes.context(wish, None)) as at:
        return prepared(wish, at, Make(at)).digest, recipe


def test_inspect_prints_and_gives_the_same_figures(made, tmp_path):
    digest, _ = made
    found = told("data", "inspect", digest)
    assert sum(found["rows"].values()) == 40 and found["removed"] == 1
    text = luthier("data", "inspect", digest[:10]).stdout
    assert f"{found['rows']['train']:,} train" in text and "owner" in text and "deduplicate" in text
    assert found["report"] in text and "page:" not in luthier("data", "inspect", digest, "--no-page").stdout


def test_diff_explains_itself(made, tmp_path):
    from contextlib import closing

    from luthier.app.app import App
    from luthier.app.line import Make, prepared

    digest, recipe = made
    app = App.open()
    wish = app.recipes.read(recipe, ("data.rules.quality=[normalize]",))
    with closing(app.recipes.context(wish, None)) as at:
        other = prepared(wish, at, Make(at)).digest
    text = luthier("data", "diff", other, digest).stdout
    assert (
        "only in a: 1 row (" in text and "deduplicate: the same as" in text and "data.rules.quality" in text
    )
    assert told("data", "diff", digest, digest)["same"]
    assert "the same dataset" in luthier("data", "diff", digest, digest).stdout


def test_explain_tells_the_story_in_order(made):
    _, recipe = made
    text = luthier("data", "explain", "rows.jsonl:2", "--recipe", recipe).stdout
    places = [
        text.index(word)
        for word in ("read as", "1. normalize", "before: Question  1?", "after:  Question 1?", "side")
    ]
    assert places == sorted(places)
    removed = [
        t
        for t in (luthier("data", "explain", f"rows.jsonl:{n}").stdout for n in (1, 41))
        if "removed by" in t
    ]
    assert len(removed) == 1 and "deduplicate: the same as" in removed[0]


def test_search_shows_some_and_counts_all(made):
    digest, _ = made
    text = luthier("data", "search", digest, "question 1", "--limit", 2).stdout
    assert text.startswith("11 rows (") and "… and 9 more" in text and text.count("rows.jsonl:") == 2
    assert told("data", "search", digest, "--where", "group=c3")["matches"] == 2


def test_forget_asks_first_and_then_does_it(made):
    asked = luthier("data", "forget", "--where", "group=c3")
    assert asked.exit_code == 2 and "to forget: 2 records in that group, 2 rows in 1 dataset" in asked.stdout
    assert "nothing was changed" in asked.stderr and "--yes" in asked.stderr
    assert (
        luthier("data", "forgotten").stdout == "nothing was forgotten\n" and told("data", "forgotten") == []
    )
    assert not told("data", "forget", "--where", "group=c3")["done"]
    done = luthier("data", "forget", "--where", "group=c3", "--reason", "a\u202e letter", "--yes")
    assert done.exit_code == 0 and "forgotten: 2 records" in done.stdout and "From now on" in done.stdout
    assert "Question" not in done.stdout  # no text of a row
    listed = luthier("data", "forgotten").stdout
    assert listed.count("(in a group)") == 2 and "a⟨U+202E⟩ letter" in listed
    assert len(told("data", "forgotten")) == 2


def test_export_writes_and_never_overwrites(made, tmp_path):
    digest, _ = made
    assert "wrote 6 files" in luthier("data", "export", digest, tmp_path / "out", "--croissant").stdout
    again = luthier("data", "export", digest, tmp_path / "out")
    assert again.exit_code == 2 and "already there" in again.stderr
    assert told("data", "export", digest, tmp_path / "lines", "--format", "jsonl")["rows"].keys() == {
        "train", "validation", "test",
    }  # fmt: skip
    url = f"sqlite:///{tmp_path}/out.db"
    wrote = luthier("data", "export", digest, url, "--table", "t").stdout
    assert wrote.startswith("wrote ") and wrote.endswith("rows to the table t\n")
    clash = luthier("data", "export", digest, url, "--table", "t")
    assert (
        clash.exit_code == 2 and "--table" in clash.stderr and "nothing is ever overwritten" in clash.stderr
    )


def test_show_and_list_say_what_people_say_of_a_dataset(made):
    digest, _ = made
    assert (
        "owner  support" in luthier("show", digest).stdout
        and told("show", digest)["about"]["owner"] == "support"
    )
    assert "support, tickets" in luthier("list", "dataset").stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("inspect", "nothing"), 5, "nothing here is called"),
        (("inspect", "run-none"), 5, "luthier list run"),
        (("explain", "rows.jsonl:999"), 5, "no row"),
        (("search", "DIGEST"), 2, "nothing to look for"),
        (("search", "DIGEST", "--where", "lable=x"), 2, "did you mean 'label'"),
        (("forget", "--where", "label=x"), 2, "there is no field 'label'"),
        (("forget", "--where", "contains=no such text"), 5, "no row meets"),
    ],
)
def test_what_goes_wrong_is_told_with_the_remedy(made, words, code, said):
    digest, _ = made
    words = [digest if word == "DIGEST" else word for word in words]
    result = luthier("data", *words, "--json")
    assert result.exit_code == code and said in result.stderr
    assert json.loads(result.stdout)["error"]["remedy"]


def test_a_mistyped_command_of_the_group_is_told_the_nearest():
    result = luthier("data", "inspct", "x")
    assert result.exit_code == 2 and "did you mean 'inspect'" in result.output


def test_the_reference_page_has_every_command_of_the_group():
    import importlib.util
    from pathlib import Path

    path = Path(__file__).parents[2] / "scripts" / "generate_docs.py"
    spec = importlib.util.spec_from_file_location("generate_docs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.cli_page()
    for name in ("", " inspect", " diff", " explain", " search", " export", " forget", " forgotten"):
        assert f"## `luthier data{name}`" in page


def test_a_file_is_looked_at_and_converted(tmp_path):
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text(
        "".join(json.dumps({"text": f"t{n}", "queue": "a", "priority": "b"}) + "\n" for n in range(3))
    )
    found = told("data", "layout", rows)
    assert [one["map"].get("label") for one in found["layouts"]] == ["queue", "priority", None] and not found[
        "sure"
    ]
    result = luthier("data", "layout", rows)
    assert "it is labelled" in result.output and "More than one is likely" in result.output
    done = told("data", "convert", rows, out, "--to", "alpaca", "--map", "{user: text, label: priority}")
    assert (done["rows"], done["from"], done["set_aside"]) == (3, "map", [])
    assert json.loads(out.read_text().splitlines()[2]) == {"instruction": "t2", "input": "", "output": "b"}
    result = luthier("data", "convert", rows, out, "--to", "alpaca")
    assert result.exit_code != 0 and "already there" in result.output
    result = luthier(
        "data", "convert", rows, tmp_path / "b.jsonl", "--to", "text", "--map", "{user: text, label: queue}"
    )
    assert "rows.jsonl:1: it has a conversation, for which text has no place" in result.output


def test_a_contract_is_proposed_checked_and_exported(tmp_path):
    rows, ours, odcs = tmp_path / "rows.jsonl", tmp_path / "c.yaml", tmp_path / "odcs.yaml"
    lines = [{"id": n, "queue": "ab"[n % 2], "body": f"text {n}"} for n in range(40)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert luthier("data", "contract", "propose", rows, "-o", ours).exit_code == 0
    assert "already there" in luthier("data", "contract", "propose", rows, "-o", ours).output
    result = luthier("data", "contract", "check", rows, ours)
    assert (
        result.exit_code == 0
        and "0 of 40 rows break the contract" in result.output
        and "would be taken" in result.output
    )
    assert luthier("data", "contract", "export", ours, "--odcs", "-o", odcs).exit_code == 0
    document = told("data", "contract", "export", ours, "--odcs", "--name", "tickets")
    assert document["kind"] == "DataContract" and document["schema"][0]["name"] == "tickets"
    assert told("data", "contract", "export", odcs) == told("data", "contract", "export", ours)
    rows.write_text(json.dumps({"id": 1, "queue": "x", "body": "t"}) + "\n")
    result = luthier("data", "contract", "check", rows, odcs)
    assert result.exit_code == 1
    assert "rows.jsonl:1: 'queue' is 'x', which is none of its 2 values" in result.output
    assert "refused: rows.jsonl: 1 of 1 rows break the contract" in result.output
