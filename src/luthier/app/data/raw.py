"""What is in a source before any recipe exists, as figures: the first rows, looked at as columns and as the records they would
become. Nothing is kept, and what has the form of private data is masked in all that is shown.

    source ─▶ head ─▶ columns, private data, a few rows                       raw_columns.py
                └──▶ layout, task ─▶ records ─▶ lengths, labels, what occurs twice

At most ROWS rows, or BYTES bytes of text, become records; the result says how many of how many. Near duplicates are an
estimate: rows that share 85 % of their shingles with a row before them, by 48-bit hashes (data/sketch.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, LuthierError, SpecError
from luthier.core.spec import Tree, parse, read_yaml, resolve

from .raw_columns import columns_of_rows, masked, private_of_rows, shown_alone, shown_rows

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from luthier.data.connectors.protocol import Head
    from luthier.data.opened import Opened
    from luthier.data.propose import Proposal
    from luthier.data.shapes import Shape
    from luthier.data.spec import SourceSpec
    from luthier.models.template import Template

    from .find import Looking

HEAD_ROWS = 2_000
ROWS = 20_000
BYTES = 64 << 20
COUNTED = 2_000  # rows whose tokens are counted
SIMILARITY = 0.85
SHINGLE = 3
EXAMPLES = 3
FAULTS = 5


def is_source(reference: str, *, here: bool = True) -> bool:
    """Whether a word means a file, a URL or a source as a recipe writes one, and no name of a dataset. `here`: also where a file of this
    machine happens to be called so, whatever the word looks like.

    >>> [is_source(word) for word in ("rows.jsonl", "s3://b/x.csv", "data/*", "{sql: x}", "ticket-router@2", "run-1")]
    [True, True, True, True, False, False]
    """
    from luthier.data.connectors.files import SUFFIXES

    marks = ("/", "*", "?", "[")
    if reference.startswith("{") or any(mark in reference for mark in marks):
        return True
    if here and isfile(reference):  # and not Path.is_file, which raises for what no file can be called
        return True
    return any(suffix in SUFFIXES for suffix in Path(reference.lower()).suffixes)


def read_source(written: str, map_: str | None) -> SourceSpec:
    """From a path, a pattern, a URL, or a source in YAML; `map_` is a map as a recipe has it. Raises SpecError."""
    from luthier.data.connectors.database import holds_secret
    from luthier.data.connectors.files import FilesSpec
    from luthier.data.maps import MapSpec
    from luthier.data.spec import SourceSpec

    tree = read_yaml(written, "the source") if written.startswith("{") else Tree({"files": written})
    source = parse(SourceSpec, tree, remedy="docs/recipe.md explains what a source may say.")
    patterns = source.settings.patterns if isinstance(source.settings, FilesSpec) else []
    if any("://" in one and holds_secret(one, path=True) for one in patterns):
        raise SpecError(
            "a secret is written in the URL, which would stand in the result and on its page.",
            remedy="Put it in an environment variable and write ${NAME}, in single quotes.",
        )
    if map_ is None:
        return source
    return source.model_copy(update={"map": parse(MapSpec, read_yaml(map_, "--map"))})


@dataclass(frozen=True)
class Counting:
    """Who counts tokens; without `template`, words are counted and `why` says why."""

    by: str | None = None
    template: Template | None = None
    why: str | None = "without --base MODEL words are counted"


def profile_source(
    written: str, map_: str | None, counting: Counting, environ: Mapping[str, str], look: Looking
) -> dict[str, Any]:
    """Everything that `luthier data inspect FILE` shows. Raises DataError for a source that cannot be read."""
    from luthier.data.connectors import connect

    source = _lenient(read_source(written, map_))
    secret = lambda text: resolve(text, environ)  # noqa: E731
    connector = connect(source, Path.cwd(), secret)
    head = connector.head(HEAD_ROWS)
    estimate = connector.estimate()
    shape, why = _shape(source, head, given=map_ is not None or bool(source.map and source.map.has_layout))
    found: dict[str, Any] = {
        "file": written,
        "format": head.format,
        "estimate": vars(estimate),
        "head_rows": len(head.rows),
        "columns": columns_of_rows(head),
        "private": private_of_rows(head, HEAD_ROWS, look),
        "rows": shown_rows(head, EXAMPLES),
        "layouts": [],
        "why": why,
        "records": None,
    }
    if shape is None:
        return found
    from luthier.data.propose import propose_of

    proposal = propose_of(written, head, shape, estimate)
    names = dict(zip(head.columns, shown_alone(head.columns), strict=True))
    found["layouts"] = [_layout(one, names) for one in (shape, *shape.others)]
    found["records"] = _records(source, shape, proposal, head, counting, secret, look)
    return found


def _lenient(source: SourceSpec) -> SourceSpec:
    """The same, with rows that cannot be read kept aside: they are part of what is looked at."""
    from luthier.data.maps import MapSpec

    wish = source.map or MapSpec()
    return source.model_copy(update={"map": wish.model_copy(update={"on_bad_row": "set_aside"})})


def _shape(source: SourceSpec, head: Head, *, given: bool) -> tuple[Shape | None, str | None]:
    """(the layout, None), or (None, why there is none)."""
    from luthier.data.shapes import shape_of

    try:
        return shape_of(source.map if given else None, head, source.name or source.default_name), None
    except DataError as error:
        if given:
            raise
        return None, masked(f"{error.message} {error.remedy}")


def _layout(shape: Shape, names: Mapping[str, str]) -> dict[str, Any]:
    from luthier.data.maps import MapSpec

    plain = {k: v for k, v in shape.map.plain().items() if v != MapSpec.model_fields[k].default}
    plain.pop("on_bad_row", None)
    return {
        "layout": shape.name, "confidence": round(shape.confidence, 3), "reason": masked(shape.reason), "map": _named(plain, names),
    }  # fmt: skip


def _named(told: Any, names: Mapping[str, str]) -> Any:
    """With columns called as they are shown."""
    if isinstance(told, Mapping):
        return {key: _named(one, names) for key, one in told.items()}
    if isinstance(told, list):
        return [_named(one, names) for one in told]
    return names.get(told, told) if isinstance(told, str) else told


# -- the records that the rows would become -------------------------------------------------------------------------------


def _records(
    source: SourceSpec,
    shape: Shape,
    proposal: Proposal,
    head: Head,
    counting: Counting,
    secret: Any,
    look: Looking,
) -> dict[str, Any]:
    from luthier.data.opened import Opened

    batch, aside, n_aside, whole = _read(source, shape, head, secret, look)
    rows = Opened(batch)
    return {
        "rows": len(rows),
        "all": whole,
        "set_aside": n_aside,
        "faults": aside,
        "task": {"value": proposal.task.value, "reason": proposal.task.reason},
        "group_by": {"value": proposal.group_by.value, "reason": proposal.group_by.reason},
        "lengths": _lengths(rows, counting, look),
        "labels": _labels(rows, proposal),
        "duplicates": _twice(rows),
        "examples": _examples(batch),
    }


def _read(
    source: SourceSpec, shape: Shape, head: Head, secret: Any, look: Looking
) -> tuple[pa.RecordBatch, list[dict[str, str]], int, bool]:
    """(records, the first that could not become one, how many such, whether these are all rows)."""
    import pyarrow as pa

    from luthier.data.connectors import connect
    from luthier.data.grouped import whole
    from luthier.data.mapping import Layout
    from luthier.data.reading import Job, read_part
    from luthier.data.records import RECORD

    name = source.name or source.default_name
    layout = Layout.of(shape, source.map, None, classify=False, source=name, weight=1.0, columns=head.columns)
    job = Job.of(source, Path.cwd(), layout, secret, hidden=True)
    parts = connect(source, Path.cwd(), secret).parts()
    taken: list[pa.RecordBatch] = []
    faults: list[dict[str, str]] = []
    rows = size = aside = 0
    for part in [whole(parts)] if layout.map.conversation is not None else parts:
        for found in read_part(job, part):
            if found.removed is not None:
                aside += found.removed.num_rows
                some = found.removed.slice(0, FAULTS - len(faults)).to_pylist()
                faults += [{"origin": masked(one["origin"]), "reason": masked(one["reason"])} for one in some]
            taken.append(found.records.slice(0, ROWS - rows))
            rows += taken[-1].num_rows
            size += taken[-1].nbytes
            look.progress("read", rows, ROWS)
            if taken[-1].num_rows < found.records.num_rows or size >= BYTES:
                return pa.Table.from_batches(taken).combine_chunks().to_batches()[0], faults, aside, False
    table = pa.Table.from_batches(taken, RECORD).combine_chunks()
    batch = table.to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], RECORD)
    return batch, faults, aside, True


def _lengths(rows: Opened, counting: Counting, look: Looking) -> dict[str, Any]:
    import numpy as np
    import polars as pl

    from .profile import lengths

    def per_row(numbers: pl.Series) -> dict[str, list[np.ndarray]]:
        counts = numbers.fill_null(0).to_numpy().astype(np.float64)
        return {"rows": [rows.per_row(counts, "sum").astype(np.int64)]}

    turns = pl.Series(pl.from_arrow(rows.batch["messages"])).list.len().fill_null(1).to_numpy()
    return {
        "characters": lengths("characters", per_row(rows.text.str.len_chars())),
        "turns": lengths("turns", {"rows": [turns.astype(np.int64)]}),
        "tokens": _tokens(rows, counting, look)
        if counting.template is not None
        else lengths("words", per_row(rows.text.str.count_matches(r"\S+")), by=None, sampled=None, why=counting.why),
    }  # fmt: skip


def _tokens(rows: Opened, counting: Counting, look: Looking) -> dict[str, Any]:
    """Of at most COUNTED rows, spread evenly: neighbours in a file are often of one kind."""
    import numpy as np

    from .profile import lengths, tokens_of

    assert counting.template is not None
    places: np.ndarray = np.linspace(0, max(len(rows) - 1, 0), min(COUNTED, len(rows))).astype(np.int64)
    found, skipped = [], 0
    for n, row in enumerate(rows.batch.take(places).to_pylist()):
        try:
            found.append(tokens_of(row, counting.template))
        except LuthierError:  # a row that the template refuses has no length of its own; they are counted
            skipped += 1
        look.progress("count tokens", n, len(places))
    sampled = len(places) if len(places) < len(rows) else None
    numbers = {"rows": [np.array(found, np.int64)]}
    return lengths("tokens", numbers, by=counting.by, sampled=sampled, why=None, skipped=skipped)


def _labels(rows: Opened, proposal: Proposal) -> dict[str, Any] | None:
    """{"column", "counts": {label: rows}, "balance"} where the answers look like labels."""
    from .profile import balance

    if proposal.labels is None:
        return None
    column = proposal.map.value.get("label") or proposal.map.value.get("assistant") or "the last answer"
    counts = Counter(rows.answers())
    by_size = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    told = shown_alone([label for label, _ in by_size])
    return {
        "column": masked(column),
        "counts": {label or "(empty)": n for label, (_, n) in zip(told, by_size, strict=True)},
        "balance": balance(
            {label or "(empty)": {"train": n} for label, (_, n) in zip(told, by_size, strict=True)}
        ),
    }


def _twice(rows: Opened) -> dict[str, Any]:
    """How many rows another one before them makes superfluous, and how many inputs have several answers."""
    from luthier.data.records import hashed

    told = {
        "exact": hashed(rows.whole(), fold=False),
        "folded": hashed(rows.whole(), fold=True),
        "repeated_inputs": rows.hashed_inputs(fold=True),
    }
    answers: dict[str, set[str]] = {}
    inputs = told["repeated_inputs"].to_pylist()
    for one, answer in zip(inputs, hashed(rows.answers(), fold=True).to_pylist(), strict=True):
        answers.setdefault(one, set()).add(answer)
    several = {one for one, of in answers.items() if len(of) > 1}
    return {
        **{name: len(rows) - len(column.unique()) for name, column in told.items()},
        "near": near_copies(rows),
        "several_answers": {"inputs": len(several), "rows": sum(one in several for one in inputs)},
    }


def near_copies(rows: Opened) -> int:
    """Rows that share SIMILARITY of their shingles with one before them that is not such a row itself: about as many as the rule
    near_duplicates removes, which goes by the words and in the order of ids. Only neighbours in a band and pairs with its first
    are looked at, so that a band that all rows share costs no more than another."""
    import numpy as np

    from luthier.data import sketch
    from luthier.data.words import words_of

    wanted = rows.says("user", "assistant", "text", "rejected")
    sets = sketch.shingles(words_of(rows), rows.row.astype(np.int64), wanted, len(rows), SHINGLE)
    bands, there = sketch.banded(sets, *sketch.layout(SIMILARITY))
    keys = [*bands.T, sketch.whole(sets)]
    masks = [*there.T, sets.sizes > 0]
    pairs = [
        pair for key, mask in zip(keys, masks, strict=True) for pair in _agreeing(key, np.flatnonzero(mask))
    ]
    if not pairs:
        return 0
    found = np.unique(np.concatenate(pairs)[:, ::-1], axis=0)[:, ::-1]  # in the order of the later row
    gone: set[int] = set()
    for start in range(0, len(found), sketch.MOST_ROWS):
        a, b = found[start : start + sketch.MOST_ROWS].T
        both = sketch.shared(_take(sets, a), _take(sets, b))
        near = both >= SIMILARITY * (sets.sizes[a] + sets.sizes[b] - both)
        for before, row in zip(a[near].tolist(), b[near].tolist(), strict=True):
            if before not in gone:
                gone.add(row)
    return len(gone)


def _agreeing(key: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Pairs [P, 2] of `rows` with the same key, the earlier row first: each with the one before it, and with the first."""
    import numpy as np

    order = rows[np.argsort(key[rows], kind="stable")]  # equal keys stay in the order of the rows
    same = np.flatnonzero(key[order][1:] == key[order][:-1]) + 1
    if not len(same):
        return []
    begins = np.concatenate([[True], key[order][1:] != key[order][:-1]])
    first = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    return [
        np.stack([order[same - 1], order[same]], axis=1),
        np.stack([order[first[same]], order[same]], axis=1),
    ]


def _take(sets: Any, places: np.ndarray) -> Any:
    """The shingles of these rows, in this order."""
    import numpy as np

    sizes = sets.sizes[places]
    first = np.concatenate([[0], np.cumsum(sizes)])
    at = np.repeat(sets.first[places] - first[:-1], sizes) + np.arange(int(first[-1]))
    return replace(sets, values=sets.values[at], first=first)


def _examples(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The first records, turn by turn, masked."""
    found = []
    for row in batch.slice(0, EXAMPLES).to_pylist():
        turns = [{"role": t["role"], "content": masked(t["content"])} for t in row["messages"] or ()]
        more = [("text", row["text"]), ("rejected", row["rejected"])]
        turns += [{"role": role, "content": masked(text)} for role, text in more if text is not None]
        found.append({"origin": masked(row["origin"]), "turns": turns})
    return found
