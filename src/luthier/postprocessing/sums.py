"""SHA256SUMS over a package: written as the tool sha256sum writes it, and held against a folder that came from somewhere.

>>> line("ab" * 32, "adapter/README.md")
'abababababababababababababababababababababababababababababababab  adapter/README.md'
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from luthier.core.errors import ModelError

FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_MOST_BYTES = 10_000_000


@dataclass(frozen=True)
class Verdict:
    """Paths within the folder. `files`: how many are as they were."""

    files: int
    missing: tuple[str, ...]
    changed: tuple[str, ...]
    surplus: tuple[str, ...]

    @property
    def sound(self) -> bool:
        return not (self.missing or self.changed or self.surplus)


def line(sha256: str, path: str) -> str:
    return f"{sha256}  {path}"


def write(folder: Path) -> None:
    """SHA256SUMS of every file below, itself left out. Raises ModelError for a name that the list cannot hold."""
    found = _files(folder)
    if odd := [name for name, _ in found if not name.isprintable() or "\\" in name]:
        raise ModelError(
            f"a file is named {odd[0]!r}, which {FILE} cannot hold.",
            remedy="Rename it in the base's folder, and import that again.",
        )
    told = [line(_sha256(path), name) for name, path in found]
    (folder / FILE).write_text("".join(one + "\n" for one in told), encoding="utf-8")


def verify(folder: Path) -> Verdict:
    """What of the folder is not as SHA256SUMS has it. Raises ModelError where there is no such list, or none that is safe."""
    path = folder / FILE
    if path.is_symlink() or not path.is_file():
        raise ModelError(
            f"{folder} has no {FILE}, so nothing says what it should hold.",
            remedy="Name a folder that `luthier export` wrote.",
        )
    if path.stat().st_size > _MOST_BYTES:
        raise ModelError(f"{FILE} is larger than {_MOST_BYTES:,} bytes.", remedy="Export the package again.")
    wanted: dict[str, str] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        found = _LINE.fullmatch(text)
        name = found[2] if found else ""
        parts = PurePosixPath(name)
        if not found or parts.is_absolute() or ".." in parts.parts or name in wanted:
            raise ModelError(
                f"line {number} of {FILE} is not a hash and a path within the folder, each once.",
                remedy="Export the package again.",
            )
        wanted[name] = found[1]
    there = dict(_files(folder))
    try:
        changed = [name for name in wanted if name in there and _sha256(there[name]) != wanted[name]]
    except OSError as error:
        raise ModelError(
            f"{error.filename} cannot be read: {error.strerror}.", remedy="Check its rights and the disk."
        ) from None
    missing = [name for name in wanted if name not in there]
    surplus = [name for name in there if name not in wanted]
    same = len(wanted) - len(changed) - len(missing)
    return Verdict(same, tuple(sorted(missing)), tuple(sorted(changed)), tuple(sorted(surplus)))


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Whatever is no folder: a link, a pipe or a device is a file that is not as it was. A name that is not UTF-8 is shown by its
    bytes, and no list has it."""
    found = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = [(_shown(path.relative_to(folder).as_posix()), path) for path in found]
    return [(name, path) for name, path in names if name != FILE]


def _shown(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _sha256(path: Path) -> str:
    if path.is_symlink() or not path.is_file():  # what a link points to may change, and a pipe may never end
        return "no plain file"
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
