from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.core.errors import SpecError
from luthier.core.spec import parse, read_yaml
from luthier.data.prepare import PrepareSpec
from luthier.data.spec import DEFAULT_QUALITY, DataSpec, MapSpec, RulesSpec, SplitSpec
from luthier.data.task import TaskSpec

RECIPE = """\
sources:
  - files: tickets.jsonl
rules:
  quality:
    - normalize
    - length:
        min: 3
    - {deduplicate: {on: user}}
  quantity:
    - balance: {at_most: 100}
"""


def test_rules_are_read_by_name_or_with_settings_and_run_in_the_order_of_their_sections() -> None:
    data = parse(DataSpec, read_yaml(RECIPE))
    assert [rule.name for rule in data.rules.ordered] == ["normalize", "length", "deduplicate", "balance"]
    assert data.rules.ordered[1].settings.plain() == {"min": 3, "max": None, "unit": "chars", "on": "user"}


def test_the_plain_form_spells_out_defaults_and_reads_back_as_the_same_wish() -> None:
    data = parse(DataSpec, read_yaml(RECIPE))
    assert data.plain()["rules"]["quantity"] == [{"balance": {"by": "label", "at_most": 100, "seed": 0}}]
    assert DataSpec.model_validate(data.plain()) == data


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "normalize",
            "normalise",
            "data.yaml:5: rules.quality.0: there is no rule called 'normalise'; did you mean 'normalize'?",
        ),
        (
            "min: 3",
            "minimum: 3",
            "data.yaml:7: rules.quality.1.length.minimum: there is no key 'minimum' here",
        ),
        (
            "min: 3",
            "min: -3",
            "data.yaml:7: rules.quality.1.length.min: Input should be greater than or equal to 0",
        ),
        ("min: 3", "unit: words", "data.yaml:6: rules.quality.1.length: length needs min or max"),
        (
            "{deduplicate: {on: user}}",
            "{deduplicate: {on: user}, normalize: {}}",
            "data.yaml:8: rules.quality.2: a rule is a name",
        ),
        (
            "files: tickets.jsonl",
            "file: tickets.jsonl",
            "data.yaml:2: sources.0.file: there is no key 'file' here; did you mean 'files'?",
        ),
        ("files: tickets.jsonl", "files: []", "data.yaml:2: sources.0.files"),
    ],
)
def test_a_fault_is_told_with_its_line(old: str, new: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(DataSpec, read_yaml(RECIPE.replace(old, new), "data.yaml"))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"user": "a"}, r"assistant \(or label\) is not mapped"),
        ({"label": "a"}, "user is not mapped"),
        ({"user": "a", "label": "b", "assistant": "c"}, "both name the answer"),
        ({"messages": "m", "user": "a", "assistant": "b"}, "two different layouts"),
        ({"text": "t", "label": "b"}, "two different layouts"),
        ({"user": "{a", "assistant": "b"}, "is not a template"),
        ({"user": "{a!r}", "assistant": "b"}, "only a column's name"),
        ({"user": "{{x}}", "assistant": "b"}, "names no column"),
    ],
)
def test_a_map_that_means_nothing_is_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        MapSpec.model_validate(wish)


def test_a_split_must_leave_rows_to_train_on() -> None:
    with pytest.raises(ValidationError, match="must be below 1"):
        SplitSpec.model_validate({"validation": "50%", "test": 0.5})


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"labels": ["a", "b"]}, "labels belong to `kind: classify`"),
        ({"kind": "classify", "labels": ["a"]}, "at least two"),
        ({"kind": "classify", "labels": ["a", "a"]}, "stands twice"),
        ({"kind": "classify", "labels": ["a ", "b"]}, "spaces around"),
        ({"instruction": " "}, "blank"),
    ],
)
def test_a_task_that_cannot_be_is_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TaskSpec.model_validate(wish)


def test_a_dataset_s_identity_holds_the_versions_of_its_rules() -> None:
    data = {"sources": [{"files": "x.jsonl"}], "rules": {"quality": ["normalize"]}}
    assert PrepareSpec.model_validate({"data": data}).plain()["rule_versions"] == {"normalize": 1}


def test_a_recipe_is_read_without_arrow_polars_or_duckdb() -> None:
    program = (
        "import sys, luthier.data.spec as s, luthier.data.task, luthier.data.prepare, luthier.data.connectors, luthier.data.lineage\n"
        "s.DataSpec.model_validate({'sources': [{'files': 'x'}], 'rules': {'quality': ['normalize', 'drop_empty',"
        " {'length': {'min': 1}}, 'deduplicate'], 'quantity': ['balance']}})\n"
        "print(sorted({'pyarrow', 'polars', 'duckdb', 'numpy', 'fsspec', 'torch'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_default_is_written_out_in_its_place() -> None:
    alone = RulesSpec.model_validate({"quality": "default"})
    assert [rule.name for rule in alone.quality] == list(DEFAULT_QUALITY)
    assert alone.plain() == RulesSpec.model_validate({"quality": list(DEFAULT_QUALITY)}).plain()
    among = RulesSpec.model_validate({"quality": [{"length": {"max": 9}}, "default", "redact"]})
    assert [rule.name for rule in among.quality] == ["length", *DEFAULT_QUALITY, "redact"]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"relevance": "default"}, "there is no default for relevance"),
        ({"quantity": ["default"]}, "there is no default for quantity"),
        ({"quality": ["default", "default"]}, "default stands there twice"),
    ],
)
def test_a_default_that_is_none_is_refused(rules: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RulesSpec.model_validate(rules)


def test_a_fault_beside_the_default_is_found_in_its_line() -> None:
    text = "sources: [{files: a.jsonl}]\nrules:\n  quality:\n    - default\n    - {length: {mim: 3}}\n"
    with pytest.raises(
        SpecError, match=r"data\.yaml:5: rules\.quality\.1\.length\.mim: there is no key 'mim' here"
    ):
        parse(DataSpec, read_yaml(text, "data.yaml"))


@pytest.mark.parametrize(
    "rules",
    [
        {"quantity": [{"replay": {"new": ["feedbak"], "at_most": 100}}]},
        {"relevance": [{"weight": {"by": "source", "weights": {"feedbak": 2}}}]},
    ],
)
def test_a_rule_that_names_a_source_which_is_not_there_is_refused(rules: dict[str, Any]) -> None:
    sources = [{"files": "rows.jsonl"}, {"files": "new.jsonl", "name": "feedback"}]
    with pytest.raises(
        ValidationError, match=r"names the source 'feedbak', which is not there; did you mean 'feedback'"
    ):
        DataSpec.model_validate({"sources": sources, "rules": rules})


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (["augment", "augment"], "augment stands there twice with the same settings"),
        (
            [{"generate": {"model": "m", "n": 5, "way": "new", "keep": ["x"]}}],
            "keep is for paraphrase and back_translate and counterfactual",
        ),
        (
            [{"generate": {"model": "m", "n": 5, "pivot": "French"}}],
            "pivot is for back_translate, and the way is paraphrase",
        ),
        (
            [
                {
                    "generate": {
                        "endpoint": {"url": "http://127.0.0.1:1/v1", "model": "m"},
                        "n": 5,
                        "dtype": "bf16",
                    }
                }
            ],
            "dtype is for model",
        ),
    ],
)
def test_settings_that_would_do_nothing_or_twice_the_same_are_refused(rules: list[Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RulesSpec.model_validate({"quantity": rules})
    RulesSpec.model_validate({"quantity": ["augment", {"augment": {"seed": 1}}]})
