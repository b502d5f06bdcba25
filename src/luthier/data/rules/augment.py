"""augment: more rows of the same meaning. Each row is said otherwise a few times; only what the user says is edited (or the
whole of a plain text), the answer and the label stay.

For little data: EDA's authors found gains below some thousand rows and none above (Wei and Zou 2019, figure 1). Whether it
helps here is for the evaluation to say. Rows that are made carry `made_from` and `made_by`, count as `weight` of their parent,
and stand in train alone, since this is a rule of quantity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from luthier.core.artifact import digest_of
from luthier.core.spec import Spec
from luthier.data.draws import Draw

from .rule import GrowRule

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.opened import Opened

Way = Literal["swap", "delete", "typo", "case", "synonym", "template", "counterpart"]
TEXT = "{text}"


class Augment(Spec):
    ways: list[Way] = Field(default=["swap", "delete", "typo"], min_length=1)
    """How a text is said otherwise: the first copy of a row by one of them that is drawn, each further one by the next."""
    copies: int = Field(default=1, ge=1, le=20)
    """How many rows are made of each."""
    share: float = Field(default=0.1, gt=0, le=1)
    """The share of words that swap, delete, typo, case and synonym touch; at least one word."""
    labels: list[str] = Field(default_factory=list)
    """Only rows with these labels are copied, such as those of which there are few; empty means all."""
    weight: float = Field(default=1.0, gt=0, le=1000)
    """What a made row counts in training, against the row it was made of."""
    synonyms: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """Words that may stand for a word, for `synonym`: {cheap: [inexpensive, affordable]}."""
    templates: list[str] = Field(default_factory=list)
    """Sentences around what the user says, for `template`: "Please help: {text}"."""
    counterparts: list[tuple[str, str]] = Field(default_factory=list)
    """Pairs of words that change for each other, for `counterpart`: [[he, she], [Mr, Mrs]]."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Another seed gives other rows."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Augment:
        for way, given, example in (
            ("synonym", self.synonyms, "synonyms: {cheap: [inexpensive]}"),
            ("template", self.templates, 'templates: ["Please help: {text}"]'),
            ("counterpart", self.counterparts, "counterparts: [[he, she]]"),
        ):
            if (way in self.ways) != bool(given):
                lacking = (
                    f"{way} has nothing to work with" if way in self.ways else f"{way} is not among ways"
                )
                raise ValueError(f"{lacking}; write ways: [{way}] together with {example}")
        for template in self.templates:
            if template.count(TEXT) != 1:
                raise ValueError(f"{template!r} must hold {TEXT} once, which is what the user says")
        for pair in self.counterparts:
            if not all(word.strip() for word in pair):
                raise ValueError(f"{list(pair)!r} are not two words")
        return self


def _grow(rows: Opened, settings: Augment) -> pa.RecordBatch:
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from luthier.data.digests import fold
    from luthier.data.opened import Opened
    from luthier.data.records import made_ids, replace

    user, texts = rows.says("user", "text"), rows.text.to_list()
    ids, labels = rows.column("id").to_pylist(), rows.label.to_list()
    mark = digest_of(settings.plain())[:16]
    made: list[tuple[int, int, list[str]]] = []  # row, copy, its texts
    for row in range(len(rows)):
        if settings.labels and labels[row] not in settings.labels:
            continue
        places = rows.places(row).tolist()
        seen = {tuple(fold(texts[at]) for at in places)}
        first = Draw("augment way", settings.seed, ids[row]).below(len(settings.ways))
        for copy in range(settings.copies):
            draw = Draw("augment", settings.seed, copy, ids[row])
            way = settings.ways[(first + copy) % len(settings.ways)]
            new = [_otherwise(texts[at], way, draw, settings) if user[at] else texts[at] for at in places]
            form = tuple(map(fold, new))
            if form not in seen:  # else there was nothing to edit, or it has been made already
                seen.add(form)
                made.append((row, copy, new))
    batch = rows.batch.take(pa.array([row for row, _, _ in made], pa.int64()))
    opened = Opened(batch)
    every = [""] * len(opened.text)
    for k, (_, _, new) in enumerate(made):
        for at, text in zip(opened.places(k).tolist(), new, strict=True):
            every[at] = text
    opened.edit(pl.Series(every, dtype=pl.String))
    weights = batch["weight"].to_numpy(zero_copy_only=False) * settings.weight
    return replace(
        opened.close(),
        id=made_ids(batch["id"], f"augment:{mark}", [copy for _, copy, _ in made]),
        weight=pa.array(weights.astype(np.float32)),
        made_from=batch["id"],
        made_by=pa.repeat("augment", len(made)).cast(pa.string()),
    )


def _otherwise(text: str, way: Way, draw: Draw, settings: Augment) -> str:
    """The text itself where there is nothing to edit."""
    from luthier.data.augment import edits

    if way == "template":
        return draw.one_of(settings.templates).replace(TEXT, text)
    if way == "counterpart":
        return edits.counterpart(text, settings.counterparts) or text
    if way == "synonym":
        others = {word.casefold(): some for word, some in settings.synonyms.items()}
        return edits.synonym(text, draw, settings.share, others) or text
    plain = {"swap": edits.swap, "delete": edits.delete, "typo": edits.typo, "case": edits.case}
    return plain[way](text, draw, settings.share) or text


augment = GrowRule(
    "augment", 2, Augment, "Says rows otherwise, so that there are more of them.", _grow,
    source="Wei and Zou 2019 (EDA); Belinkov and Bisk 2018; Zhao et al. 2018",
)  # fmt: skip
