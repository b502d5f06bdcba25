"""Recipes of others, in whatever job they come: held against the policy when they are submitted (app/desk) and again, by the policy of that
moment, when they run. Whoever works on the server's own home is not asked: what he may read is the system's matter.

    foreign(wish)            the file that a person wrote, in a wish of kind `recipe` or `verb`; None where there is none
    ready(at, folder)        the same at a job's start: vetted, and uploaded files put into the folder where its paths start
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import NotAllowed, SpecError
from luthier.core.spec import Spec, Tree, override, parse, read_yaml

if TYPE_CHECKING:
    from luthier.governance.vetting import Vetted

    from .attempt import Attempt

MERGE = "recipes.merge"


@dataclass(frozen=True)
class Foreign:
    """`text`: YAML. `folder`: where its paths start, for whoever works on this machine."""

    text: str
    sets: Sequence[str]
    merges: bool = False
    folder: Path | None = None
    beside: Sequence[str] = ()
    """Names of files that came with it."""

    def read(self) -> tuple[Spec, Tree]:
        """Raises SpecError with every fault."""
        from luthier.app.merging import MergeFile
        from luthier.app.recipe import Recipe

        tree = override(read_yaml(self.text, "merge file" if self.merges else "recipe"), tuple(self.sets))
        return parse(MergeFile if self.merges else Recipe, tree), tree


def foreign(wish: Mapping[str, Any]) -> Foreign | None:
    """Raises SpecError for a recipe that is no text."""
    written = wish.get("recipe", wish.get("written"))
    if written is None:
        return None
    if isinstance(written, Mapping) and "verb" in wish:
        return Foreign(
            written["text"],
            wish.get("overrides", ()),
            wish["verb"] == MERGE,
            beside=tuple(written.get("files", ())),
        )
    if not isinstance(written, str):
        raise SpecError("a recipe is a text of YAML.", remedy="docs/recipe.md explains every key.")
    folder = wish.get("folder")
    return Foreign(written, wish.get("sets", ()), folder=None if folder is None else Path(folder))


def ready(at: Attempt, folder: Path) -> Vetted | None:
    """As it may run now, with the project's uploaded files in `folder`; None for whoever works on the server's home: it runs as it is.
    Raises NotAllowed, SpecError."""
    from luthier.app.desk import Desk
    from luthier.app.permitted import roles_in

    job = at.job
    found = foreign(job.wish)
    assert found is not None
    site = at.site
    caller = site.acting(job.by, job.project)
    if caller is None:
        raise NotAllowed(
            "whoever submitted this job may do nothing in this project any more.",
            remedy="Have somebody submit it who may.",
        )
    if caller.operator:
        return None

    def file(file_id: str) -> str:
        kept = at.app.uploaded.get(file_id)
        name = f"{file_id}{_suffix(kept.filename)}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        at.app.uploaded.copy(file_id, folder / name)
        return name

    return Desk(site).vetted(job.project, roles_in(site, caller, job.project), found, file)


def _suffix(filename: str) -> str:
    """What a file is read as; nothing that a reader would take for more than that.

    >>> _suffix("rows.jsonl.gz"), _suffix("rows.${HOME}"), _suffix("rows")
    ('.jsonl.gz', '', '')
    """
    found = re.search(r"(\.[A-Za-z0-9]{1,8}){1,2}$", filename, re.ASCII)
    return found[0] if found else ""


def as_yaml(vetted: Vetted) -> str:
    """JSON is YAML."""
    return json.dumps(vetted.written, ensure_ascii=False, indent=1)
