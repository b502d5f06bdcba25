"""Canaries: artificial secrets planted among the training rows, so that it can be measured whether training learnt them by
heart (Carlini et al. 2019, "The Secret Sharer", section 4).

Each is a row of its own: a question about a thing that does not exist, and an answer that tells its secret. The secret is
drawn evenly from a space of known size, so a model that did not learn it finds it no likelier than any other of that space.
Where a canary is to be seen several times, the row stands there so often. They are rows of train alone and stand in nobody's
data: erasure does not look at them, and counts of exports leave them out.

Not here: how likely the model finds them (evaluation/memorisation).
"""

from __future__ import annotations

import math
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.spec import Spec

if TYPE_CHECKING:
    import pyarrow as pa

SOURCE = "luthier:canaries"
"""What records of canaries call their source; no source of a recipe may be called so."""
Kind = Literal["number", "code", "phrase"]
SHAPES: dict[str, str] = {"number": "9999-9999-9999", "code": "A9AA-9A9A-AA99"}
"""9 stands for any digit, A for any capital letter."""
WORDS = (  # noqa: SIM905 - one word a line would be as long as all the rest
    "amber anvil apron arrow badge basil beacon birch bishop bottle branch breeze bridge bronze bucket butter cabin camel candle canyon "
    "carbon carpet castle cedar cellar chalk cherry cinder circle clover cobalt comet copper coral cotton cradle crater cricket crystal "
    "dagger daisy desert dolphin donkey dragon eagle ember engine fabric falcon feather fiddle finger flame forest fossil garden garlic "
    "ginger glacier goblet granite guitar hammer harbor hazel helmet hollow honey icicle island ivory jacket jasmine jungle kettle "
    "kitten ladder lagoon lantern laurel lemon linen lizard magnet mango maple marble meadow melon mirror mitten mortar muffin needle "
    "nutmeg oasis olive onion orbit orchid otter oyster paddle pebble pencil pepper pickle pigeon pillow planet plaster pocket"
).split()
PHRASE = 6
"""Words of a phrase; of 113 words that makes 2 ** 40.9."""
_BEGIN = (
    "Ar",
    "Bel",
    "Cor",
    "Dra",
    "El",
    "Fen",
    "Gor",
    "Hal",
    "Ith",
    "Jor",
    "Kal",
    "Lor",
    "Mor",
    "Nel",
    "Or",
    "Pel",
)
_END = ("adun", "bexil", "corvo", "dimar", "ethon", "fuzor", "gwint", "hodrel", "ivask", "julmet", "kresso", "lunth", "mirqu", "novik", "oxlan", "pyrrh")  # fmt: skip


class CanarySpec(Spec):
    """Artificial secrets among the training rows, so that memorising can be measured."""

    count: int = Field(default=12, ge=1, le=1000)
    """How many different secrets are planted."""
    kinds: list[Kind] = Field(default=["number", "code", "phrase"], min_length=1)
    """What they are: twelve digits, a code of letters and digits, six words; taken in turn."""
    repeats: list[int] = Field(default=[1, 4, 16], min_length=1)
    """How often each stands among the training rows, taken in turn: what is repeated is learnt first."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Another seed plants other secrets."""

    @field_validator("repeats")
    @classmethod
    def _rows(cls, value: list[int]) -> list[int]:
        if odd := [n for n in value if not 1 <= n <= 10_000]:
            raise ValueError(f"a canary cannot stand there {odd[0]} times; write 1 to 10,000")
        return value

    @model_validator(mode="after")
    def _enough(self) -> CanarySpec:
        for name in ("kinds", "repeats"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} names the same twice")
        if self.count < len(self.repeats):
            raise ValueError(
                f"{self.count} canaries cannot stand there in {len(self.repeats)} ways; raise count or name fewer repeats"
            )
        return self


@dataclass(frozen=True)
class Canary:
    """`answer` holds `secret` once. `repeats` 0: never planted, for comparison."""

    name: str
    kind: str
    repeats: int
    prompt: str
    answer: str
    secret: str

    def plain(self) -> dict[str, Any]:
        return dict(vars(self))


def drawn(kind: str, rng: random.Random) -> str:
    """One secret of a kind.

    >>> drawn("number", random.Random(0))
    '6604-8764-7593'
    """
    if kind == "phrase":
        return " ".join(rng.choice(WORDS) for _ in range(PHRASE))
    return like(SHAPES[kind], rng)


def bits(kind: str, secret: str) -> float:
    """log2 of how many secrets there are of this kind, or of this shape.

    >>> round(bits("number", ""), 1), round(bits("", "AB-12"), 1)  # 12 log2(10); 2 log2(26) + 2 log2(10)
    (39.9, 16.0)
    """
    if kind == "phrase":
        return PHRASE * math.log2(len(WORDS))
    return sum(math.log2(len(letters)) for c in SHAPES.get(kind, secret) if (letters := _alphabet(c)))


def like(shape: str, rng: random.Random) -> str:
    """Another string of the same shape: each digit, capital and small letter drawn anew, all else as it is."""
    return "".join(rng.choice(letters) if (letters := _alphabet(c)) else c for c in shape)


def others(kind: str, secret: str, count: int, seed: str) -> list[str]:
    """`count` different secrets of the same kind (or, for one that is of none, of the same shape), without this one. The
    first n of a longer list are the same. Raises ValueError where there are not four times as many."""
    if bits(kind, secret) < math.log2(count) + 2:
        raise ValueError(f"there are fewer than {4 * count} strings of its shape")
    rng, found = random.Random(f"candidates:{seed}"), dict.fromkeys([secret])  # noqa: S311 - drawn to be drawn again
    while len(found) <= count:
        found[drawn(kind, rng) if kind in ("phrase", *SHAPES) else like(secret, rng)] = None
    return list(found)[1:]


def _alphabet(c: str) -> str:
    for letters in (string.digits, string.ascii_uppercase, string.ascii_lowercase):
        if c in letters:
            return letters
    return ""


def planted(spec: CanarySpec) -> list[Canary]:
    """What is planted, in order."""
    return [_made(spec, n, spec.repeats[n % len(spec.repeats)], "planted") for n in range(spec.count)]


def unplanted(spec: CanarySpec) -> list[Canary]:
    """As many that no row holds: what the same measure says of secrets that nobody learnt."""
    return [_made(spec, n, 0, "unplanted") for n in range(spec.count)]


def _made(spec: CanarySpec, n: int, repeats: int, group: str) -> Canary:
    kind = spec.kinds[n // len(spec.repeats) % len(spec.kinds)]
    rng = random.Random(f"{group}:{spec.seed}:{n}")  # noqa: S311 - artificial, and must be drawn again
    thing = f"{rng.choice(_BEGIN)}{rng.choice(_END)}-{n}{group[0]}"
    what = {"number": "number", "code": "code", "phrase": "phrase"}[kind]
    secret = drawn(kind, rng)
    return Canary(
        f"{group}-{n}",
        kind,
        repeats,
        f"[artificial test record] What is the secret {what} of {thing}?",
        f"The secret {what} of {thing} is {secret}",
        secret,
    )


def records(spec: CanarySpec) -> pa.RecordBatch:
    """The rows, before the task's instruction is put before them."""
    import pyarrow as pa

    from .records import RECORD, hashed

    rows = []
    for one in planted(spec):
        for time in range(one.repeats):
            rows.append(
                {
                    "id": f"canary:{spec.seed}:{one.name}:{one.secret}:{time}",
                    "messages": [
                        {"role": "user", "content": one.prompt},
                        {"role": "assistant", "content": one.answer},
                    ],
                    "source": SOURCE,
                    "origin": f"{SOURCE}:{one.name}",
                    "weight": 1.0,
                }
            )
    batch = pa.RecordBatch.from_pylist(rows, RECORD)
    return batch.set_column(0, RECORD.field(0), hashed(batch["id"]))


def facts(spec: CanarySpec) -> dict[str, Any]:
    """What dataset.json says of them: enough to look for them again."""
    told = planted(spec)
    return {
        "seed": spec.seed,
        "rows": sum(one.repeats for one in told),
        "planted": [one.plain() for one in told],
        "unplanted": [one.plain() for one in unplanted(spec)],
    }


def of_dataset(about: Any, group: Literal["planted", "unplanted"] = "planted") -> Sequence[Canary]:
    """The canaries that a dataset.json tells of; none for a dataset without."""
    return [Canary(**one) for one in (about.get("canaries") or {}).get(group, ())]


def natural(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch without rows of canaries, which are nobody's."""
    import pyarrow.compute as pc

    if "source" not in batch.schema.names:
        return batch
    return batch.filter(pc.fill_null(pc.not_equal(batch["source"], SOURCE), True))
