"""The figures are those that plain loops give; the page loads nothing, runs nothing and shows hostile rows as text."""

from __future__ import annotations

import html
import re
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest

from luthier.app.data.profile import balance
from luthier.app.report.data_page import render
from luthier.core.errors import NotFound, SpecError
from luthier.data.digests import fold

HOSTILE = [
    "</style><script>alert(1)</script>", "\u202egnirts\u202c", "a\x00b", "<img src=x onerror=alert(1)>",
    "🧑‍🚒 " * 40, "x" * 5000, "{{ 7 * 7 }}",
]  # fmt: skip


def test_rows_and_lengths_are_what_a_plain_loop_counts(shop):
    dataset = shop.prepare()
    found, rows = shop.app.data.inspect(dataset.digest), shop.every_row(dataset)
    for side in ("train", "validation", "test"):
        mine = [r for r in rows if r["side"] == side]
        assert found["rows"][side] == len(mine)
        characters = [sum(len(t["content"]) for t in r["messages"]) for r in mine]
        told = found["lengths"]["characters"]["sides"][side]
        assert (told["rows"], told["max"]) == (len(mine), max(characters))
        assert told["mean"] == pytest.approx(statistics.mean(characters), abs=0.01)
        assert told["median"] == statistics.median_low(characters)
        words = [sum(len(t["content"].split()) for t in r["messages"]) for r in mine]
        assert found["lengths"]["tokens"]["sides"][side]["max"] == max(words)
        assert sum(found["lengths"]["characters"]["counts"][side]) == len(mine)
    assert found["lengths"]["tokens"]["unit"] == "words" and "no model" in found["lengths"]["tokens"]["why"]
    assert found["kinds"] == {"conversations": len(rows)} and found["weights"] is None
    assert found["sources"][0]["name"] == "rows.jsonl" and len(found["tasks"]) == 1
    assert {label: sum(n.values()) for label, n in found["labels"].items()} == {
        label: sum(r["label"] == label for r in rows) for label in ("billing", "delivery", "technical")
    }


def test_what_occurs_twice_is_what_a_plain_loop_finds(shop, some):
    rows = some()
    rows += [
        {**rows[0], "customer": "c0"},  # equal
        {**rows[1], "text": rows[1]["text"].upper(), "customer": "c0"},  # equal but for case
        {**rows[2], "queue": "billing", "customer": "c1"},  # the same input, another answer
    ]
    shop.rows(rows)
    dataset = shop.prepare("data.rules.quality=[normalize]")
    told = shop.app.data.inspect(dataset.digest)["duplicates"]
    kept = shop.every_row(dataset)
    whole = ["\0".join(t["content"] for t in r["messages"]) for r in kept]
    assert told["exact"] == len(whole) - len(set(whole)) == 1
    assert told["folded"] == len(whole) - len(set(map(fold, whole))) == 2
    assert told["repeated_inputs"] == 3
    several = told["several_answers"]
    assert (several["inputs"], several["rows"]) == (1, 2)
    (one,) = several["examples"]
    assert {a["answer"] for a in one["answers"]} == {"billing", "technical"} and one["input"].startswith(
        "Message 2"
    )


def test_plain_texts_pairs_and_weights_are_counted(shop):
    shop.rows({"text": f"Line {n} of a text."} for n in range(40))
    shop.rows(({"q": f"Question {n}?", "good": "Yes.", "bad": "No."} for n in range(40)), "pairs.jsonl")
    shop.write(
        "name: x\nbase: tiny\ndata:\n  sources:\n    - {files: rows.jsonl, map: {text: text}, weight: 0.5}\n"
        "    - {files: pairs.jsonl, map: {user: q, chosen: good, rejected: bad}}\n"
    )
    found = shop.app.data.inspect(shop.prepare().digest)
    assert found["kinds"] == {"plain texts": 40, "conversations": 40, "with a rejected answer": 40}
    assert found["weights"] == {"min": 0.5, "mean": 0.75, "max": 1.0}
    assert {s["name"]: sum(s["counts"].values()) for s in found["sources"]} == {
        "rows.jsonl": 40,
        "pairs.jsonl": 40,
    }
    assert found["labels"] is None and found["balance"] is None and Path(found["report"]).is_file()


def test_tokens_are_counted_as_the_model_of_a_run_counts_them(shop, tiny_base):
    from contextlib import closing

    from luthier.app.line import Make, materials
    from luthier.models.template import Template
    from luthier.models.weights import load_tokenizer

    (shop.folder / "tiny").symlink_to(tiny_base)
    wish, at = shop.context()
    with closing(at):
        so_far = materials(wish, at, Make(at))
    found = shop.app.data.inspect(so_far.dataset.digest, base="tiny", page=False)["lengths"]["tokens"]
    template = Template(load_tokenizer(tiny_base), 4096)
    want = [len(template.encode(row["messages"]).ids) for row in shop.table(so_far.dataset, "test")]
    assert found["unit"] == "tokens" and found["by"] == "tiny" and found["sampled"] is None
    assert found["sides"]["test"]["max"] == max(want) and found["sides"]["test"]["rows"] == len(want)
    with pytest.raises(NotFound, match="no model called 'other'"):
        shop.app.data.inspect(so_far.dataset.digest, base="other")


def test_a_sample_is_said_to_be_one(shop, some, tiny_base, monkeypatch):
    from contextlib import closing

    from luthier.app.data import profile
    from luthier.app.line import Make, materials

    monkeypatch.setattr(profile, "SAMPLE", 20)
    (shop.folder / "tiny").symlink_to(tiny_base)
    wish, at = shop.context()
    with closing(at):
        so_far = materials(wish, at, Make(at))
    tokens = shop.app.data.inspect(so_far.dataset.digest, base="tiny", page=False)["lengths"]["tokens"]
    assert (
        tokens["sampled"] == sum(s["rows"] for s in tokens["sides"].values())
        and 20 <= tokens["sampled"] <= 23
    )


def test_an_older_dataset_is_shown_and_says_what_it_lacks(shop):
    old = shop.aged(shop.prepare())
    found = shop.app.data.inspect(old.digest)
    assert found["trail"] is None and found["forgotten"] == 0
    assert "before changes were recorded" in Path(found["report"]).read_text(encoding="utf-8")


def test_about_is_shown_and_no_part_of_the_identity(shop):
    plain = shop.prepare()
    told = shop.prepare("data.about={owner: support, licence: CC-BY-4.0, purpose: route, tags: [a, b]}")
    assert told.digest == plain.digest
    want = {"owner": "support", "licence": "CC-BY-4.0", "purpose": "route", "tags": ["a", "b"]}
    assert (
        shop.app.data.inspect(plain.digest)["about"] == shop.app.records.show(plain.digest)["about"] == want
    )
    assert shop.app.records.listing("dataset")[0]["about"] == want
    shop.prepare("data.about={owner: sales}")  # the newest word counts
    assert shop.app.data.about(plain.digest) == {"owner": "sales"}
    events = len(list(shop.app.store.ledger.read(kind="described")))
    shop.prepare("data.about={owner: sales}")
    assert len(list(shop.app.store.ledger.read(kind="described"))) == events


def test_a_list_is_filtered_by_what_is_said_of_datasets(shop, some):
    one = shop.prepare("data.about={owner: Support, purpose: to route tickets, tags: [PII, eu]}")
    shop.rows(some(30))
    other = shop.prepare("data.about={owner: sales, tags: [eu]}")
    shop.rows(some(20))
    silent = shop.prepare()

    def found(**wanted):
        return {row["digest"] for row in shop.app.records.listing("dataset", **wanted)}

    assert found() == {one.digest, other.digest, silent.digest}
    assert found(tags=["eu"]) == {one.digest, other.digest} and found(tags=["EU", "pii"]) == {one.digest}
    assert found(owner="support") == {one.digest} and found(owner="supp") == set()
    assert found(purpose="route") == {one.digest} and found(purpose="route", owner="sales") == set()
    with pytest.raises(SpecError, match="a run has none of its own"):
        shop.app.records.listing("run", tags=["eu"])
    assert shop.app.records.listing(tags=["eu"]) == []  # nothing was released


@pytest.mark.parametrize(
    ("labels", "ratio", "entropy"),
    [
        ({"a": {"train": 10}, "b": {"train": 10}}, 1.0, 1.0),
        ({"a": {"train": 30}, "b": {"train": 10}}, 3.0, 0.8113),  # -(3/4 log 3/4 + 1/4 log 1/4) / log 2
        ({"a": {"train": 5}, "b": {"train": 0}}, None, 0.0),
    ],
)
def test_how_even_labels_are(labels, ratio, entropy):
    told = balance(labels)
    assert told["ratio"] == ratio and told["entropy"] == entropy


def test_too_few_labels_have_no_balance():
    assert (
        balance(None)
        is balance({"a": {"train": 3}})
        is balance({"a": {"train": 0}, "b": {"train": 0}})
        is None
    )


# -- the page ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(shop):
    shop.rows(
        {
            "text": f"{HOSTILE[n % len(HOSTILE)]} {n}",
            "queue": HOSTILE[n % 2] if n % 3 else "plain",
            "customer": str(n),
        }
        for n in range(60)
    )
    return shop.app.data.inspect(shop.prepare().digest)


def test_hostile_rows_stay_text_and_nothing_is_fetched_or_run(hostile):
    page = Path(hostile["report"]).read_text(encoding="utf-8")
    assert "<script" not in page and "<img" not in page and "\u202e" not in page and "\x00" not in page
    assert not re.search(r"\b(src|href|srcset|on\w+)\s*=\s*[\"']", page.replace(html.escape(HOSTILE[3]), ""))
    assert "url(" not in page and "@import" not in page and "49" not in re.findall(r"\{\{.*?\}\}", page)
    assert page.count("<svg") >= 6 and "default-src 'none'" in html.unescape(page)


def test_the_policy_allows_this_style_alone(hostile):
    import base64
    import hashlib

    page = Path(hostile["report"]).read_text(encoding="utf-8")
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in html.unescape(page)


def test_the_same_figures_give_the_same_page(hostile):
    assert render(hostile) == render(hostile) == Path(hostile["report"]).read_text(encoding="utf-8")


def test_the_drawings_are_well_formed(hostile):
    import xml.etree.ElementTree as ET

    page = Path(hostile["report"]).read_text(encoding="utf-8")
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(drawing)


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it_without_a_word_of_complaint(hostile, tmp_path, width):
    picture = tmp_path / "page.png"
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},3000",
            f"--screenshot={picture}", Path(hostile["report"]).as_uri(),
        ],
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0 and picture.stat().st_size > 20_000, done.stderr[-2000:]
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []


def test_families_are_told_by_who_stays_and_private_data_by_kind(shop, some):
    """Three copies of one long text that differ in a word, an address that redact has masked, and one that nobody has."""
    long = " ".join(f"word{k}" for k in range(60))
    rows = some()
    rows += [
        {"text": f"{long} {end}", "queue": "billing", "customer": f"n{end}"}
        for end in ("one", "two", "three")
    ]
    rows[5]["text"] += " Write to jane@example.com or joe@example.com."
    shop.rows(rows)
    plain = shop.prepare("data.rules.quality=[near_duplicates]")
    found = shop.app.data.inspect(plain.digest)
    gone = [line for line in shop.table(plain, "removed") if line["rule"] == "near_duplicates"]
    copies = [line for line in gone if line["preview"].startswith("word0")]
    assert len(copies) == 2 and found["families"]["rows"] == len(gone)
    [family] = [one for one in found["families"]["largest"] if one["like"][0]["preview"].startswith("word0")]
    assert family["rows"] == 3 and {row["id"] for row in family["like"]} == {line["id"] for line in copies}
    assert found["private"]["kinds"] == {"email": 2} and found["private"]["with"] == 1
    page = render(found)
    assert f"like <code>{family['stays']}</code>" in page and "is not in the recipe" in page
    assert "still hold what looks like private data" in page
    masked = shop.app.data.inspect(shop.prepare("data.rules.quality=[redact]").digest)
    page = render(masked)
    assert masked["private"]["kinds"] == {} and "jane@example.com" not in page
    assert "Nothing that has the form of private data is left" in page
    assert re.search(r'<th scope="row">email</th><td class="n">2</td><td class="n">0</td>', page)
