"""redact: private data and secrets go, as numbered masks, as pseudonyms, or with the row that holds them.

    "write to jo@firm.com"      [EMAIL_1]            redact: numbered within the record
                                [EMAIL:7f3a9c01]     pseudonymise: one name for one value in all records, by a key

One value has one mask in every turn, the label and the rejected answer of a record. A text is searched again after it was
masked, until nothing more is found, because a mask is shorter than what it stands for and brings words together.

A group is only ever compared, so what is private in it becomes a name that is the same in all records, whatever is done with
texts: [EMAIL:7f3a9c01]. By the key of pseudonyms nobody can try values out; without one, who suspects an address can test
it. Rows keep their sides: one group stays one group.

Found: what has a form or a check digit (private/). Not found without a plug-in of kind "ner": names of people, postal
addresses. Never found: what is spelt out ("name at example dot com"), and where a row stands (origin, a file's name).

A plug-in of kind "ner" is a callable from texts to spans, one list for each text: list[str] -> list[list[(start, end,
kind)]], in characters; a kind is a word such as person. It must say the same of a text whatever stands beside it. Its
`version`, an attribute, or else that of the package that brings it, is part of a dataset's identity.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from luthier.core import plugin
from luthier.core.errors import DataError, SpecError, did_you_mean
from luthier.core.spec import Spec
from luthier.data.private import KINDS, kinds_of, pseudonyms

from .rule import RowRule, Said

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from luthier.data.opened import Opened
    from luthier.data.private.found import Found

Word = Literal[
    "email", "phone", "card", "iban", "ip", "key", "national_id", "all", "personal", "pii", "secrets"
]
MOST_ROUNDS = 20


class Redact(Spec):
    model_config = ConfigDict(hide_input_in_errors=True)

    what: list[Word] = Field(default=["all"], min_length=1, validate_default=True)
    """Which kinds are looked for; `personal` (or `pii`) is all but keys and passwords, `secrets` is those."""
    do: Literal["redact", "pseudonymise", "drop"] = "redact"
    """`redact` puts numbered masks such as [EMAIL_1], `pseudonymise` names that are the same in every record, `drop` removes the row."""
    key: str | None = None
    """The key of pseudonyms as a reference, ${NAME}, to an environment variable of at least 16 bytes."""
    ner: str | None = None
    """A plug-in of kind ner that finds what needs a model, such as names of people."""

    @model_validator(mode="before")
    @classmethod
    def _from_words(cls, value: Any) -> Any:
        """`redact: personal` and `redact: [email, card]` say what is looked for."""
        if isinstance(value, str):
            return {"what": [value]}
        return {"what": value} if isinstance(value, list) else value

    @field_validator("what", mode="after")
    @classmethod
    def _kinds(cls, value: list[str]) -> list[str]:
        return kinds_of(value)

    @model_validator(mode="after")
    def _key_fits(self) -> Redact:
        if self.do == "pseudonymise" and self.key is None:
            raise ValueError(
                "pseudonymise needs a key, so that nobody can try values out; write key: ${NAME} and set that variable"
            )
        if self.do != "pseudonymise" and self.key is not None:
            raise ValueError(
                f"key is for pseudonyms, and do is {self.do}; write do: pseudonymise, or leave key out"
            )
        if self.key is not None and pseudonyms.reference_name(self.key) is None:
            raise ValueError(
                "key must refer to an environment variable, as in ${PSEUDONYM_KEY}; what is written in a recipe is recorded"
            )
        if self.ner is not None and self.ner not in (known := plugin.names("ner")):
            hint = did_you_mean(self.ner, known) if known else "none is installed (entry points luthier.ner)"
            raise ValueError(f"there is no ner called {self.ner!r}; {hint}")
        return self


@dataclass
class _Record:
    """What was found in one row. `texts` are the edited ones by place: those of the batch, then the labels."""

    texts: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    counted: set[tuple[str, str]] = field(default_factory=set)
    known: set[tuple[str, str]] = field(default_factory=set)
    masks: pseudonyms.Masks | None = None

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in (*KINDS, *sorted(set(self.counts) - set(KINDS))) if self.counts[kind]]


def _run(rows: Opened, settings: Redact) -> Said:
    import numpy as np

    records = _Search(rows, settings).run()
    counts: dict[str, Any] = {}
    for row, record in records.items():
        for kind, n in record.counts.items():
            counts.setdefault(kind, np.zeros(len(rows), np.int64))[row] = n
    groups, named = _groups(rows, settings)
    kept, beside_rows = _kept(rows, settings)
    groups |= kept
    if named.any():
        counts["groups"] = named.astype(np.int64)
    if settings.do == "drop":
        why = {
            row: "holds " + ", ".join(f"{record.counts[kind]} {kind}" for kind in record.kinds)
            for row, record in records.items()
        }
        return Said(columns=groups, removed=rows.reasons(why), counts=counts)
    if not records and not groups:
        return Said()
    text, label = rows.text, rows.label
    edits = sorted((place, told) for record in records.values() for place, told in record.texts.items())
    inside = [edit for edit in edits if edit[0] < len(text)]
    beside = [(place - len(text), told) for place, told in edits[len(inside) :]]
    kinds = {row: list(record.kinds) for row, record in records.items()}
    for row in np.flatnonzero(named).tolist():
        kinds.setdefault(row, []).append("group")
    for row in beside_rows:
        kinds.setdefault(row, []).append("kept")
    return Said(
        text=_with(text, inside) if inside else None,
        label=_with(label, beside).to_arrow().cast("string") if beside else None,
        columns=groups,
        changed=rows.reasons({row: ", ".join(told) for row, told in kinds.items()}),
        counts=counts,
    )


def _groups(rows: Opened, settings: Redact) -> tuple[dict[str, pa.Array], np.ndarray]:
    """(the column of groups where any has private data in it, which rows those are [B])."""
    import numpy as np
    import pyarrow as pa

    groups = rows.column("group")
    names = {
        group: name
        for group in groups.unique().to_pylist()
        if group is not None and (name := group_name(group, settings)) != group
    }
    told = groups.to_pylist()
    named = np.array([group in names for group in told], bool)
    if not names:
        return {}, named
    return {"group": pa.array([names.get(group, group) for group in told], pa.string())}, named


def _kept(rows: Opened, settings: Redact) -> tuple[dict[str, pa.Array], list[int]]:
    """(the column of what is kept beside rows, with its private data named as in groups, the rows of which that is); nothing where
    there is none."""
    import json

    import pyarrow as pa

    names: dict[str, str] = {}
    kept = rows.column("kept")
    for told in kept.unique().to_pylist():
        if told:
            values = {name: group_name(value, settings) for name, value in json.loads(told).items()}
            changed = json.dumps(values, ensure_ascii=False, sort_keys=True)
            if changed != told:
                names[told] = changed
    if not names:
        return {}, []
    told = kept.to_pylist()
    column = pa.array([names.get(one, one) for one in told], pa.string())
    return {"kept": column}, [row for row, one in enumerate(told) if one in names]


def group_name(group: str, settings: Redact) -> str:
    """What the group is called after the rule."""
    from luthier.data.private.find import candidates
    from luthier.data.private.found import settle
    from luthier.data.private.masking import replaced

    key = pseudonyms.key_of(settings.key) if settings.key is not None else pseudonyms.KNOWN_TO_ALL
    masks = pseudonyms.Masks((), key)
    named = []
    if settings.ner is not None:
        for start, end, kind in plugin.load("ner", settings.ner)([group])[0]:
            _check(settings.ner, group, start, end, kind)
            named.append(_name(group, start, end, kind))
    for _ in range(MOST_ROUNDS):
        found = settle([*candidates(group, frozenset(settings.what)), *named])
        if not found:
            break
        group, named = replaced(group, found, masks), []
    return group


def _with(texts: pl.Series, edits: list[tuple[int, str]]) -> pl.Series:
    places, told = [place for place, _ in edits], [text for _, text in edits]
    return texts.clone().scatter(places, told) if edits else texts


class _Search:
    """Of one batch: rounds of sieve, look, mask, until nothing more is found."""

    def __init__(self, rows: Opened, settings: Redact) -> None:
        import numpy as np

        self.rows, self.settings = rows, settings
        self.kinds = frozenset(settings.what)
        self.key = pseudonyms.key_of(settings.key) if settings.key is not None else None
        self.row = np.concatenate([rows.row.astype(np.int64), np.arange(len(rows))])
        self.records: dict[int, _Record] = {}

    @cached_property
    def texts(self) -> pl.Series:
        """Those of the batch, then the labels."""
        import polars as pl

        return pl.concat([self.rows.text, self.rows.label])

    def run(self) -> dict[int, _Record]:
        """Records by row in which something was found."""
        import polars as pl

        from luthier.data.private import scan

        named = self._named() if self.settings.ner is not None else {}
        ways = self._first_ways()
        places = self._telling(ways, named)
        by_row: dict[int, dict[int, tuple[str, int]]] = {}
        some = zip(places.tolist(), self._strings(places), ways[places].tolist(), strict=True)
        for place, text, bits in some:
            by_row.setdefault(int(self.row[place]), {})[place] = text, bits
        for _ in range(MOST_ROUNDS):
            changed = [edit for row, texts in by_row.items() for edit in self._look(row, texts, named)]
            if not changed or self.settings.do == "drop":
                break
            named = {}
            again = pl.Series([self.records[row].texts[place] for row, place in changed], dtype=pl.String)
            found = scan.ways(again, self.kinds).tolist()
            for (row, place), text, bits in zip(changed, again, found, strict=True):
                by_row[row][place] = text, bits
            rows = {row for (row, _), bits in zip(changed, found, strict=True) if bits & ~scan.SURE}
            by_row = {row: texts for row, texts in by_row.items() if row in rows}
        return self.records

    @cached_property
    def with_masks(self) -> dict[int, list[str]]:
        """By row, the texts that hold something like a mask as they come."""
        import numpy as np

        found: dict[int, list[str]] = {}
        places = np.flatnonzero(self.texts.str.contains(r"\[[A-Z][A-Z_]*_[0-9]").fill_null(False).to_numpy())
        for place, text in zip(places.tolist(), self._strings(places), strict=True):
            found.setdefault(int(self.row[place]), []).append(text)
        return found

    def _strings(self, places: np.ndarray) -> list[str]:
        from luthier.data.opened import strings

        beside = len(places) and places[-1] >= len(self.rows.text)
        return strings(self.texts if beside else self.rows.text, places)

    def _first_ways(self) -> np.ndarray:
        """Of all texts and labels as they come, as bits of private/scan."""
        import numpy as np

        from luthier.data import opened
        from luthier.data.private import scan

        rows, label = self.rows, self.rows.label
        wide, digits = rows.have(opened.NOT_ASCII), rows.have(opened.DIGIT)
        found = scan.ways(rows.text, self.kinds, rows.bytes, wide, digits)
        if label.null_count() == len(label):
            return np.concatenate([found, np.zeros(len(label), np.uint8)])
        return np.concatenate([found, scan.ways(label.fill_null(""), self.kinds)])

    def _telling(self, ways: np.ndarray, named: Mapping[int, Any]) -> np.ndarray:
        """Places to look at: those where there may be something, in rows in which something may count by itself."""
        import numpy as np

        from luthier.data.private import scan

        some = ways & np.uint8(0xFF ^ scan.SURE)
        if self.settings.ner is None:
            counts = (ways & np.uint8(0xFF ^ scan.BITS["numbers"])) != 0
            rows = np.zeros(len(self.rows), bool)
            rows[self.row[counts]] = True
            return np.flatnonzero((some != 0) & rows[self.row])
        return np.flatnonzero((some != 0) | np.isin(np.arange(len(ways)), list(named)))

    def _look(
        self, row: int, texts: dict[int, tuple[str, int]], named: dict[int, list[Found]]
    ) -> list[tuple[int, int]]:
        """Mask what is found in the texts of one row, in place. (row, place) of those that it changed."""
        from luthier.data.private import scan
        from luthier.data.private.find import candidates
        from luthier.data.private.found import settle
        from luthier.data.private.masking import replaced

        record = self.records.get(row) or _Record()
        leave = 0
        if self.settings.ner is None and not record.known:
            # No number counts by itself, and there is none that any could be equal to.
            leave = 0 if any(bits & scan.COUNTS for _, bits in texts.values()) else scan.BITS["numbers"]
        all_of = {
            place: candidates(text, self.kinds, scan.names(bits & ~leave)) + named.get(place, [])
            for place, (text, bits) in texts.items()
        }
        record.known |= {(one.kind, one.value) for told in all_of.values() for one in told if one.sure}
        found = {place: settle(told, record.known) for place, told in all_of.items() if told}
        found = {place: told for place, told in found.items() if told}
        if not found:
            return []
        self.records[row] = record
        for place, told in found.items():
            if place < len(self.rows.text):
                record.counts.update(one.kind for one in told)
                record.counted |= {(one.kind, one.value) for one in told}
            else:  # a label is often the answer once more
                record.counts.update(one.kind for one in told if (one.kind, one.value) not in record.counted)
        if self.settings.do == "drop":
            return []
        if record.masks is None:
            record.masks = pseudonyms.Masks(self.with_masks.get(row, ()), self.key)
        for place, told in found.items():
            record.texts[place] = replaced(texts[place][0], told, record.masks)
        return [(row, place) for place in found]

    def _named(self) -> dict[int, list[Found]]:
        """What the plug-in finds, by place, and the same names wherever else they stand in the record."""
        import numpy as np

        places = np.flatnonzero(self.texts.is_not_null().to_numpy())
        texts = self.texts.gather(places).to_list()
        spans = plugin.load("ner", str(self.settings.ner))(texts)
        if len(spans) != len(texts):
            raise DataError(
                f"the ner {self.settings.ner!r} gave {len(spans)} lists for {len(texts)} texts.",
                remedy="A plug-in of kind ner gives one list of (start, end, kind) for each text.",
            )
        names: dict[int, set[tuple[str, str]]] = {}
        found: dict[int, list[Found]] = {}
        for place, text, told in zip(places.tolist(), texts, spans, strict=True):
            for start, end, kind in told:
                _check(str(self.settings.ner), text, start, end, kind)
                found.setdefault(place, []).append(_name(text, start, end, kind))
                names.setdefault(int(self.row[place]), set()).add((kind, text[start:end]))
        for place, text in zip(places.tolist(), texts, strict=True):
            for kind, name in sorted(names.get(int(self.row[place]), ())):
                for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text):
                    found.setdefault(place, []).append(_name(text, *match.span(), kind))
        return found


def _check(ner: str, text: str, start: int, end: int, kind: str) -> None:
    if not (0 <= start < end <= len(text)) or not re.fullmatch("[a-z][a-z_]{0,30}", kind):
        raise DataError(
            f"the ner {ner!r} gave the span ({start}, {end}, {kind!r}) for a text of {len(text)} characters.",
            remedy="A span is (start, end, kind) inside the text, and a kind a word of small letters such as person.",
        )


def _name(text: str, start: int, end: int, kind: str) -> Found:
    from luthier.data.private.found import Found

    return Found(start, end, kind, " ".join(text[start:end].casefold().split()))


def _mark(settings: Redact) -> str | None:
    marks = [pseudonyms.key_mark(settings.key)] if settings.key is not None else []
    if settings.ner is not None:
        marks.append(f"{settings.ner} {_version_of(settings.ner)}")
    return ", ".join(marks) or None


def _version_of(ner: str) -> str:
    """Of the plug-in: what it says of itself, or its package's."""
    told = getattr(plugin.load("ner", ner), "version", None) or plugin.package_version("ner", ner)
    if told is None:
        raise SpecError(
            f"the ner {ner!r} does not say which version it is, so nobody could tell which names a dataset has lost.",
            remedy="Give the callable an attribute `version`, or install it as a package.",
        )
    return str(told)


redact = RowRule(
    "redact", 3, Redact, "Masks, renames or removes private data and secrets.", _run, private=True, mark=_mark,
)  # fmt: skip
