"""Whether the audit trail is what was written: its own hashes, and checkpoints that were signed and taken elsewhere.

    altered      an entry's content is not what its hash says
    removed      a number is missing
    replaced     an entry was written anew with a hash of its own; the next one still names the old
    restamped    the trail is sound in itself, and is not the one that a checkpoint was made of: everything behind the last
                 checkpoint that fits may have been written anew, or an old copy was brought back and went on
    truncated    a checkpoint knows entries that are no longer there
    unmasked     who stands behind an entry was changed, or taken out without an entry that says so

A chain of hashes alone finds the first three: whoever can write the table can reckon all hashes anew. The others are found by
checkpoints, which is why they belong on another machine. Signatures are Ed25519 (RFC 8032), by `cryptography`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import canonical
from luthier.core.errors import DataError, SpecError, missing_part
from luthier.store.audit import FIRST, Entry, Person

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FORMAT = "luthier audit 1"
BEGIN = f'{{"format":"{FORMAT}",'
"""Of a line of checkpoints, as `Checkpoint.line` writes it."""
ERASED = "audit.erased"
AT_ONCE = 500
LARGEST_LINE = 10_000


@dataclass(frozen=True)
class Checkpoint:
    """The trail at one moment, signed. `key` is the first half of the public key's SHA-256."""

    seq: int
    sha256: str
    time_us: int
    key: str
    signature: str

    def signed(self) -> bytes:
        """What the signature is of."""
        return canonical(
            {
                "format": FORMAT,
                "seq": self.seq,
                "sha256": self.sha256,
                "time_us": self.time_us,
                "key": self.key,
            }
        )

    def line(self) -> str:
        """As it stands in a file of checkpoints."""
        return json.dumps({"format": FORMAT, **vars(self)}, separators=(",", ":"))


@dataclass(frozen=True)
class Fault:
    """`seq`: the first entry that is wrong, or missing."""

    kind: str
    seq: int
    says: str


@dataclass(frozen=True)
class Examined:
    """`entries`: how many were looked at; `proven`: up to which entry a checkpoint vouches; `faults`: in the order of the trail."""

    entries: int
    head: str | None
    proven: int
    checkpoints: int
    faults: tuple[Fault, ...] = ()
    erased: int = 0
    cut: int = 0
    """Checkpoints that were cut off while they were written: they vouch for nothing, and say nothing against the trail."""

    @property
    def sound(self) -> bool:
        return not self.faults

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "sound": self.sound}


@dataclass
class _Walk:
    """The state of one reading."""

    n: int = 0
    previous: str = FIRST
    proven: int = 0
    faults: list[Fault] = field(default_factory=list)
    nameless: set[int] = field(default_factory=set)
    told_erased: set[int] = field(default_factory=set)


def examine(
    entries: Iterable[Entry],
    people: Callable[[Sequence[int]], Mapping[int, Person]],
    checkpoints: Sequence[Checkpoint] = (),
    after: Checkpoint | None = None,
) -> Examined:
    """Read the whole trail, oldest first, in bounded memory; with `after`, what follows that checkpoint. Checkpoints must have been checked
    (`trusted`). One fault of the chain is told, the first: what follows it cannot be told from what it brought about."""
    walk = _Walk() if after is None else _Walk(after.seq, after.sha256)
    waiting = sorted(checkpoints, key=lambda one: one.seq)
    block: list[Entry] = []
    broken = False
    for entry in entries:
        if not broken and (fault := _link(walk, entry)):
            walk.faults.append(fault)
            broken = True
        while waiting and waiting[0].seq <= entry.seq:
            _against(walk, waiting.pop(0), entry)
        walk.n, walk.previous = entry.seq, entry.sha256
        block.append(entry)
        if len(block) == AT_ONCE:
            _people(walk, block, people)
            block = []
    _people(walk, block, people)
    if waiting:
        lost = waiting[-1].seq
        walk.faults.append(
            Fault("truncated", walk.n + 1, f"a checkpoint knows {lost:,} entries, and {walk.n:,} are here")
        )
    if unsaid := sorted(walk.nameless - walk.told_erased):
        walk.faults.append(
            Fault("unmasked", unsaid[0], "who stands behind it was taken out, and no entry says so")
        )
    head = walk.previous if walk.n else None
    erased = len(walk.nameless & walk.told_erased)
    faults = tuple(sorted(walk.faults, key=lambda one: one.seq))
    return Examined(walk.n, head, walk.proven, len(checkpoints), faults, erased)


def _link(walk: _Walk, entry: Entry) -> Fault | None:
    if entry.seq != walk.n + 1:
        return Fault("removed", walk.n + 1, f"entry {walk.n + 1} is missing: {entry.seq} follows {walk.n}")
    if entry.reckoned() != entry.sha256:
        return Fault("altered", entry.seq, "its content is not what its hash says")
    if entry.previous != walk.previous:
        before = max(walk.n, 1)
        return Fault("replaced", before, f"it was written anew: entry {entry.seq} names another before it")
    return None


def _against(walk: _Walk, checkpoint: Checkpoint, entry: Entry) -> None:
    if checkpoint.seq == entry.seq and checkpoint.sha256 == entry.sha256:
        walk.proven = checkpoint.seq
        return
    if any(one.kind == "restamped" for one in walk.faults):
        return
    first = walk.proven + 1
    walk.faults.append(
        Fault(
            "restamped", first,
            f"entries {first:,} to {checkpoint.seq:,} are not those that the checkpoint of {checkpoint.seq:,} was made of",
        )
    )  # fmt: skip


def _people(
    walk: _Walk, block: Sequence[Entry], people: Callable[[Sequence[int]], Mapping[int, Person]]
) -> None:
    there = people([one.seq for one in block])
    for entry in block:
        person = there.get(entry.seq)
        if entry.action == ERASED:
            walk.told_erased |= {seq for seq in entry.data.get("seqs", ()) if isinstance(seq, int)}
        if person is None and entry.person_sha256 is not None:
            walk.nameless.add(entry.seq)
        elif person is not None and person.reckoned() != entry.person_sha256:
            walk.faults.append(Fault("unmasked", entry.seq, "who stands behind it was changed"))


# -- checkpoints --------------------------------------------------------------------------------------------------------


def new_key(path: Path) -> str:
    """Write a new private key, for its owner alone, and beside it PATH.pub; the key's id. Never overwrites."""
    serialization, ed25519 = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for place, text, mode in ((path, private, 0o600), (Path(f"{path}.pub"), public, 0o644)):
        try:
            with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(text)
        except FileExistsError:
            raise SpecError(
                f"{place} is there already.", remedy="Name another file; a key is never overwritten."
            ) from None
        except OSError as error:
            raise SpecError(
                f"{place} cannot be written ({error.strerror}).", remedy="Name a file in a folder of yours."
            ) from None
    return _key_id(key.public_key())


def check_key(path: Path) -> None:
    """Whether checkpoints can be signed with it. Raises SpecError, MissingPart."""
    _private(path)


def sign(head: Entry, key_file: Path, time_us: int) -> Checkpoint:
    """A checkpoint of the trail up to `head`."""
    key = _private(key_file)
    bare = Checkpoint(head.seq, head.sha256, time_us, _key_id(key.public_key()), "")
    signature = base64.b64encode(key.sign(bare.signed())).decode()
    return Checkpoint(**{**vars(bare), "signature": signature})


def whole_lines(text: str) -> tuple[list[str], int]:
    """The lines of a file of checkpoints, empty where a writer died in the middle of one; and how many those are. Such a line begins as a
    checkpoint does and has no end, and a file without a byte is one too; where nothing may be removed it stays."""
    lines = text.splitlines()
    return ["" if _cut(line) else line for line in lines], sum(map(_cut, lines)) + (not text)


def _cut(line: str) -> bool:
    written = line.strip("\0")  # of a disk that lost what was promised to it
    return bool(line) and not line.endswith("}") and (written.startswith(BEGIN) or BEGIN.startswith(written))


def trusted(lines: Iterable[str], key_files: Sequence[Path], source: str) -> list[Checkpoint]:
    """The checkpoints of a file, one JSON object a line. Raises DataError for one that none of the public keys has signed."""
    keys = {_key_id(key): key for key in map(_public, key_files)}
    if not keys:
        raise SpecError(
            "checkpoints were given, and no public key.",
            remedy="Add --key FILE.pub, as `luthier audit key` wrote it.",
        )
    from cryptography.exceptions import InvalidSignature

    found = []
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        one = _read(line, f"{source}:{n}")
        try:
            keys[one.key].verify(base64.b64decode(one.signature, validate=True), one.signed())
        except KeyError:
            known = ", ".join(keys)
            raise DataError(
                f"{source}:{n} was signed by the key {one.key[:16]}, which was not given.",
                remedy=f"Give its public key too; given: {known}.",
            ) from None
        except (InvalidSignature, ValueError):
            raise DataError(
                f"{source}:{n}: the signature is not of this checkpoint.",
                remedy="The file was changed after it was signed; take it from where checkpoints are kept.",
            ) from None
        found.append(one)
    return found


def _read(line: str, where: str) -> Checkpoint:
    try:
        told: Any = json.loads(line) if len(line) <= LARGEST_LINE else None
        if not isinstance(told, dict) or told.pop("format") != FORMAT:
            raise ValueError
        one = Checkpoint(**told)
        whole = isinstance(one.seq, int) and isinstance(one.time_us, int)
        if not whole or not all(isinstance(v, str) for v in (one.sha256, one.key, one.signature)):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DataError(
            f"{where} is no checkpoint.", remedy="`luthier audit checkpoint` writes one a line."
        ) from None
    return one


def _private(path: Path) -> Ed25519PrivateKey:
    serialization, ed25519 = _cryptography()
    try:
        if path.stat().st_mode & 0o077:
            raise SpecError(f"{path} may be read by others.", remedy=f"chmod 600 {path}")
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SpecError(
            f"{path} holds no private key of the kind that checkpoints are signed with.",
            remedy="`luthier audit key FILE` makes one (Ed25519, PEM, without a password).",
        )
    return key


def _public(path: Path) -> Ed25519PublicKey:
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError):
        key = None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise SpecError(
            f"{path} holds no public key that checkpoints are checked with.",
            remedy="Give the file that ends with .pub, as `luthier audit key` wrote it.",
        )
    return key


def _key_id(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise missing_part("cryptography", "audit", "Signing checkpoints") from None
    return serialization, ed25519
