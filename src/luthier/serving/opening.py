"""What an engine is opened with: a value that the app fills and each engine reads as far as it needs; and how it reads its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from luthier.core.errors import SpecError, did_you_mean
from luthier.models.spec import Dtype
from luthier.outputs.other import Other
from luthier.serving.package import PackageFacts

if TYPE_CHECKING:
    from luthier.serving.package_engine import PackageEngine

Usual = TypeVar("Usual", bound=int | None)
Word = TypeVar("Word", bound=str)
Settings = Mapping[str, str]


@dataclass(frozen=True)
class Opening:
    """`base_folder` is a whole model; `adapter_folder` an adapter on it.

    base_digest, digest   of the artifact that holds the base, and of the one that answers: what is made of them is kept under these
    gguf                  GGUF files that the package holds, by their form
    cache                 a folder of the store for what can be made again
    settings              the engine's own, as --engine-set NAME=VALUE gives them
    secret                the value behind a reference such as ${NAME}
    """

    base_folder: Path
    adapter_folder: Path | None
    facts: PackageFacts
    dtype: Dtype
    device: str
    base_digest: str
    digest: str
    cache: Path
    gguf: Mapping[str, Path] = field(default_factory=dict)
    other: Other | None = None
    settings: Settings = field(default_factory=dict)
    secret: Callable[[str], str] = str


class Kind(Protocol):
    """What stands in the plugin table as an engine that answers from releases; a class with these two, mostly. One that can be opened once
    on a machine says why in `alone`, a text."""

    def check(self, settings: Settings) -> object:
        """Raises SpecError, MissingPart for what no model would change."""

    def open(self, what: Opening) -> PackageEngine:
        """Not loaded yet. Raises SpecError, ModelError, MissingPart."""


def refuse_others(settings: Settings, engine: str, known: tuple[str, ...] = ()) -> None:
    """Raises SpecError for a setting that this engine does not know."""
    for name in settings:
        if name not in known:
            told = did_you_mean(name, known) if known else "Leave it out."
            raise SpecError(f"the engine {engine} has no setting {name!r}.", remedy=told)


def whole_number(settings: Settings, name: str, usual: Usual, most: int) -> int | Usual:
    """1 to `most`; `usual` where it is not given. Raises SpecError."""
    written = settings.get(name)
    if written is None:
        return usual
    if not written.isdecimal() or not 1 <= int(written) <= most:
        raise SpecError(f"{name} is {written!r}.", remedy=f"Write a whole number from 1 to {most}.")
    return int(written)


def one_of(settings: Settings, name: str, known: Sequence[Word]) -> Word:
    """The first where it is not given. Raises SpecError."""
    written = settings.get(name, known[0])
    for word in known:
        if word == written:
            return word
    raise SpecError(f"{name} is {written!r}.", remedy=f"Write one of {', '.join(known)}.")
