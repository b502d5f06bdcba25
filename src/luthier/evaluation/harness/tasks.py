"""A dataset's test rows as a task of the harness: the same prompts, the same labels, the same reference answers.

    classify    NAME           multiple choice over the labels: acc, and acc_norm (by the characters of a label)
                NAME_written   the label as written text: exact_match; what a served model can be asked over chat
    chat        NAME           written text: exact_match, and chrf
    regress     NAME           written text, of which the last number counts: exact_match

Put the prompts into the model's chat template (`--apply_chat_template`): the instruction is then the system message and the
question the user's, as our own evaluation asks it. A row with more than one question, with tools, or that is plain text has
no such form: it is left out, and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from luthier.core.errors import DataError
from luthier.evaluation.questions import Question

LONGEST_LABEL = 64
NUMBER = r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
"""As metrics.number_in reads it."""


def lines(questions: Iterable[Question], labels: Sequence[str] | None) -> tuple[list[str], int]:
    """(JSON lines, how many rows are left out). Raises DataError where none is left."""
    place = {label: i for i, label in enumerate(labels or ())}
    found, left = [], 0
    for question in questions:
        prompt = question.prompt or ()
        system = [one["content"] for one in prompt if one["role"] == "system"]
        asked = [one for one in prompt if one["role"] != "system"]
        if question.tools or len(system) > 1 or [one["role"] for one in asked] != ["user"]:
            left += 1
            continue
        row: dict[str, Any] = {
            "id": question.id, "system": system[0] if system else "", "user": asked[0]["content"],
            "answer": question.reference,
        }  # fmt: skip
        if labels:
            row["label"] = place[question.reference]
        found.append(json.dumps(row, ensure_ascii=False))
    if not found:
        raise DataError(
            f"none of the {left:,} test rows is one question with one answer, which is all that a task of the harness can ask.",
            remedy="Export such a dataset with --format jsonl.",
        )
    return found, left


def configs(name: str, task: Mapping[str, Any], data_file: str, max_tokens: int) -> dict[str, dict[str, Any]]:
    """Task name -> its configuration. `data_file` is where test.jsonl will lie: the harness takes it from the folder it is
    started in unless it is absolute."""
    common: dict[str, Any] = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": data_file}},
        "test_split": "test",
        "description": "system",
        "doc_to_text": "user",
        "target_delimiter": "",
        "num_fewshot": 0,
        "metadata": {"version": 1},
    }
    exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    written = {
        **common,
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": max_tokens},
        "metric_list": [exact],
        "filter_list": [{"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}],
    }  # fmt: skip
    if task["kind"] == "classify":
        choice = {
            **common,
            "output_type": "multiple_choice",
            "doc_to_choice": list(task["labels"]),
            "doc_to_target": "label",
            "metric_list": [
                {"metric": one, "aggregation": "mean", "higher_is_better": True}
                for one in ("acc", "acc_norm")
            ],
        }
        short = {
            **written,
            "generation_kwargs": {**written["generation_kwargs"], "max_gen_toks": LONGEST_LABEL},
        }
        return {name: {"task": name, **choice}, f"{name}_written": {"task": f"{name}_written", **short}}
    if task["kind"] == "regress":
        number = {"function": "regex", "group_select": -1, "regex_pattern": f"({NUMBER})"}
        written["filter_list"] = [{"name": "none", "filter": [number, {"function": "take_first"}]}]
    else:
        written["metric_list"] = [
            {**exact, "ignore_case": False, "ignore_punctuation": False},
            {"metric": "chrf", "aggregation": "chrf", "higher_is_better": True},
        ]
    return {name: {"task": name, **written}}


def yaml_of(config: Mapping[str, Any]) -> bytes:
    """JSON is YAML, and quotes everything: no label can be read as a number or as a boolean."""
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
