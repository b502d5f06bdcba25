"""`luthier data ...`: what can be asked of a dataset. DATASET is a release's name, name@version, a run, or digits of a digest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luthier.core.errors import SpecError

from .command import Nearest, app, as_json_option, put, put_json, told

if TYPE_CHECKING:
    from .show import Bars, Lines


@click.group(cls=Nearest)
def data() -> None:
    """What is in a dataset, where its rows come from, and which must be forgotten.

    \b
    luthier data prepare recipe.yaml               the rows alone, without training
    luthier data inspect ticket-router             figures, and a page
    luthier data advise ticket-router              what would help, with numbers
    luthier data explain tickets.jsonl:12          what happened to one row
    luthier data diff ticket-router@1 @2           what two datasets do not share
    luthier data forget --where group=customer-7   leave rows out from now on

    DATASET is a release's name, name@version, a run, or the first digits of a digest.
    """


@contextmanager
def _watched() -> Iterator[dict[str, Any]]:
    """Progress on standard error, and Ctrl-C as a wish to stop."""
    from .interrupt import stop_on_signals
    from .show import watch

    eyes: Lines | Bars = watch()
    try:
        with stop_on_signals(eyes.say) as stop:
            yield {"watch": eyes, "stop": stop}
    finally:
        eyes.close()


def _show(found: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    put_json(found) if as_json else show(found)


@data.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override one value of the recipe.")
@as_json_option
@told
def prepare(recipe: Path, sets: tuple[str, ...], as_json: bool) -> None:
    """Make the dataset of RECIPE and nothing else; `luthier run` finds it there."""
    from .data_tables import print_prepared

    with _watched() as watched:
        found = app().data.prepare(recipe, sets, **watched)
    _show(found, as_json, print_prepared)


@data.command()
@click.argument("dataset")
@click.option("--base", metavar="MODEL", help="Count tokens as this model does; default: one trained on it.")
@click.option("--no-page", is_flag=True, help="Print the figures only; write no page.")
@as_json_option
@told
def inspect(dataset: str, base: str | None, no_page: bool, as_json: bool) -> None:
    """What is in DATASET: rows, lengths, labels, what occurs twice, and what the rules did."""
    from .data_tables import print_profile

    with _watched() as watched:
        found = app().data.inspect(dataset, base=base, page=not no_page, **watched)
    _show(found, as_json, print_profile)


@data.command()
@click.argument("dataset")
@click.option("--base", metavar="MODEL", help="Count tokens as this model does; default: one trained on it.")
@as_json_option
@told
def advise(dataset: str, base: str | None, as_json: bool) -> None:
    """What would help DATASET, or the rows of a recipe: each sentence with its number, and lines for data.rules.

    A word that ends in .yaml or .yml is a recipe; its rows are prepared if they are not there. No model is asked for rows.
    """
    from .data_tables import print_advice

    reference = Path(dataset) if dataset.endswith((".yaml", ".yml")) else dataset
    with _watched() as watched:
        found = app().data.advise(reference, base=base, **watched)
    _show(found, as_json, print_advice)


@data.command()
@click.argument("a")
@click.argument("b")
@as_json_option
@told
def diff(a: str, b: str, as_json: bool) -> None:
    """What two datasets do not share: rows, what rows say, and what was asked for.

    @VERSION alone as B means that version of A's name.
    """
    from .data_tables import print_diff

    if b.startswith("@"):
        b = a.partition("@")[0] + b
    with _watched() as watched:
        found = app().data.diff(a, b, **watched)
    _show(found, as_json, print_diff)


@data.command()
@click.argument("row")
@click.option("--dataset", metavar="DATASET", help="Look there alone; default: every dataset of this home.")
@click.option(
    "--recipe", type=click.Path(path_type=Path),
    help="Read the row again from the sources beside this recipe: every change then shows before and after.",
)  # fmt: skip
@as_json_option
@told
def explain(row: str, dataset: str | None, recipe: Path | None, as_json: bool) -> None:
    """What happened to one row: how it was read, changed and judged, and which weights saw it.

    ROW is a row's id, or its place as datasets have it: tickets.jsonl:12
    """
    from .data_tables import print_explained

    with _watched() as watched:
        found = app().data.explain(row, dataset=dataset, recipe=recipe, **watched)
    _show(found, as_json, print_explained)


@data.command()
@click.argument("dataset")
@click.argument("words", nargs=-1)
@click.option(
    "--where", "where", multiple=True, metavar="FIELD=VALUE",
    help="A condition: label=billing, side=test, turns>=3, user~refund; may be given again.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(0, 1000), default=20, show_default=True, help="Rows to show.")
@as_json_option
@told
def search(dataset: str, words: tuple[str, ...], where: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Rows of DATASET that contain all of WORDS, in any case, and meet every condition.

    \b
    Fields of text:    id label group source origin side says user assistant system text   = != ~
    Fields of numbers: weight rating turns characters                                      = != < <= > >=
    side=removed looks at the rows that rules took out (rule and reason are fields there).
    """
    from .data_tables import print_matches

    with _watched() as watched:
        found = app().data.search(dataset, words, where, limit=limit, **watched)
    _show(found, as_json, print_matches)


@data.command()
@click.argument("dataset")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--croissant", is_flag=True, help="Add croissant.json, which other tools load datasets by.")
@as_json_option
@told
def export(dataset: str, folder: Path, croissant: bool, as_json: bool) -> None:
    """Write the rows of DATASET to FOLDER as Parquet. Never overwrites."""
    found = app().data.export(dataset, folder, croissant=croissant)
    _show(found, as_json, lambda one: put(f"wrote {len(one['files'])} files to {one['folder']}"))


@data.command()
@click.option(
    "--where", "where", multiple=True, required=True, metavar="FIELD=VALUE",
    help="Which rows: id=ID, origin=FILE:LINE, group=NAME or contains=TEXT; several must all hold.",
)  # fmt: skip
@click.option("--reason", help="Why; kept beside the tombstone.")
@click.option(
    "--recipe", type=click.Path(path_type=Path),
    help="Look into the sources of this recipe too: rules may have changed or taken out what is looked for.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Do it; otherwise it is asked for, or only told.")
@as_json_option
@told
def forget(where: tuple[str, ...], reason: str | None, recipe: Path | None, yes: bool, as_json: bool) -> None:
    """Leave rows out from now on, and say which datasets and models used them.

    A row is its content: identical rows go together, in whatever file they stand; with group= only as they stand in that
    group. What was made before stays as it is. No text of a row is kept or shown.
    """
    from .data_tables import print_forget

    def ask(really: bool) -> dict[str, Any]:
        with _watched() as watched:
            return app().data.forget(where, reason=reason, recipe=recipe, really=really, **watched)

    found = ask(yes)
    _show(found, as_json, print_forget)
    if yes or as_json:
        return
    if not sys.stdin.isatty():
        raise SpecError("nothing was changed.", remedy="Add --yes to forget these rows.")
    if click.confirm("forget them?"):
        print_forget(ask(True), brief=True)


@data.command()
@as_json_option
@told
def forgotten(as_json: bool) -> None:
    """What was forgotten, by whom, when and why."""
    from .data_tables import print_forgotten

    _show(app().data.forgotten(), as_json, print_forgotten)
