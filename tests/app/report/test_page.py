"""The page loads nothing, runs nothing, shows hostile text as text, adapts to what is not there, and can be read."""

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import fields, replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.app.report.charts import shade
from luthier.app.report.facts import RunFacts
from luthier.app.report.page import render
from luthier.app.report.wording import visible

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Elements with their attributes, headings in order, text outside <style>; refuses unbalanced markup."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.headings, self.words, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag in ("td", "th", "dt", "dd", "li", "p"):
            self.words.append(" ")

    def handle_data(self, data):
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(params=["classify", "stopped", "chat"])
def page(request, sample):
    return Page(render(getattr(sample, request.param)()))


def test_nothing_is_fetched_and_nothing_runs(page):
    assert {tag for tag, _ in page.elements}.isdisjoint(
        {
            "script",
            "link",
            "img",
            "iframe",
            "object",
            "embed",
            "form",
            "a",
            "base",
            "use",
            "image",
            "foreignobject",
        }
    )
    for _, attributes in page.elements:
        for name in attributes:
            assert name not in ("src", "href", "xlink:href", "srcset", "style", "action", "background")
            assert not name.startswith("on")
    style = files("luthier.app.report").joinpath("page.css").read_text(encoding="utf-8")
    assert "url(" not in style and "@import" not in style and "@font-face" not in style


def test_the_policy_allows_exactly_the_style_that_is_there(sample):
    text = render(sample.classify())
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [
        m["content"] for m in Page(text).all("meta") if m.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_the_same_facts_give_the_same_bytes(sample):
    assert render(sample.classify()) == render(sample.classify())


HOSTILE = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "style end": "</style></pre></svg><b>&amp;<!-- ]]>",
    "template": "{{ 7 * 191 }} {% raw %} ${HOME} {# x #}",
    "direction": "abc\u202egnp.exe \u2066x\u2069 \u200b",
    "control": "a\x00b\x1b[31mc\x08\x7f\u2028\ufeff\ufffe",
    "surrogate": "a\ud800b",
    "long": "x" * 100_000,
    "quotes": "\"' onmouseover='alert(1)' \"",
    "tall": "\n" * 5000,
}


def test_what_was_proven_and_kept_is_shown(sample):
    page = render(sample.classify())
    assert "Kept: the best validated weights, of step 120, with a validation loss of 0.304." in page
    for told in ("Proven before the first step", "2,560 of 2,560 answers", "14,402 of 381,221 tokens are learnt (3.8%)",
                 "off by 2.1e-04 in a row&#39;s loss, 1.9e-03 in the gradient and 2.0e-02 in one parameter&#39;s",
                 "4e-02, 5e-02 and 3e-01 (bf16)"):  # fmt: skip
        assert told in page, told
    facts = sample.classify()
    history = facts.history | {
        "proof": facts.history["proof"] | {"fused": facts.history["proof"]["fused"] | {"used": False}}
    }
    assert "they differ, so the plain model was trained" in render(replace(facts, history=history))


def poisoned(sample, row):
    """Every text of the facts replaced by `row`, but the words that the layouts fix."""
    whole = sample.classify()
    fixed = {
        "task",
        "metrics",
        "intervals",
        "counts",
        "comparisons",
        "kind",
        "metric",
        "change",
        "best_step",
        "steps",
        "validation",
    }

    def spoil(value, key=""):
        if isinstance(value, str):
            return row
        if isinstance(value, dict):
            return {k: v if k in fixed else spoil(v, k) for k, v in value.items()}
        return [spoil(v) for v in value] if isinstance(value, list) else value

    report = dict(whole.report)
    report["examples"] = [
        {**spoil(e), "answers": {"tuned": row, "base": row}} for e in report["examples"][:2]
    ]
    report["cautions"] = [row]
    labels = [f"{row}{i}" for i in range(len(report["labels"]))]
    report["labels"] = labels
    report["systems"] = {
        name: {**s, "per_label": dict(zip(labels, s["per_label"].values(), strict=True))}
        for name, s in report["systems"].items()
    }
    return replace(
        whole, name=row, release=row, state=row, made_on=row, base=row, reason=row, report=report,
        rules=[{**spoil(r), "examples": [{"id": row, "before": row, "after": row + " ", "reason": row}]} for r in whole.rules[:2]],
        verdicts=[{**spoil(v), "metric": row} for v in whole.verdicts], recipe=row, overrides=[row],
        environment={row: row}, lineage_nodes=[{**n, "names": [row]} for n in whole.lineage_nodes],
        forecast={**whole.forecast, "basis": [row]}, actual={**whole.actual, "basis": [row]},
    )  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_stays_text(sample, kind):
    row = HOSTILE[kind]
    text = render(poisoned(sample, row))
    clean = Page(render(replace(sample.classify(), state="stopped")))
    page = Page(text)
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in clean.elements}
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert text.count("</style>") == 1 and text.count("<pre") == text.count("</pre>")
    assert not set(text) & set("\x00\x08\x1b\x7f\u202e\u2066\u2069\u200b\u2028\ufeff\ufffe\ud800")
    text.encode("utf-8")
    assert len(text) < 900_000
    if kind in ("markup", "template", "quotes"):
        assert row in page.text
    if kind == "direction":
        assert "abc⟨U+202E⟩gnp.exe" in page.text
    if kind == "long":
        assert "(99,300 more characters)" in page.text


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=60))
def test_visible_text_steers_nothing_and_loses_nothing_that_can_be_seen(text):
    shown = visible(text)
    shown.encode("utf-8")
    assert visible(shown) == shown
    assert [c for c in text if c.isalnum()] == [
        c for c in re.sub(r"⟨U\+[0-9A-F]+⟩", "", shown) if c.isalnum()
    ]


def test_every_drawing_is_well_formed_and_named(sample):
    for facts in (sample.classify(), sample.stopped(), sample.chat()):
        drawings = re.findall(r"<svg.*?</svg>", render(facts), re.S)
        assert drawings
        for svg in drawings:
            tree = ET.fromstring(svg)
            assert tree.get("role") == "img" and tree.get("aria-label")


def test_headings_tables_and_regions_can_be_walked(page):
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(page.headings))
    assert all(th.get("scope") in ("col", "row") for th in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["aria-labelledby"] for a in page.all("section")} <= set(ids)
    assert page.all("html")[0]["lang"] == "en"


def test_a_released_run_tells_its_numbers(sample):
    facts = sample.classify()
    page, report = Page(render(facts)), facts.report
    right = sum(row[i] for i, row in enumerate(report["systems"]["tuned"]["confusion"]))
    assert f"The tuned model answers {right} of 320 test rows correctly" in page.text
    assert "The gate let it pass: both rules hold." in page.text
    assert (
        "5,214 rows came in, 3,204 remain: 2,560 for training, 324 for validation, 320 for the test."
        in page.text
    )
    assert "Kept: the best validated weights, of step 120, with a validation loss of 0.304." in page.text
    # (502 − 561) / 561 = −0.105; (2.31 − 2.18) / 2.18 = 0.0596
    assert "8 min 22 s 9 min 21 s 11 % too low" in page.text
    assert "2.3 GB 2.2 GB 6 % too high" in page.text
    assert "Ten answers, before and after" in page.text
    for node in facts.lineage_nodes:
        assert node["digest"] in page.text and node["digest"][:12] in page.text
    assert "Base, as given" in page.text and "Tuned model" in page.text and "Data source" in page.text
    assert "--set train.epochs=1" in page.text


def test_a_stopped_run_says_so_and_that_the_plain_baseline_wins(sample):
    page = Page(render(sample.stopped()))
    assert "The gate stopped it: 1 of 2 rules failed. Nothing was published." in page.text
    assert "the plain baseline is the better choice" in page.text
    assert "licence-reader@3" not in page.text


def test_a_chat_task_without_labels_validation_gate_or_cost(sample):
    page = Page(render(sample.chat()))
    for said in (
        "The task has no labels, so there is no confusion matrix.",
        "There was no validation",
        "No gate was set",
        "Neither a forecast nor what it took was recorded.",
        "No intervals were recorded for the single values",
        "No lineage was handed over.",
        "One answer, before and after",
    ):
        assert said in page.text
    assert "Label by label" not in page.text
    assert "not certain" in page.text  # exact match: the interval holds zero


def test_every_fact_but_the_name_may_be_absent(sample):
    Page(render(RunFacts(name="x")))
    whole = sample.classify()
    for field in fields(RunFacts):
        if field.name != "name":
            Page(render(replace(whole, **{field.name: field.default})))


def test_parts_of_facts_may_be_absent_too(sample):
    facts = sample.classify()
    report = json.loads(json.dumps(facts.report))
    for one in report["systems"].values():
        one["intervals"], one["confusion"], one["per_label"] = {}, None, None
    del report["systems"]["base"], report["cautions"]
    report |= {"comparisons": [], "examples": []}
    page = Page(
        render(
            replace(facts, report=report, forecast=None, rules=[], history={"steps": [], "validation": []})
        )
    )
    for said in ("No confusion matrix was recorded.", "Not measured in this run: the base model.", "No answers were recorded.",
                 "There was no forecast to compare with", "No training steps were recorded."):  # fmt: skip
        assert said in page.text
    assert "Nothing was spent yet" in Page(render(replace(facts, actual=None))).text


def test_many_labels_are_listed_rather_than_drawn(sample):
    facts = sample.classify()
    labels = [f"label-{i}" for i in range(300)]
    one = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2}
    matrix = [[2 if i == j else 0 for j in range(300)] for i in range(300)]
    matrix[7][8], matrix[7][7] = 1, 1
    systems = {
        "tuned": {"metrics": {"accuracy": 0.99}, "per_label": dict.fromkeys(labels, one), "confusion": matrix}
    }
    report = {**facts.report, "labels": labels, "systems": systems, "comparisons": []}
    page = Page(render(replace(facts, report=report)))
    assert "300 labels are too many for a readable matrix" in page.text
    assert "1 of 2 label-7 answered as label-8" in page.text
    assert "The first 200 of 300 labels" in page.text


def test_many_sources_are_drawn_as_one(sample):
    facts = sample.classify()
    more = [
        {"digest": hashlib.sha256(bytes([i])).hexdigest(), "kind": "source", "names": []} for i in range(40)
    ]
    dataset = next(n["digest"] for n in facts.lineage_nodes if n["kind"] == "dataset")
    edges = [*facts.lineage_edges, *((dataset, f"source.{i + 1}", n["digest"]) for i, n in enumerate(more))]
    page = Page(render(replace(facts, lineage_nodes=[*facts.lineage_nodes, *more], lineage_edges=edges)))
    assert "41 data sources" in page.text
    assert all(n["digest"] in page.text for n in more)


# -- contrast: WCAG 2.2, relative luminance and success criterion 1.4.3 (4.5 to 1 for text) ---------------------------------


def palettes():
    style = files("luthier.app.report").joinpath("page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    assert len(blocks) == 3  # light, dark, print
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", block)) for block in blocks]


def rgb(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    return [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]


def luminance(channels):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark", "print"])
def test_text_can_be_read(palette):
    page, ink = rgb(palette["page"]), rgb(palette["ink"])
    for name in ("ink", "muted", "accent", "wood", "grey"):
        assert contrast(rgb(palette[name]), page) >= 4.5, name
    assert contrast(ink, rgb(palette["raised"])) >= 4.5
    for colour in ("accent", "wood"):
        for share in (i / 100 for i in range(1, 101)):
            opacity = shade(share)
            cell = [opacity * c + (1 - opacity) * p for c, p in zip(rgb(palette[colour]), page, strict=True)]
            assert contrast(page if opacity > 0.7 else ink, cell) >= 4.5, (colour, share)


def memory(**more):
    share = {"rows": 40, "hits": 3, "share": 0.075, "low": 0.02, "high": 0.2}
    score = {"auc": 0.71, "low": 0.6, "high": 0.8, "found": 0.12, "sure": True}
    secret = {"name": "<b>planted-0</b>", "group": "planted", "kind": "code", "repeats": 4, "bits": 40.0, "among": 1024,
              "exposure": 10.0, "estimated": 31.2, "said": True, "p": 0.01}  # fmt: skip
    return {
        "rows": 40, "control": 20, "left_out": 0,
        "extraction": {"given": 8, "verbatim": 16, "train": share, "control": share, "base": share, "own": share, "own_control": share,
                       "beyond": [0.05, 0.0, 0.1], "worst": ["row-1"], "p": 0.01},
        "membership": {"scores": {"loss": score, "min_k": score, "ratio": score}, "base": score, "shifted": True, "leads": "loss"},
        "secrets": [secret], "alarms": ["Three rows were <i>learnt</i>."], "notes": [], **more,
    }  # fmt: skip


def test_what_it_remembers_is_told_with_what_was_not_learnt_beside_it(sample):
    from dataclasses import replace

    facts = sample.classify()
    told = {"tuned": {"answers": 30, "rows": 2, "kinds": {"email": 2}, "ids": ["row-7"]}}
    page = render(replace(facts, report={**facts.report, "memorisation": memory(), "private": told}))
    for text in (
        "What it remembers",
        "3 of 40",
        "0.710",
        "10.0",
        "31 of 40",
        "row-1",
        "&lt;i&gt;learnt&lt;/i&gt;",
        "email 2",
        "row-7",
    ):
        assert text in page, text
    assert "<b>planted-0</b>" not in page
    quiet = memory(
        alarms=[], extraction={"why": "answers are short"}, membership={"why": "no rows"}, secrets=[]
    )
    page = render(replace(facts, report={**facts.report, "memorisation": quiet}))
    assert "answers are short" in page and "no proof that nothing is" in page
    assert "What it remembers" not in render(facts)


def test_a_card_says_what_it_remembers():
    from luthier.governance.card import card

    report = {"task": {"kind": "chat"}, "rows": 3, "systems": {}, "comparisons": [], "memorisation": memory(),
              "private": {"tuned": {"answers": 30, "rows": 2, "kinds": {"email": 2}, "ids": []}}}  # fmt: skip
    text = card({"name": "x", "report": report})
    for piece in (
        "## What it remembers",
        "3 of 40",
        "AUC 0.71",
        "exposure 10.0 bits of at most 10.0; said outright",
        "2 of 30 answers: email: 2",
    ):
        assert piece in text, piece
    quiet = memory(alarms=[], extraction={"why": "short"}, membership={"why": "none"}, secrets=[])
    text = card({"name": "x", "report": {**report, "memorisation": quiet}})
    assert "not measured: short" in text and "No alarm was raised" in text
    assert "was not measured" in card({"name": "x"})
