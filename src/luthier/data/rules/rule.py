"""What a rule is. Six kinds, because they scale differently:

    RowRule    looks at one row at a time: Opened -> Said. Stateless, so any engine may call it on any batch in any
               order; Spark's mapInArrow runs the very same function. Neighbours run on a batch that is opened once.
    KeyedRule  needs to see all rows, but only their keys: it says which small hashed columns it needs of each batch,
               and what is decided over them (primitives.py). An engine keeps the keys where they may spill to disk.
    PairRule   compares rows with each other: keys say which pairs are worth a look, and only the rows of those are
               looked at again, by features of theirs.
    GatherRule learns something small from a few numbers of every row, and then looks at one row at a time like a RowRule,
               with what it has learnt at hand: shares of a whole, frequencies, a selection.
    GrowRule   makes rows of rows, one at a time: for the rules of quantity, which see the rows of train alone.
    MakeRule   makes rows with what costs time or money, so it sees all rows before it begins and says what it would cost.

A rule never reads anything but its rows, its Spec and the files and models that are named there; what it says of a row does not depend on the rows beside it, and it
never drops a row without a reason. Whoever runs it checks rows in = rows out + removed, times it, and keeps examples.

Raise `version` when the same rows and Spec would give another result; it is part of every dataset's identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from luthier.core.errors import SpecError
from luthier.core.spec import Spec

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from luthier.data.opened import Opened

    from .primitives import Candidates, Primitive

    Rows = Callable[[], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class Said:
    """What a rule says of B rows with T texts. What is None stays as it is.

    text     the texts, edited                                                  [T]
    edited   where the texts stand that are not what they were; None: anywhere
    label    the labels, edited                                                 [B]
    columns  other columns of the rows by name (weight, group), as they now are [B]
    changed  why a row was edited, null where it was not; or what is to be noted of a row that nothing edits  [B]
    removed  why a row must go, null where it stays                             [B]
    counts   how often what was found in a row, by kind                         [B]
    """

    text: pl.Series | None = None
    edited: np.ndarray | None = None
    label: pa.Array | None = None
    columns: Mapping[str, pa.Array] = field(default_factory=dict)
    changed: pa.Array | None = None
    removed: pa.Array | None = None
    counts: Mapping[str, np.ndarray] = field(default_factory=dict)


class WouldAsk(SpecError):
    """A rule was not to ask anything that costs (`Lent.ask`), and says what it would ask: sentences for people, and figures."""

    def __init__(self, sentences: list[str], figures: Mapping[str, Any]) -> None:
        super().__init__(
            "; ".join(sentences) + ". Nothing was asked.",
            remedy="`luthier data prepare RECIPE` asks, and so does `luthier run RECIPE`.",
        )
        self.sentences, self.figures = sentences, dict(figures)


def _nothing() -> None:
    """Nobody wants to stop."""


def _unseen(what: str, done: float, total: float | None) -> None:
    """Nobody looks on."""


def _unsaid(kind: str, **data: Any) -> None:
    """Nobody keeps a record."""


@dataclass
class Lent:
    """What a rule that asks a model (`models`) is given in place of its Spec.

    settings  the Spec
    folders   the setting that names a model -> the folder of that model on this machine
    digests   the same -> the model's digest
    answers   the file of answers that cost something (store/answers.py): what stands there is not paid for again
    ask       whether what costs time or money may be asked; otherwise a MakeRule raises WouldAsk
    """

    settings: Any
    folders: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    answers: str = ""
    check: Callable[[], None] = _nothing
    progress: Callable[[str, float, float | None], None] = _unseen
    secret: Callable[[str], str] = str
    emit: Callable[..., Any] = _unsaid
    ask: bool = True
    made: dict[Any, Any] = field(default_factory=dict, repr=False)

    def once(self, name: Any, make: Callable[[], Any]) -> Any:
        """What is made when it is first asked for and kept as long as the preparation lasts, such as a loaded model."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def plain(self) -> dict[str, Any]:
        """What crosses to another process of this machine."""
        told = {name: getattr(self, name) for name in ("folders", "digests", "answers")}
        return {
            "settings": self.settings.plain(),
            **{k: v if isinstance(v, str) else dict(v) for k, v in told.items()},
        }

    @classmethod
    def from_plain(cls, spec: type[Spec], told: Mapping[str, Any]) -> Lent:
        return cls(**{**told, "settings": spec.model_validate(told["settings"])})


@dataclass(frozen=True)
class RowRule:
    """`run(rows, settings) -> Said`. `source` says where the rule is from: a paper, a tool, or "ours". `private`: what it
    finds must not be shown, so rows are not previewed before it has seen them. `reads` names settings that hold files: `run`
    is given them as they are reached from anywhere, and other bytes in them make another dataset. `mark` tells what else the
    result depends on and no file holds, such as which key it is; None where nothing. It may refuse the settings early."""

    name: str
    version: int
    spec: type[Spec]
    about: str
    run: Callable[[Opened, Any], Said]
    source: str = "ours"
    private: bool = False
    reads: tuple[str, ...] = ()
    mark: Callable[[Any], str | None] | None = None


@dataclass(frozen=True)
class KeyedRule:
    """`keys(rows, settings)` gives the columns that the primitive names, one line per row; ids are there without asking."""

    name: str
    version: int
    spec: type[Spec]
    about: str
    keys: Callable[[Opened, Any], pa.RecordBatch]
    primitive: Callable[[Any], Primitive]
    source: str = "ours"
    private: bool = False


@dataclass(frozen=True)
class PairRule:
    """`keys(rows, settings)` gives the columns that `candidates(settings)` names, one line per row. Of rows in any candidate
    pair, `features(rows, settings)` gives one line per row, in columns of the rule's own choice; the engine keeps them, with
    the row's number `row` and its `id`, where they may spill to disk. `solve(features, pairs, settings, note)` gives a table
    (row, reason) of the rows to remove. `pairs` are batches of a and b, row numbers, each pair once: a comes before b in the
    order of who stays, and the pairs come in the order of b, then of a. An engine may call it again with more pairs, and the
    last answer counts; `note` tells people something."""

    name: str
    version: int
    spec: type[Spec]
    about: str
    keys: Callable[[Opened, Any], pa.RecordBatch]
    candidates: Callable[[Any], Candidates]
    features: Callable[[Opened, Any], pa.RecordBatch]
    solve: Callable[
        [Iterator[pa.RecordBatch], Iterator[pa.RecordBatch], Any, Callable[[str], None]], pa.Table
    ]
    source: str = "ours"
    private: bool = False


class Gathered(Protocol):
    """The features of all N rows, in the order of the rows' ids, wherever and in whatever order the rows were read: columns of
    the rule's own choice, and `id`. They stand in a file that may be larger than memory."""

    @property
    def rows(self) -> int:
        """N, at least 1."""

    def read(self) -> Iterator[pa.RecordBatch]:
        """As often as wanted."""

    def column(self, name: str) -> np.ndarray:
        """All of a column in memory: of numbers [N], or of lists of k numbers [N, k]."""


@dataclass(frozen=True)
class GatherRule:
    """`features(rows, settings)` gives one line per row, in compact columns of the rule's own choice (numbers, hashes, lists of
    them; never a text), the same for a row whatever stands beside it. `learn(features, settings, note)` looks at those of all
    rows and gives a table, which travels to wherever the rows are: small against the features, as with a line per label, or
    per row that something is to be said of. `run(rows, settings, learnt)` then says what becomes of each row, as a RowRule
    does: removed, edited, weighed. `note` tells people something, and never a text of a row. `reads` and `mark` are those of
    a RowRule; `features` and `run` are given files as they are reached, and so is `learn`. `models` names settings that may name
    a base model: all three are given a Lent, and the models are parents of the dataset.

    `of`: "held" learns from the rows of validation and test in place of those that it then says something of, which are rows
    of train: a rule of quantity. Its features may hold what those rows say, since they are few."""

    name: str
    version: int
    spec: type[Spec]
    about: str
    features: Callable[[Opened, Any], pa.RecordBatch]
    learn: Callable[[Gathered, Any, Callable[[str], None]], pa.Table]
    run: Callable[[Opened, Any, pa.Table], Said]
    of: Literal["rows", "held"] = "rows"
    source: str = "ours"
    private: bool = False
    reads: tuple[str, ...] = ()
    mark: Callable[[Any], str | None] | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class GrowRule:
    """`grow(rows, settings)` gives rows to add, none of them one that is there: each with an id of its own (opened.made_ids),
    `made_from` the id of the row it was made of, and `made_by` this rule."""

    name: str
    version: int
    spec: type[Spec]
    about: str
    grow: Callable[[Opened, Any], pa.RecordBatch]
    source: str = "ours"
    private: bool = False


@dataclass(frozen=True)
class MakeRule:
    """`make(rows, held, settings, note)` gives rows to add, as a GrowRule does; `rows()` are all rows of train, as often as wanted,
    in any order and batches, and `held()` those that are held out, of which it must make nothing. It is given a Lent, and may raise WouldAsk. `models` are those of a GatherRule. `sends(settings)` is
    the host that rows leave for, None where they stay: the recipe may not take private data out after that. It runs where the
    engine is one process."""

    name: str
    version: int
    spec: type[Spec]
    about: str
    make: Callable[[Rows, Rows, Lent, Callable[[str], None]], Iterator[pa.RecordBatch]]
    sends: Callable[[Any], str | None]
    models: tuple[str, ...] = ("model",)
    source: str = "ours"
    private: bool = False


Rule = RowRule | KeyedRule | PairRule | GatherRule | GrowRule | MakeRule
