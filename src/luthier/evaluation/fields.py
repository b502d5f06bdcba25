"""What of a structured answer is right: its fields, one by one.

    {"who": {"name": "Ann"}, "tags": ["a", "b"]}   has the fields   who.name = Ann,  tags[] = a,  tags[] = b

A field is a path and the value at its end. Lists are compared as multisets: the order of items does not count, how often a value
stands there does, and which items' fields belong together is told by the exact object alone. An object or a list without content
is a value, and so is null. Numbers are equal by value (1 and 1.0), texts whitespace aside. An answer that is no JSON has no fields.
Shapes: N rows, R resamples.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError
from luthier.data.schema import canonical, checker, read

from .compare import Statistics, of_mean, together

if TYPE_CHECKING:
    from .predictions import Answers

MOST_FIELDS = 200
MOST_WRONG = 20
EXAMPLES = 3
SHOWN = 120
ROOT = "$"
NOTHING = "(nothing)"
_PLAIN = re.compile(r"[^\W\d][\w-]*")

Field = tuple[str, Any]
"""A path, and the canonical form of what stands there."""


def squeezed(text: str) -> str:
    return " ".join(text.split())


def fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of each.

    >>> list(fields({"who": {"name": "Ann"}, "tags": ["a", {}]}))
    [('who.name', 'Ann'), ('tags[]', 'a'), ('tags[]', {})]
    >>> list(fields(5)), list(fields({"a b": None}))
    ([('$', 5)], [('"a b"', None)])
    """
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            name = key if _PLAIN.fullmatch(key) else json.dumps(key, ensure_ascii=False)
            yield from fields(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from fields(inner, f"{path}[]")
    else:
        yield path or ROOT, value


@dataclass(frozen=True)
class Compared:
    """An answer beside its reference. `missing` and `extra` are fields that only one of them has."""

    truth: Counter[Field]
    said: Counter[Field]
    valid: bool
    exact: bool

    @property
    def hits(self) -> int:
        return (self.truth & self.said).total()

    @property
    def f1(self) -> float:
        both = self.truth.total() + self.said.total()
        return 2 * self.hits / both if both else 0.0


def compared(reference: str, prediction: str) -> Compared:
    """Raises DataError for a reference that is no JSON."""
    try:
        truth = read(reference)
    except ValueError as error:
        raise DataError(
            f"the reference {reference[:60]!r} {error}.",
            remedy="Prepare the dataset again, as task: {kind: extract}.",
        ) from None
    try:
        said = read(prediction)
    except ValueError:
        return Compared(_counted(truth), Counter(), valid=False, exact=False)
    same = canonical(truth, squeezed) == canonical(said, squeezed)
    return Compared(_counted(truth), _counted(said), valid=True, exact=same)


def _counted(value: Any) -> Counter[Field]:
    return Counter((path, canonical(inner, squeezed)) for path, inner in fields(value))


def statistics(
    references: Sequence[str], predictions: Sequence[str | None], schema: Mapping[str, Any]
) -> Statistics:
    """compare.Statistics of all metrics of `extract`, over the rows that have an answer; precision, recall and F1 of fields
    are over all rows together (micro), and 0 where nothing was said."""
    meets = checker(dict(schema), "Measuring by a schema")
    n = len(references)
    count_N3 = np.zeros((n, 3))  # right, said, true
    valid_N, meets_N, exact_N, f1_N = (np.full(n, np.nan) for _ in range(4))
    for i, (truth, said) in enumerate(zip(references, predictions, strict=True)):
        if said is None:
            continue
        one = compared(truth, said)
        count_N3[i] = one.hits, one.said.total(), one.truth.total()
        valid_N[i], exact_N[i], f1_N[i] = one.valid, one.exact, one.f1
        meets_N[i] = one.valid and meets(read(said)) is None

    def micro(index_RN: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        right_R, said_R, true_R = count_N3[index_RN].sum(1).T
        return {
            "field_precision": right_R / np.maximum(said_R, 1),
            "field_recall": right_R / np.maximum(true_R, 1),
            "field_f1": 2 * right_R / np.maximum(said_R + true_R, 1),
        }

    rows = {"valid_json": valid_N, "schema_valid": meets_N, "exact_object": exact_N, "object_f1": f1_N}
    return together([*(of_mean(name, value_N) for name, value_N in rows.items()), micro])


def per_field(references: Sequence[str], predictions: Sequence[str | None]) -> dict[str, dict[str, Any]]:
    """Path -> {"precision", "recall", "f1", "support"}; those that references have, most frequent first, then made-up ones."""
    right, said, true = Counter[str](), Counter[str](), Counter[str]()
    for truth, answer in zip(references, predictions, strict=True):
        if answer is None:
            continue
        one = compared(truth, answer)
        for total, of in ((right, one.truth & one.said), (said, one.said), (true, one.truth)):
            for (path, _), count in of.items():
                total[path] += count
    paths = sorted({*said, *true}, key=lambda path: (-true[path], -said[path], path))[:MOST_FIELDS]
    return {
        path: {
            "precision": right[path] / max(said[path], 1),
            "recall": right[path] / max(true[path], 1),
            "f1": 2 * right[path] / max(said[path] + true[path], 1),
            "support": true[path],
        }
        for path in paths
    }


def wrong_fields(
    ids: Sequence[str], references: Sequence[str], predictions: Sequence[str | None]
) -> list[dict[str, Any]]:
    """{"field", "how": "other"|"missing"|"made up", "rows", "of", "examples": [{"id", "reference", "said"}]}, most frequent first.
    `of`: rows whose reference has the field. `other`: both have it, with other values."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    counts, having = Counter[tuple[str, str]](), Counter[str]()
    for name, truth, answer in zip(ids, references, predictions, strict=True):
        if answer is None:
            continue
        one = compared(truth, answer)
        having.update({path for path, _ in one.truth})
        if not one.valid:
            continue
        missing, extra = _shown(one.truth - one.said), _shown(one.said - one.truth)
        for path in sorted({*missing, *extra}):
            how = (
                "other" if path in missing and path in extra else "missing" if path in missing else "made up"
            )
            counts[path, how] += 1
            examples = found.setdefault((path, how), [])
            if len(examples) < EXAMPLES:
                told = {"reference": missing.get(path, NOTHING), "said": extra.get(path, NOTHING)}
                examples.append({"id": name, **told})
    order = sorted(counts, key=lambda one: (-counts[one], one))[:MOST_WRONG]
    return [
        {
            "field": path,
            "how": how,
            "rows": counts[path, how],
            "of": having[path],
            "examples": found[path, how],
        }
        for path, how in order
    ]


def _shown(some: Counter[Field]) -> dict[str, str]:
    told: dict[str, list[str]] = {}
    for path, form in some.elements():
        told.setdefault(path, []).append(_plain(form))
    joined = {path: ", ".join(values) for path, values in told.items()}
    return {path: text if len(text) <= SHOWN else text[: SHOWN - 1] + "…" for path, text in joined.items()}


def _plain(form: Any) -> str:
    kind, value = form
    if kind in ("object", "array"):
        return "{}" if kind == "object" else "[]"
    return (
        value
        if kind == "text"
        else str(value).lower()
        if kind == "boolean"
        else "null"
        if kind == "null"
        else str(value)
    )


def cautions(answers: Answers, schema: Mapping[str, Any], max_tokens: int) -> list[str]:
    """What of the references themselves no answer could reach."""
    told = []
    if long := int((answers.loss_tokens_N > max_tokens).sum()):
        told.append(
            f"{long:,} of {len(answers):,} reference answers have more tokens than evaluate.max_tokens ({max_tokens}), and an answer "
            "that is cut is no JSON."
        )
    meets = checker(dict(schema), "Measuring by a schema")
    odd = [name for name, truth in zip(answers.ids, answers.references, strict=True) if meets(read(truth))]
    if odd:
        told.append(
            f"{len(odd):,} of {len(answers):,} reference answers do not meet the schema that the training rows have in common, "
            f"that of row {odd[0]} for one; task.schema says it better."
        )
    return told
