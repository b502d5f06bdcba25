"""A model card in Markdown with the Hub's YAML header, from plain facts.

The same facts give the same bytes: no clock, no look-up. What is not known is said to be not recorded; a licence
that is not known is `unknown`, never guessed. Text that people wrote cannot leave its cell, its line or its YAML
string, so a hostile name shows as what it is.

Sources: Mitchell et al., Model Cards for Model Reporting (2019); the Hub's model card metadata.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from luthier.evaluation.spec import METRICS
from luthier.models.spec import KEPT_BESIDE

if TYPE_CHECKING:
    from jinja2 import Environment

# The Hub's names for what our metrics are.
HUB_METRICS = {
    "accuracy": "accuracy",
    "precision_macro": "precision",
    "recall_macro": "recall",
    "macro_f1": "f1",
    "exact_match": "exact_match",
    "perplexity": "perplexity",
    "mae": "mae",
    "rmse": "rmse",
    "r2": "r_squared",
}
SYSTEM_TITLES = {
    "tuned": "tuned",
    "base": "base",
    "base_3shot": "base, three examples in the prompt",
    "tfidf": "word counts and logistic regression",
    "production": "the release that was in use",
}
"""Others are called what the recipe calls them."""


def card(facts: Mapping[str, Any]) -> str:
    """The card. Every key of `facts` may be absent or None.

    name, description, date, license, intended_use: str      limits: [str]
    base      {"name", "license", "parameters"}
    task      {"kind", "instruction", "labels"}
    data      {"sources": [{"name", "license"}], "counts": {split: rows}, "labels": {label: {split: rows}}, "rules": rules.json}
    training  {"method", "adapter", "steps", "tokens", "supervised", "stopped", "kept", "hyperparameters": {name: value}}
    report    report.json
    gate      [{"metric", "rule", "passed", "reason", "waived"}]
    waivers   [governance.waiver.WaiverSpec]
    lineage   {role: digest}
    compute   {what: value}, as measured
    """
    report = facts.get("report") or {}
    adapter = (facts.get("training") or {}).get("adapter")
    systems = report.get("systems") or {}
    measured = list(systems["tuned"]["metrics"]) if "tuned" in systems else []
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            facts=facts,
            report=report,
            systems=systems,
            measured=measured,
            metrics=METRICS,
            hub={name: HUB_METRICS[name] for name in measured if name in HUB_METRICS},
            titles={name: SYSTEM_TITLES.get(name, name) for name in systems},
            losses=losses(report),
            tags=["luthier", *filter(None, [adapter, (facts.get("task") or {}).get("kind")])],
            library="peft" if adapter in KEPT_BESIDE else "transformers",
            relation="adapter" if adapter in KEPT_BESIDE else "finetune",
        )
    )


def losses(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The comparisons in which the tuned model is worse: what an honest card says first."""
    return [
        dict(one)
        for one in report.get("comparisons") or ()
        if (one["difference"] < 0) == METRICS[one["metric"]].higher_is_better and one["difference"] != 0
    ]


_KEPT = {
    "best": "the best validated weights",
    "last": "the last weights",
    "average": "the average of several weights",
}


def kept_weights(history: Mapping[str, Any]) -> str | None:
    """Which weights became the model, and why where the recipe asked for others, from history.json.

    >>> kept_weights({"kept": {"how": "best", "steps": [120], "loss": 0.304, "why": None}})
    'the best validated weights, of step 120, with a validation loss of 0.304'
    >>> average = {"how": "average", "steps": [4, 6], "loss": None, "why": None}
    >>> kept_weights({"kept": average, "watched": {"metric": "reward", "mode": "max"}})
    'the average of several weights, of steps 4 and 6, chosen by reward'
    """
    one = history.get("kept")
    if not one:
        return None
    several = "s" if len(one["steps"]) > 1 else ""
    told = f"{_KEPT.get(one['how'], one['how'])}, of step{several} " + " and ".join(
        f"{n:,}" for n in one["steps"]
    )
    watched = (history.get("watched") or {}).get("metric", "loss")
    if watched != "loss" and one["how"] != "last":
        told += f", chosen by {watched}"
    if one.get("loss") is not None:
        told += f", with a validation loss of {one['loss']:.4g}"
    return told + (f" ({one['why']})" if one.get("why") else "")


_MARKS = re.compile(r"([\\`*_\[\]<>|~$&#])")
_OPENS_A_BLOCK = re.compile(r"^([-+=:]|\d+(?=[.)]))")


def inline(value: Any) -> str:
    """Text for one line of Markdown: in a cell, a list item, a paragraph. Says "not recorded" for nothing.

    >>> print(inline("a|b\\n# c"), inline(None), inline(0.84321), inline(134515008))
    a\\|b \\# c not recorded 0.8432 134,515,008
    """
    if value is None or value == "":
        return "not recorded"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{inline(k)}: {inline(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(inline(v) for v in value)
    line = " ".join(_visible(str(value)).split())
    if not line:
        return "not recorded"
    return _OPENS_A_BLOCK.sub(r"\\\1" if line[:1] in "-+=:" else r"\1\\", _MARKS.sub(r"\\\1", line))


def yaml_string(value: Any) -> str:
    """A YAML double-quoted string of one line.

    >>> print(yaml_string('a: "b"\\n# c'))
    "a: \\"b\\"\\n# c"
    """
    return json.dumps(_visible(str(value), keep="\n\t"), ensure_ascii=False)


def _visible(text: str, keep: str = "") -> str:
    """Without what cannot be seen or reorders what can: control, format, surrogate, line-separator characters.

    The two joiners stay: scripts and emoji need them, and they reorder nothing.
    """
    keep += "\u200c\u200d"
    invisible = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return "".join(
        one if one in keep or unicodedata.category(one) not in invisible else " " if one.isspace() else "�"
        for one in text
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def load(name: str) -> str:
        return files("luthier.governance").joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(load),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the result is Markdown; `inline` and `yaml` are its escapes
    )
    environment.filters.update(inline=inline, yaml=yaml_string, log2=math.log2)
    return environment
