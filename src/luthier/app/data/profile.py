"""What is in a dataset, as figures: one pass over its files, in memory that grows by a few numbers for each row.

    rows          by side, source, task and kind          duplicates   equal rows, rows equal but for case and blanks
    lengths       characters, turns, tokens               answers      inputs that have several answers, with examples
    labels        by side                                 rules        the account of every step, as it was kept

Tokens are counted by the model's own tokenizer and template where a model is at hand, on a sample of at most SAMPLE rows
(ids are hashes, so the first rows by id are a random sample), otherwise words, on all rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError, NotFound
from luthier.data.canaries import natural
from luthier.store import Store

from .about import about_of
from .find import SPLITS, Looking, batches, lines_of, models_of, names_of, paths, row_count
from .findings import families, private

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from luthier.models.template import Template

SAMPLE = 2_000
EXAMPLES = 3
CONFLICTS = 5
LONGEST = 600
BINS = 24


class _Counted:
    """What grows while the rows pass: counters, and one number per row for each length and hash."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.lengths: dict[str, dict[str, list[np.ndarray]]] = {
            what: {side: [] for side in SPLITS} for what in ("characters", "turns", "words")
        }
        self.hashes: dict[str, list[np.ndarray]] = {"whole": [], "folded": [], "input": [], "answer": []}
        self.weights: list[np.ndarray] = []

    def add(self, batch: pa.RecordBatch, side: str) -> None:
        import numpy as np
        import polars as pl
        import pyarrow.compute as pc

        from luthier.data.opened import Opened

        opened = Opened(batch)
        text = opened.text
        for what, of_texts in (
            ("characters", text.str.len_chars()),
            ("words", text.str.count_matches(r"\S+")),
        ):
            numbers = of_texts.fill_null(0).to_numpy().astype(np.float64)
            self.lengths[what][side].append(opened.per_row(numbers, "sum").astype(np.int64))
        turns = pl.Series(pl.from_arrow(batch["messages"])).list.len().fill_null(1)
        self.lengths["turns"][side].append(turns.to_numpy().astype(np.int64))
        conversation = batch["text"].null_count
        self.kinds["plain texts"] += batch.num_rows - conversation
        self.kinds["conversations"] += conversation
        self.kinds["with a rejected answer"] += batch.num_rows - batch["rejected"].null_count
        self.kinds["rated"] += batch.num_rows - batch["rating"].null_count
        self.weights.append(pc.fill_null(batch["weight"], 1.0).to_numpy(zero_copy_only=False))
        whole = opened.whole()
        self.hashes["whole"].append(_short(whole, fold=False))
        self.hashes["folded"].append(_short(whole, fold=True))
        self.hashes["input"].append(_short(opened.joined("user", "text"), fold=True))
        self.hashes["answer"].append(_short(opened.answers(), fold=True))


def _short(texts: Iterable[str], *, fold: bool) -> np.ndarray:
    """64 bits of each text's hash: enough to count equal ones among millions."""
    import numpy as np

    from luthier.data.records import hashed

    told = hashed(list(texts), fold=fold).to_pylist()
    return np.array([int(one[:16], 16) for one in told], np.uint64)


def profile(store: Store, dataset: Artifact, base: str | None, look: Looking) -> dict[str, Any]:
    """Everything that `luthier data inspect` shows."""
    folder = store.folder(dataset)
    facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    rules = json.loads((folder / "rules.json").read_text(encoding="utf-8"))
    counted, done = _Counted(), 0
    counts = {side: row_count(folder, side) for side in SPLITS}
    for side in SPLITS:
        for batch in batches(folder, side):
            done += batch.num_rows
            counted.add(natural(batch), side)
            look.progress("inspect", done, sum(counts.values()))
    about = about_of(store, dataset.digest)
    planted = int((facts.get("canaries") or {}).get("rows", 0))
    counts["train"] -= planted
    return {
        "dataset": dataset.digest,
        "names": names_of(store, dataset),
        "created_s": dataset.created_s,
        "about": dict(about) if about else None,
        "task": facts["task"],
        "rows": counts,
        "canaries": planted,
        "removed": row_count(folder, "removed"),
        "forgotten": next((r.get("counts", {}).get("forgotten", 0) for r in rules[:1]), 0),
        "sources": facts.get("sources") or [],
        "tasks": _tasks(facts),
        "kinds": {kind: n for kind, n in counted.kinds.items() if n},
        "weights": _weights(counted.weights),
        "lengths": {
            "characters": lengths("characters", counted.lengths["characters"]),
            "turns": lengths("turns", counted.lengths["turns"]),
            "tokens": _tokens(store, dataset, folder, base, counted, look),
        },
        "labels": facts.get("labels"),
        "balance": balance(facts.get("labels")),
        "duplicates": _duplicates(folder, counts, counted),
        "families": families(folder, look),
        "private": private(folder, look),
        "rules": rules,
        "trail": row_count(folder, "trail") if paths(folder, "trail") else None,
        "examples": _examples(folder),
    }


def _tasks(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows by what they are told; a dataset of one task has one line."""
    found: dict[str | None, dict[str, int]] = {}
    for source in facts.get("sources") or ():
        told = found.setdefault(source["instruction"], dict.fromkeys(SPLITS, 0))
        for side, n in source["counts"].items():
            told[side] += n
    return [{"instruction": text, "kind": facts["task"]["kind"], "counts": n} for text, n in found.items()]


def _weights(parts: list[np.ndarray]) -> dict[str, float] | None:
    """None where all rows count the same."""
    import numpy as np

    if not parts:
        return None
    weights = np.concatenate(parts).astype(np.float64)
    if not len(weights) or weights.min() == weights.max():
        return None
    return {"min": float(weights.min()), "mean": float(weights.mean()), "max": float(weights.max())}


# -- lengths --------------------------------------------------------------------------------------------------------------


def lengths(unit: str, by_side: Mapping[str, list[np.ndarray]], **more: Any) -> dict[str, Any]:
    """{"unit", "sides": {side: figures}, "edges", "counts": {side: [n]}}; bins are equally wide on a scale of logarithms."""
    import numpy as np

    numbers = {side: np.concatenate(parts) for side, parts in by_side.items() if parts}
    numbers = {side: told for side, told in numbers.items() if len(told)}
    ends = [(int(told.min()), int(told.max())) for told in numbers.values()] or [(0, 0)]
    edges = _edges(min(low for low, _ in ends), max(high for _, high in ends))
    return {
        "unit": unit,
        **more,
        "sides": {
            side: {
                "rows": len(told), "mean": round(float(told.mean()), 2), "median": int(np.quantile(told, 0.5, method="lower")),
                "p95": int(np.quantile(told, 0.95, method="lower")), "max": int(told.max()),
            }
            for side, told in numbers.items()
        },
        "edges": edges,
        "counts": {side: np.histogram(told, edges)[0].tolist() for side, told in numbers.items()},
    }  # fmt: skip


def _edges(smallest: int, largest: int) -> list[int]:
    """Whole numbers, each bin's lower end; the last is above everything.

    >>> _edges(2, 4), _edges(10, 10), _edges(100, 10_000)[:4]
    ([2, 3, 4, 5], [10, 11], [100, 121, 147, 178])
    """
    if largest - smallest < BINS:
        return list(range(smallest, largest + 2))
    low = max(1, smallest)
    ratio = ((largest + 1) / low) ** (1 / BINS)
    return sorted({smallest, *(round(low * ratio**n) for n in range(BINS)), largest + 1})


def _tokens(
    store: Store, dataset: Artifact, folder: Path, base: str | None, counted: _Counted, look: Looking
) -> dict[str, Any]:
    named, why = _template(store, dataset, base)
    if named is None:
        return lengths("words", counted.lengths["words"], by=None, sampled=None, why=why)
    import numpy as np

    name, template = named
    counts = {side: sum(map(len, counted.lengths["words"][side])) for side in SPLITS}
    total = sum(counts.values())
    found: dict[str, list[np.ndarray]] = {side: [] for side in SPLITS}
    done = skipped = 0
    for side in SPLITS:
        share = min(counts[side], -(-SAMPLE * counts[side] // max(total, 1)))
        taken: list[int] = []
        for row in _first(folder, side, share):
            try:
                taken.append(tokens_of(row, template))
            except LuthierError:  # a row that the template refuses has no length of its own; they are counted
                skipped += 1
            done += 1
            look.progress("count tokens", done, min(SAMPLE, total))
        found[side].append(np.array(taken, np.int64))
    sampled = done if done < total else None
    return lengths("tokens", found, by=name, sampled=sampled, why=None, skipped=skipped)


def _template(
    store: Store, dataset: Artifact, base: str | None
) -> tuple[tuple[str, Template] | None, str | None]:
    """The model whose tokenizer counts: the one that is named, or the base of one that was trained on the dataset."""
    model = _base_of(store, dataset, base)
    if model is None:
        return None, "no model was trained on it yet, so words are counted"
    try:
        from luthier.models.template import Template
        from luthier.models.weights import load_tokenizer

        template = Template(load_tokenizer(store.folder(model)), 1 << 30)
    except ImportError as error:
        return None, f"tokens need {error.name}, so words are counted: pip install 'luthier[train]'"
    return (str(model.spec.get("base") or model.digest[:12]), template), None


def _base_of(store: Store, dataset: Artifact, base: str | None) -> Artifact | None:
    if base is not None:
        for model in store.catalog.all("model"):
            if model.spec.get("base") == base:
                return model
        try:
            named = store.catalog.get(base)
        except NotFound:
            raise NotFound(
                f"no model called {base!r} has been imported.",
                remedy="Name a base that a run has used, or leave --base out to count words.",
            ) from None
        return next(
            (a for a in store.catalog.ancestors(named.digest) if a.kind == "model" and "base" in a.spec), None
        )
    for model in models_of(store, dataset):
        if "base" in model.parents:
            return store.catalog.get(model.parents["base"])
    return None


def _first(folder: Path, side: str, n: int) -> Iterable[dict[str, Any]]:
    for batch in map(natural, batches(folder, side)):
        yield from batch.slice(0, n).to_pylist()
        n -= batch.num_rows
        if n <= 0:
            return


def tokens_of(row: Mapping[str, Any], template: Template) -> int:
    """How many tokens a record is to the model."""
    if row["text"] is not None:
        return len(template.encode_text(row["text"]).ids)
    from luthier.data.tools import said

    return len(template.encode(*said(row)).ids)


# -- labels, duplicates, examples -----------------------------------------------------------------------------------------


def balance(labels: Mapping[str, Mapping[str, int]] | None) -> dict[str, Any] | None:
    """{"largest", "smallest", "ratio", "entropy"} over training rows; entropy is 1 where all labels are equally frequent.

    >>> balance({"a": {"train": 30}, "b": {"train": 10}})["ratio"]
    3.0
    """
    import math

    counts = {label: by_side["train"] for label, by_side in (labels or {}).items()}
    total = sum(counts.values())
    if not total or len(counts) < 2:
        return None
    largest, smallest = max(counts, key=lambda k: counts[k]), min(counts, key=lambda k: counts[k])
    entropy = -sum(n / total * math.log(n / total) for n in counts.values() if n) / math.log(len(counts))
    ratio = counts[largest] / counts[smallest] if counts[smallest] else None
    return {"largest": largest, "smallest": smallest, "ratio": ratio, "entropy": round(entropy, 4)}


def _duplicates(folder: Path, counts: Mapping[str, int], counted: _Counted) -> dict[str, Any]:
    """Rows that are left although another says the same, and inputs with several answers."""
    import numpy as np

    told = {
        name: np.concatenate(parts) if parts else np.zeros(0, np.uint64)
        for name, parts in counted.hashes.items()
    }
    n = len(told["whole"])
    inputs, row_input = np.unique(told["input"], return_inverse=True)
    pairs = (
        np.unique(np.stack([row_input.astype(np.uint64), told["answer"]], axis=1), axis=0)
        if n
        else np.zeros((0, 2))
    )
    answers = np.bincount(pairs[:, 0].astype(np.int64), minlength=len(inputs))
    several = np.flatnonzero(answers > 1)
    return {
        "exact": n - len(np.unique(told["whole"])),
        "folded": n - len(np.unique(told["folded"])),
        "repeated_inputs": n - len(inputs),
        "several_answers": {
            "inputs": len(several),
            "rows": int(np.isin(row_input, several).sum()),
            "examples": _conflicts(folder, counts, row_input, several),
        },
    }


def _conflicts(
    folder: Path, counts: Mapping[str, int], row_input: np.ndarray, several: np.ndarray
) -> list[dict[str, Any]]:
    """A few inputs with their answers, by their place in the files."""
    import numpy as np

    found = []
    for one in several[:CONFLICTS]:
        places = np.flatnonzero(row_input == one)[:6]
        rows = [_row_at(folder, counts, int(place)) for place in places]
        found.append(
            {
                "input": _cut(
                    "\n".join(t["content"] for t in rows[0]["messages"] or () if t["role"] == "user")
                ),
                "answers": [
                    {
                        "id": row["id"],
                        "origin": row["origin"],
                        "answer": _cut(_answer(row)),
                        "label": row["label"],
                    }
                    for row in rows
                ],
            }
        )
    return found


def _answer(row: Mapping[str, Any]) -> str:
    messages = row["messages"] or ()
    return next((turn["content"] for turn in reversed(messages) if turn["role"] == "assistant"), "")


def _row_at(folder: Path, counts: Mapping[str, int], place: int) -> dict[str, Any]:
    """The row with that number, counted through the splits."""
    for side in SPLITS:
        if place < counts[side]:
            for batch in map(natural, batches(folder, side, ("id", "source"))):
                if place < batch.num_rows:
                    (row,) = lines_of(folder, side, [batch["id"][place].as_py()])
                    return row
                place -= batch.num_rows
        place -= counts[side]
    raise AssertionError("no such row")


def _examples(folder: Path) -> list[dict[str, Any]]:
    """The first rows by id of each side."""
    found = []
    for side in SPLITS:
        for row in _first(folder, side, EXAMPLES):
            turns = [{"role": t["role"], "content": _cut(t["content"])} for t in row["messages"] or ()]
            if row["text"] is not None:
                turns.append({"role": "text", "content": _cut(row["text"])})
            if row["rejected"] is not None:
                turns.append({"role": "rejected", "content": _cut(row["rejected"])})
            found.append(
                {
                    "id": row["id"],
                    "side": side,
                    "origin": row["origin"],
                    "label": row["label"],
                    "turns": turns,
                }
            )
    return found


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
