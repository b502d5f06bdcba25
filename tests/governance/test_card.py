"""The card says what is known, says what is not, and cannot be broken by a name."""

import io

from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from luthier.governance.card import card, inline, kept_weights, losses, yaml_string

FACTS = {
    "name": "ticket-router",
    "license": None,
    "base": {"name": "smollm2-135m-instruct", "license": "apache-2.0", "parameters": 134515008},
    "task": {"kind": "classify", "instruction": "Route it.", "labels": ["a", "b"]},
    "data": {
        "sources": [{"name": "tickets.jsonl", "license": None}],
        "counts": {"train": 80, "validation": 10, "test": 40},
        "labels": {"a": {"train": 40, "test": 20}, "b": {"train": 40, "test": 20}},
        "rules": [
            {"rule": "read", "rows_in": 140, "rows_out": 140, "removed": 0, "changed": 0},
            {"rule": "deduplicate", "rows_in": 140, "rows_out": 130, "removed": 10, "changed": 0},
        ],
    },
    "training": {
        "method": "sft", "adapter": "lora", "steps": 15, "tokens": 12000, "supervised": 400, "stopped": "epochs",
        "kept": "the best validated weights, of step 12, with a validation loss of 0.31", "hyperparameters": {"learning_rate": 2e-4, "rank": 16},
    },
    "report": {
        "task": {"kind": "classify", "labels": ["a", "b"]},
        "rows": 40,
        "systems": {
            "tuned": {
                "rows": 40,
                "metrics": {"macro_f1": 0.8, "perplexity": 2.5},
                "intervals": {"macro_f1": [0.7, 0.9], "perplexity": [2.0, 3.0]},
                "per_label": {"a": {"precision": 0.8, "recall": 0.75, "f1": 0.774, "support": 20}},
            },
            "tfidf": {
                "rows": 40, "metrics": {"macro_f1": 0.85, "perplexity": None}, "intervals": {"macro_f1": [0.76, 0.93]},
                "per_label": {},
            },
        },
        "comparisons": [
            {"metric": "macro_f1", "of": "tuned", "to": "tfidf", "difference": -0.05, "low": -0.12, "high": 0.02,
             "rows": 40, "confidence": 0.95, "resamples": 2000, "seed": 0},
        ],
        "cautions": ["Fewer than 5 test rows have these labels: 'b' (4)."],
    },
    "gate": [{"metric": "macro_f1", "rule": "at least 0.75", "passed": True, "reason": "it is 0.8"}],
    "lineage": {"model": "ab" * 32, "dataset": "cd" * 32},
    "limits": ["Not for medical tickets."],
}  # fmt: skip


def _header(text):
    assert text.startswith("---\n")
    head, _, rest = text[4:].partition("\n---\n")
    return YAML(typ="safe").load(io.StringIO(head)), rest


def test_the_header_is_the_hubs():
    header, _ = _header(card(FACTS))
    assert header["license"] == "unknown"
    assert header["base_model"] == "smollm2-135m-instruct"
    assert (header["library_name"], header["base_model_relation"]) == ("peft", "adapter")
    assert header["tags"] == ["luthier", "lora", "classify"]
    assert header["metrics"] == ["f1", "perplexity"]
    (result,) = header["model-index"][0]["results"]
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [("f1", 0.8), ("perplexity", 2.5)]


def test_the_body_says_what_is_known():
    text = card(FACTS)
    for line in (
        "| Licence of this model | unknown: nobody has stated one, so none is granted here |",
        "| tickets.jsonl | not recorded |",
        "| deduplicate | 140 | 130 | 10 | 0 | 0 |",
        "| Label | train | test |",
        "| a | 40 | 20 |",
        "| Weights that were kept | the best validated weights, of step 12, with a validation loss of 0.31 |",
        r"| learning\_rate | 0.0002 |",
        "| F1 (macro) | 0.8 [0.7, 0.9] | 0.85 [0.76, 0.93] |",
        "| perplexity (lower is better) | 2.5 [2, 3] | – |",
        "| word counts and logistic regression | F1 (macro) | -0.0500 | -0.1200 to +0.0200 | 40 |",
        "- The tuned model is worse than **word counts and logistic regression** in F1 (macro): -0.0500 (-0.1200 to +0.0200).",
        r"| macro\_f1 at least 0.75 | yes | it is 0.8 |",
        "- Fewer than 5 test rows have these labels: 'b' (4).",
        "- Not for medical tickets.",
        f"| dataset | {'cd' * 32} |",
    ):
        assert line in text.splitlines(), line


def test_the_same_facts_give_the_same_bytes_and_no_date_of_its_own():
    assert card(FACTS) == card(FACTS)
    assert "Date:" not in card(FACTS)
    assert "Date: 2026-11-24" in card({**FACTS, "date": "2026-11-24"})


def test_nothing_known_is_still_a_card():
    header, body = _header(card({}))
    assert header["license"] == "unknown"
    assert "Not evaluated." in body
    assert body.count("not recorded") >= 10


def test_what_was_kept_is_told_as_it_was():
    reward = {"metric": "reward", "mode": "max"}
    last = {"how": "last", "steps": [1500], "loss": 2.0, "why": None}
    assert kept_weights({"kept": last, "watched": reward}) == (
        "the last weights, of step 1,500, with a validation loss of 2"
    )
    best = {"how": "best", "steps": [3], "loss": 1.25, "why": "every average validated worse"}
    assert kept_weights({"kept": best, "watched": reward}) == (
        "the best validated weights, of step 3, chosen by reward, with a validation loss of 1.25 (every average validated worse)"
    )
    assert kept_weights({"best_step": 3}) is None


def test_losses_know_which_way_is_better():
    report = {
        "comparisons": [
            {"metric": "macro_f1", "difference": 0.1, "to": "base"},
            {"metric": "macro_f1", "difference": -0.1, "to": "tfidf"},
            {"metric": "perplexity", "difference": -1.0, "to": "base"},
            {"metric": "perplexity", "difference": 1.0, "to": "base_3shot"},
            {"metric": "accuracy", "difference": 0.0, "to": "base"},
        ]
    }
    assert [(one["metric"], one["to"]) for one in losses(report)] == [
        ("macro_f1", "tfidf"),
        ("perplexity", "base_3shot"),
    ]


hostile = st.one_of(
    st.sampled_from(
        ["a|b", "---\nlicense: mit", "# big", "- x\n- y", '"}: [', "`code`", "<script>alert(1)</script>", "1. one", "\u202eevil",
         "a\u2028b", "\x00\x1b[31m", "\\|", "{{ 7*7 }}", "{% endfor %}", "| x |\n|---|", "https://x](y)", "é 漢字 👩‍💻"]
    ),
    st.text(max_size=30),
)  # fmt: skip


@given(hostile)
def test_no_name_breaks_the_header_or_a_table(name):
    facts = {
        **FACTS, "name": name, "license": name, "description": name, "intended_use": name, "limits": [name],
        "base": {"name": name, "license": name},
        "data": {**FACTS["data"], "sources": [{"name": name, "license": name}], "labels": {name: {"train": 1, "test": 2}}},
        "training": {**FACTS["training"], "hyperparameters": {name: name}},
    }  # fmt: skip
    text = card(facts)
    header, body = _header(text)
    assert list(header) == list(
        _header(card({**facts, "name": "x", "license": "x", "base": {"name": name}}))[0]
    )
    assert header["model-index"][0]["name"] == _visible(name or "model")
    # The same lines as with a plain name: nothing opened a line, a row or a column of its own.
    plain = card({**facts, "name": "x", "license": "x", "description": "x", "intended_use": "x", "limits": ["x"],
                  "base": {"name": name and "x", "license": "x"},
                  "data": {**facts["data"], "sources": [{"name": "x", "license": "x"}], "labels": {"x": {"train": 1, "test": 2}}},
                  "training": {**facts["training"], "hyperparameters": {"x": "x"}}})  # fmt: skip
    _, plain_body = _header(plain)
    assert [_columns(line) for line in body.splitlines()] == [
        _columns(line) for line in plain_body.splitlines()
    ]
    for line, plain_line in zip(body.splitlines(), plain_body.splitlines(), strict=True):
        for opener in ("#", "- ", "<", "1. ", "```", "---"):
            assert line.startswith(opener) == plain_line.startswith(opener)


def _visible(name):
    from luthier.governance.card import _visible as visible

    return visible(name, keep="\n\t")


def _columns(line):
    return line.replace("\\\\", "").replace("\\|", "").count("|")


@given(hostile)
def test_a_yaml_string_reads_back_as_what_can_be_seen_of_it(name):
    assert YAML(typ="safe").load(f"key: {yaml_string(name)}\n")["key"] == _visible(name)


@given(hostile)
def test_inline_text_is_one_line_that_opens_no_block(name):
    line = inline(name)
    assert "\n" not in line and len(line.splitlines()) == 1
    assert not line.startswith(("#", "-", "+", "=", "<", "|", "`", "*", ">", " "))
