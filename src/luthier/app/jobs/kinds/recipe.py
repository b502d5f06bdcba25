"""A run of a recipe: the whole line, from rows to a release, as `luthier run` walks it.

The wish holds the recipe's text, so the job does not change when somebody's file does. The line finds again what it has made, training goes
on from its checkpoint, and a release that is there already is returned: so it may be called again after a crash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.app.jobs.attempt import Attempt
from luthier.app.jobs.foreign import as_yaml, foreign, ready
from luthier.app.verbs import plain
from luthier.core.errors import SpecError

LONGEST_TEXT = 1_000_000
MOST_SETS = 200


def wish_of(text: str, sets: Sequence[str], folder: Path | None) -> dict[str, Any]:
    """Raises SpecError for what is too long."""
    if len(text) > LONGEST_TEXT or len(sets) > MOST_SETS or any(len(one) > LONGEST_TEXT for one in sets):
        raise SpecError(
            f"a recipe has at most {LONGEST_TEXT:,} characters and {MOST_SETS} changed values.",
            remedy="Shorten it.",
        )
    return {"recipe": text, "sets": list(sets), "folder": None if folder is None else str(folder.absolute())}


def checked(wish: Mapping[str, Any]) -> None:
    """Raises SpecError with every fault, before anything is entered or run."""
    from luthier.app.checking import check
    from luthier.app.recipe import Recipe

    found = foreign(wish)
    assert found is not None
    recipe, _ = found.read()
    assert isinstance(recipe, Recipe)
    check(recipe)


def run(at: Attempt) -> Mapping[str, Any]:
    wish = at.job.wish
    checked(wish)
    folder = Path(wish["folder"] or at.folder / "recipe")
    vetted = ready(at, folder)
    text, sets = (wish["recipe"], tuple(wish["sets"])) if vetted is None else (as_yaml(vetted), ())
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f".{at.job.id}.yaml"
    written.write_text(text, encoding="utf-8")
    try:
        done = at.app.recipes.run(written, sets, watch=at.watch, stop=at.stop)
    finally:
        written.unlink(missing_ok=True)
    return {k: plain(v) for k, v in done.plain().items() if k != "report_path"}
