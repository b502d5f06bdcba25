"""What goes with a recipe: the files beside it that it names. A recipe that names a file elsewhere cannot be sent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from luthier.core.errors import SpecError
from luthier.core.spec import read_yaml
from luthier.core.verbs import MOST_FILES, a_file_name

_AT_ONCE = 1 << 20


def beside(recipe: Path) -> tuple[str, Mapping[str, Path]]:
    """The text, and by relative name every file beside it that some value of it is, or that a pattern of it means."""
    try:
        text = recipe.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"there is no recipe {str(recipe)!r}.", remedy="Name the recipe file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{recipe} cannot be read: {error}.", remedy="Name a recipe in UTF-8.") from None
    folder, found = recipe.absolute().parent, dict[str, Path]()
    for value in _texts(read_yaml(text, recipe.name).value):
        for path in _meant(folder, value):
            name = path.relative_to(folder).as_posix()
            if path.resolve() != path.absolute() and not path.resolve().is_relative_to(folder.resolve()):
                continue  # a link that leads elsewhere: the server will say that it is not there
            try:
                a_file_name(name)
            except ValueError:
                raise SpecError(
                    f"{name!r} cannot be sent by that name.",
                    remedy="Give it plain letters, digits, . _ + = @ -.",
                ) from None
            found[name] = path
            if len(found) > MOST_FILES:
                raise SpecError(
                    f"the recipe names more than {MOST_FILES:,} files.",
                    remedy="Put the rows into fewer files.",
                )
    return text, found


def _meant(folder: Path, value: str) -> Iterator[Path]:
    if (
        not value
        or len(value) > 300
        or "\n" in value
        or value.startswith(("/", "~"))
        or ".." in value.split("/")
    ):
        return
    if any(mark in value for mark in "*?["):
        if "://" not in value and " " not in value:
            yield from (path for path in sorted(folder.glob(value)) if path.is_file())
        return
    path = folder / value
    try:
        if path.is_file():
            yield path
        elif path.is_dir() and value.strip("./"):
            yield from (one for one in sorted(path.rglob("*")) if one.is_file())
    except OSError:  # no path at all
        return


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def sha256_of(path: Path) -> str:
    found = hashlib.sha256()
    try:
        with path.open("rb") as handle:
            while part := handle.read(_AT_ONCE):
                found.update(part)
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}.", remedy="Name a file that can.") from None
    return found.hexdigest()
