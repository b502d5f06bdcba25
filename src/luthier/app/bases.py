"""Which base models a server's projects may use, and under which names: `bases.yaml` in the server's home, else the models known by name.

    gpt-4o-mini: smollm2-135m-instruct     # a name that clients send: what `base` of a recipe would say
    support-7b: /models/support-7b         # a folder; a relative path starts at the home

An operator writes it; nothing that a client sends is ever taken for a base as it stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from luthier.core.errors import NotFound, SpecError
from luthier.core.spec import read_yaml
from luthier.models.known import KNOWN

FILE = "bases.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class Base:
    """`base`: as a recipe names it. `created_s`: when it was offered, as far as that is known."""

    name: str
    base: str
    created_s: float = 0.0


def bases(home: Path) -> dict[str, Base]:
    """By name. Raises SpecError for a file that cannot be read."""
    path = home / FILE
    if not path.exists():
        return {name: Base(name, name) for name in KNOWN}
    written = read_yaml(path.read_text(encoding="utf-8"), FILE).value
    found: dict[str, Base] = {}
    for name, base in written.items() if isinstance(written, dict) else [(written, None)]:
        if not _NAME.fullmatch(str(name)) or not isinstance(base, str) or not base:
            raise SpecError(
                f"{FILE}: {str(name)[:80]!r}: a name of letters, digits, dot, dash and underscore stands for a base.",
                remedy="Write for example support-7b: /models/support-7b",
            )
        inside = home / base
        found[str(name)] = Base(str(name), str(inside) if inside.is_dir() else base, path.stat().st_mtime)
    return found


def base_of(home: Path, name: str) -> Base:
    """Raises NotFound."""
    found = bases(home).get(name)
    if found is None:
        raise NotFound(
            f"the model {name[:200]!r} cannot be fine-tuned here.",
            remedy="GET /v1/models lists those that can.",
        )
    return found
