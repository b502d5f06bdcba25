"""What a step is: text in, text or a refusal out. A step depends on nothing but the text, its settings and `About`, so that it can
be done again from what was kept, by anyone, without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luthier.core.spec import Spec


@dataclass(frozen=True)
class About:
    """What a step may know beside the text. `messages`: (role, content) of what was asked, the system message included;
    `labels`: those of the task, None where it has none."""

    messages: tuple[tuple[str, str], ...] = ()
    labels: tuple[str, ...] | None = None

    def said_by(self, *roles: str) -> tuple[str, ...]:
        return tuple(content for role, content in self.messages if role in roles)


NOTHING = About()


@dataclass(frozen=True)
class Said:
    """What a step makes of a text. `refusal`: why there is no answer; then `text` is what was refused. `notes`: short words that
    are counted over all rows, and never a part of the text."""

    text: str
    refusal: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One line in the plugin table, kind `answer_step`.

    `run(text, settings, about)` never raises. `inlined(settings, read)` puts the contents of files into the settings, `read` giving
    a file's text; `bound(settings, task)` puts in what the task says (a description as in dataset.json). Both raise SpecError.
    """

    name: str
    version: int
    spec: type[Spec]
    about: str
    run: Callable[[str, Any, About], Said]
    inlined: Callable[[Any, Callable[[str], str]], Any] = lambda settings, _: settings
    bound: Callable[[Any, Mapping[str, Any]], Any] = lambda settings, _: settings
    hidden: Callable[[str, Any, About], str] | None = None
    """Of a step that takes private data out: any text without it, for what is told of an answer."""
