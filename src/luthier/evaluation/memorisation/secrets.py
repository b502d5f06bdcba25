"""Secrets whose place among others of their kind is measured: planted at preparation, planted by the user, or found in the
training rows. Of the last two nothing but a name and a count is ever told; their text stays in memory.

    planted     data.canaries of the dataset                 unplanted   as many that no row holds, for comparison
    file        lines of evaluate.memorisation.canaries      found       rare keys and numbers of what training rows say
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from luthier.core.errors import DataError, SpecError
from luthier.data import canaries

from .spec import MemorisationSpec, candidates_for

Group = Literal["planted", "unplanted", "file", "found"]
KINDS = frozenset({"key", "card", "iban", "phone", "national_id"})
"""What is looked for in rows: long enough and random enough that another of its shape is as good."""
RARE = 3
"""Rows that may hold one: what stands everywhere is no secret."""
SCANNED = 50_000
"""Training rows that are searched, the first by id."""
SHORTEST = 6
FEWEST_BITS = 16.0


@dataclass(frozen=True)
class Secret:
    """`messages` lead to the answer, of which `before` comes first; None: a plain text that begins with `before`."""

    name: str
    group: Group
    kind: str
    repeats: int
    messages: tuple[Mapping[str, str], ...] | None
    before: str
    text: str

    @property
    def bits(self) -> float:
        return canaries.bits(self.kind, self.text)

    def others(self, count: int, seed: int) -> list[str]:
        return canaries.others(self.kind, self.text, count, f"{seed}:{self.name}")


def read_file(path: Path, named: str) -> list[str]:
    """The secrets of a file, one a line. Raises SpecError, which never quotes one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SpecError(
            f"evaluate.memorisation.canaries: {named} cannot be read: {why}.",
            remedy="Name a text file with one secret a line.",
        ) from None
    secrets = [line.strip() for line in lines]
    where = f"evaluate.memorisation.canaries: {named}"
    if not any(secrets):
        raise SpecError(f"{where} holds no secret.", remedy="Write one a line.")
    for n, one in enumerate(secrets, 1):
        if one and (len(one) < SHORTEST or canaries.bits("", one) < FEWEST_BITS):
            raise SpecError(
                f"{where}, line {n}: too few strings have its shape ({canaries.bits('', one):.0f} bits; letters A-Z and digits "
                f"count) to tell a secret from luck; {FEWEST_BITS:.0f} bits are needed.",
                remedy="Plant longer secrets, six random letters and digits at least.",
            )
    if len(set(filter(None, secrets))) < len(list(filter(None, secrets))):
        raise SpecError(f"{where} names a secret twice.", remedy="Keep one of them.")
    return secrets


def digest_of_file(path: Path, named: str) -> str:
    """What the file holds, for the report's identity."""
    return hashlib.sha256("\n".join(read_file(path, named)).encode()).hexdigest()


def gather(
    dataset: Path, about: Mapping[str, Any], spec: MemorisationSpec, root: Path
) -> tuple[list[Secret], list[str]]:
    """(secrets, what there is to tell of those that cannot be measured)."""
    planted = _planted(dataset, about)
    given: dict[str, str] = {}
    if spec.canaries is not None:
        named = Path(spec.canaries).name
        path = root / Path(spec.canaries).expanduser()
        if spec.canaries_sha256 not in (None, digest_of_file(path, named)):
            raise DataError(
                f"{named} has changed since this run began.",
                remedy="Run again: other secrets are measured anew.",
            )
        lines = read_file(path, named)
        given = {text: f"{named}:{n}" for n, text in enumerate(lines, 1) if text}
    mine, found = _in_rows(dataset, given, spec)
    lost = [name for text, name in given.items() if text not in mine]
    told = (
        [f"No training row says the secret of {', '.join(lost)}, so nothing is known about it."]
        if lost
        else []
    )
    return _numbered([*planted, *mine.values(), *found]), told


def _numbered(secrets: Sequence[Secret]) -> list[Secret]:
    """Two keys in one row have two names."""
    seen: dict[str, int] = {}
    found = []
    for one in secrets:
        seen[one.name] = n = seen.get(one.name, 0) + 1
        found.append(one if n == 1 else replace(one, name=f"{one.name} #{n}"))
    return found


def _planted(dataset: Path, about: Mapping[str, Any]) -> list[Secret]:
    """With the instruction before them that they were learnt with."""
    from luthier.data.shards import Side

    known = canaries.of_dataset(about)
    if not known:
        return []
    batches = Side(dataset / "train.parquet").batches(["messages", "source", "origin"])
    there = {
        row["origin"].rpartition(":")[2]: row["messages"]
        for batch in batches
        for row in batch.to_pylist()
        if row["source"] == canaries.SOURCE
    }
    example = there[known[0].name]
    found = []
    for group, some in (("planted", known), ("unplanted", canaries.of_dataset(about, "unplanted"))):
        for one in some:
            messages = [
                {"role": m["role"], "content": m["content"].replace(known[0].prompt, one.prompt)}
                for m in example[:-1]
            ]
            before = one.answer.removesuffix(one.secret)
            found.append(
                Secret(one.name, group, one.kind, one.repeats, tuple(messages), before, one.secret)  # type: ignore[arg-type]
            )
    return found


def _in_rows(
    dataset: Path, given: Mapping[str, str], spec: MemorisationSpec
) -> tuple[dict[str, Secret], list[Secret]]:
    """The user's secrets where rows say them, and rare ones that no one named."""
    from luthier.data.private.find import candidates
    from luthier.data.private.found import settle

    mine: dict[str, Secret] = {}
    counts: dict[str, int] = dict.fromkeys(given, 0)
    seen: dict[tuple[str, str], list[Secret]] = {}
    for n, (record, messages, text) in enumerate(_said(dataset)):
        for secret, name in given.items():
            if (at := text.find(secret)) >= 0:
                counts[secret] += 1
                mine.setdefault(secret, Secret(name, "file", "", 0, messages, text[:at], secret))
        if n < SCANNED and spec.found:
            for one in settle(candidates(text, KINDS)):
                where = Secret(
                    f"{one.kind} in row:{record}", "found", one.kind, 0, messages, text[: one.start],
                    text[one.start : one.end],
                )  # fmt: skip
                seen.setdefault((one.kind, one.value), []).append(where)
    enough = max(FEWEST_BITS, candidates_for(len(given), spec.candidates).bit_length() + 2)
    rare = [
        replace(places[0], repeats=len(places))
        for places in seen.values()
        if len(places) <= RARE and canaries.bits("", places[0].text) >= enough and places[0].text not in given
    ]
    rare.sort(key=lambda one: hashlib.blake2b(f"{spec.seed}:{one.name}:{len(one.before)}".encode()).digest())
    return {text: replace(one, repeats=counts[text]) for text, one in mine.items()}, rare[: spec.found]


def _said(dataset: Path) -> Iterator[tuple[str, tuple[Mapping[str, str], ...] | None, str]]:
    """(id, what led to it, what is learnt) of every answer and every plain text of train, canaries left out."""
    from luthier.data.shards import Side

    for batch in Side(dataset / "train.parquet").batches(["id", "messages", "text", "source"]):
        for row in canaries.natural(batch).to_pylist():
            if row["text"] is not None:
                yield row["id"], None, row["text"]
            messages: Sequence[Mapping[str, str]] = row["messages"] or ()
            for at, message in enumerate(messages):
                if message["role"] == "assistant":
                    yield row["id"], tuple(messages[:at]), message["content"]
