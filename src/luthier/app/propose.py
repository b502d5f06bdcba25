"""The text of a recipe for a data file: what the file seems to hold, said in comments, so that a person can correct it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.core import plugin
from luthier.core.errors import DataError
from luthier.core.spec import resolve
from luthier.data.propose import Proposal, propose
from luthier.store.catalog import check_name


def write_recipe(
    data_file: str, *, base: str, name: str | None, folder: Path, environ: Mapping[str, str]
) -> str:
    """A commented recipe for a path or URL. Raises DataError when nothing can be made of it.

    A relative path is one from here; it is written as seen from `folder`, where the recipe will stand.
    """
    found = propose(data_file, Path.cwd(), lambda text: resolve(text, environ))
    if "://" not in data_file and not Path(data_file).is_absolute():
        found = replace(found, files=os.path.relpath(data_file, folder))
    return _text(found, base, check_name(name) if name else _name_from(data_file))


def _name_from(data_file: str) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", data_file.rstrip("/").rpartition("/")[2].split(".")[0].lower()).strip(
        "-"
    )
    if not stem:
        raise DataError(f"no name can be made from {data_file!r}.", remedy="Give one with --name.")
    return stem[:60]


def _text(found: Proposal, base: str, name: str) -> str:
    rows = (
        f"{found.estimate.rows:,} rows"
        if found.estimate.rows is not None
        else f"more than {found.sampled_rows:,} rows"
    )
    lines = [
        f"# Proposed from the first {found.sampled_rows:,} rows of {_line(found.files)} ({found.format}, {rows}).",
        "# Read the reasons, correct what is wrong, then:  luthier plan RECIPE   and   luthier run RECIPE",
        f"name: {_flow(name)}",
        f"base: {_flow(base)}",
        "",
        f"# {_line(found.task.reason)}.",
    ]
    if found.task.value == "classify":
        labels = ", ".join(_line(label) for label in found.labels or [])
        lines += [f"# Labels seen: {labels}.", "task: {kind: classify, labels: auto}"]
    elif found.task.value == "extract":
        lines += ["# The schema is that of the training rows; write it, or name a file, to hold rows to it.", "task: {kind: extract, schema: auto}"]  # fmt: skip
    else:
        lines.append("task: {kind: chat}")
    lines += [
        "",
        "data:",
        "  sources:",
        f"    # {_line(found.map.reason)}.",
        *(f"    # It could also be map: {_flow(one.value)}: {_line(one.reason)}." for one in found.others),
        f"    - files: {_flow(found.files)}",
    ]
    if found.map.value:
        lines.append(f"      map: {_flow(found.map.value)}")
    lines += ["  rules:"]
    for section in dict.fromkeys(section for section, _, _ in found.rules):
        lines.append(f"    {section}:")
        lines += [
            f"      - {_flow(entry)}  # {_line(why)}" for of, entry, why in found.rules if of == section
        ]
    lines += [f"  # {_line(found.split.reason)}.", f"  # {_line(found.group_by.reason)}."]
    split = dict(found.split.value) | ({"group_by": found.group_by.value} if found.group_by.value else {})
    lines.append(f"  split: {_flow(split)}")
    lines += [
        "",
        "train:",
        *_method(found),
        "  adapter: {kind: lora, rank: 16}",
        "  epochs: 3",
        "  early_stopping: {patience: 3}",
    ]
    if found.method.value != "sft":
        lines += ["", "# No gate: none of the metrics here says whether the better answers are the likelier ones.", ""]  # fmt: skip
        return "\n".join(lines)
    metric = {"classify": "macro_f1", "extract": "field_f1"}.get(found.task.value, "perplexity")
    lines += ["", "evaluate:", "  # The line stops, and nothing is released, unless the tuned model is better than the prompted base.",
              f"  gate: {{{metric}: {{better_than: base}}}}", ""]  # fmt: skip
    return "\n".join(lines)


def _method(found: Proposal) -> list[str]:
    """Nothing for the default; a method that is not installed is only mentioned."""
    name = found.method.value
    if name == "sft":
        return []
    written = "" if name in plugin.names("method") else "# "
    return [f"  # {_line(found.method.reason)}.", f"  {written}method: {name}"]


def _line(text: str) -> str:
    """Text that stays in its comment."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _flow(value: Any) -> str:
    """A value in YAML flow style.

    >>> print(_flow({"user": "body", "on_bad_row": "set_aside", "n": 0.1, "odd": "a: b"}))
    {user: body, on_bad_row: set_aside, n: 0.1, odd: "a: b"}
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(v) for v in value) + "]"
    if (
        isinstance(value, str)
        and re.fullmatch(r"[A-Za-z_/.][\w./-]*", value)
        and value.lower() not in ("true", "false", "null", "~", ".inf", ".nan")
    ):
        return value
    return json.dumps(value, ensure_ascii=False)
