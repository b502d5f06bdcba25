"""The sentences a reader remembers: right numbers, certain only where the interval allows it, honest about TF-IDF."""

from dataclasses import replace

from luthier.app.report.facts import RunFacts
from luthier.app.report.verdict import reading, verdict


def report(tuned, base=None, tfidf=None, comparisons=(), kind="classify", rows=100):
    systems = {"tuned": {"metrics": tuned}}
    systems |= {"base": {"metrics": base}} if base else {}
    systems |= {"tfidf": {"metrics": tfidf}} if tfidf else {}
    return RunFacts(
        name="x",
        report={"task": {"kind": kind}, "rows": rows, "labels": None, "systems": systems, "comparisons": list(comparisons)},
    )  # fmt: skip


def gap(to, difference, low, high, metric="macro_f1"):
    return {"metric": metric, "of": "tuned", "to": to, "difference": difference, "low": low, "high": high, "confidence": 0.95}  # fmt: skip


GOOD = {"accuracy": 0.83, "macro_f1": 0.82}
POOR = {"accuracy": 0.21, "macro_f1": 0.21}


def test_counts_and_a_certain_gap():
    # 0.83 × 100 = 83 and 0.21 × 100 = 21; the wider side of 0.56..0.65 around 0.61 is 0.05
    said = verdict(report(GOOD, POOR, comparisons=[gap("base", 0.61, 0.56, 0.65)]))
    assert said.headline == "The tuned model answers 83 of 100 test rows correctly; the base model 21."
    assert said.more == ["The gap of 0.61 in macro-F1 is certain to within ±0.05 (95 %)."]


def test_a_system_that_was_asked_fewer_rows_says_so():
    facts = report(GOOD, POOR)
    facts.report["systems"]["base"]["rows"] = 90  # 0.21 × 90 = 18.9
    assert verdict(facts).headline.endswith("; the base model 19 of 90.")


def test_a_gap_that_could_be_chance_is_not_called_certain():
    (said,) = verdict(report(GOOD, POOR, comparisons=[gap("base", 0.02, -0.03, 0.07)])).more
    assert (
        said == "The gap in macro-F1 could be chance: with 95 % confidence it lies between −0.030 and +0.070."
    )


def test_a_worse_model_is_called_worse():
    (said,) = verdict(report(POOR, GOOD, comparisons=[gap("base", -0.61, -0.65, -0.56)])).more
    assert said == (
        "The tuned model is worse than the base model. The gap of 0.61 in macro-F1 is certain to within ±0.05 (95 %)."
    )


def test_the_plain_baseline_wins_loses_and_draws():
    tfidf = {"accuracy": 0.9, "macro_f1": 0.9}

    def told(*ends):
        return verdict(report(GOOD, tfidf=tfidf, comparisons=[gap("tfidf", *ends)])).more[0]

    assert told(-0.08, -0.12, -0.04).startswith(
        "The plain baseline (word counts and logistic regression, TF-IDF) answers 90: it beats the tuned model by 0.08 in "
        "macro-F1 (95 % interval of the difference −0.120 to −0.040)"
    )
    assert told(-0.08, -0.12, -0.04).endswith("the plain baseline is the better choice.")
    assert "the tuned model is ahead of it by 0.08" in told(0.08, 0.04, 0.12)
    assert "no difference is certain" in told(0.01, -0.04, 0.06)


def test_lower_perplexity_is_better():
    assert reading(gap("base", -7, -8, -6, "perplexity")) == "better"
    assert reading(gap("base", 7, 6, 8, "perplexity")) == "worse"
    said = verdict(report({"perplexity": 4.6}, {"perplexity": 11.7}, comparisons=[gap("base", -7.1, -8.4, -5.9, "perplexity")], kind="chat"))  # fmt: skip
    assert said.headline == (
        "On 100 test rows the tuned model reaches a perplexity of 4.60; the base model 11.7 (lower is better)."
    )
    # the wider side of −8.4..−5.9 around −7.1 is 1.3
    assert said.more == ["The gap of 7.10 in perplexity is certain to within ±1.30 (95 %)."]


def test_without_rivals_metrics_or_a_report():
    assert verdict(report(GOOD)).headline == "The tuned model answers 83 of 100 test rows correctly."
    assert verdict(report(GOOD)).more == []
    assert verdict(report({}, kind="chat")).headline.endswith("no metric was measured.")
    facts = replace(report(GOOD), report=None, reason="the disk is full")
    assert verdict(facts).headline == "This run ended before the model was measured. the disk is full."
