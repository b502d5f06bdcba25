"""`luthier data ...`: what can be asked of a dataset. DATASET is a release's name, name@version, a run, or digits of a digest."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from luthier.core.errors import SpecError

from .asking import ask, ask_long
from .command import Nearest, as_json_option, here, put, put_json, told


@click.group(cls=Nearest)
def data() -> None:
    """What is in a dataset, where its rows come from, and which must be forgotten.

    \b
    luthier data prepare recipe.yaml               the rows alone, without training
    luthier data inspect ticket-router             figures, and a page
    luthier data inspect rows.jsonl                the same of a file, before there is a recipe
    luthier data advise ticket-router              what would help, with numbers
    luthier data explain tickets.jsonl:12          what happened to one row
    luthier data diff ticket-router@1 @2           what two datasets do not share
    luthier data forget --where group=customer-7   leave rows out from now on
    luthier data layout rows.jsonl                 what the columns of a file mean
    luthier data convert rows.csv out.jsonl --to openai

    DATASET is a release's name, name@version, a run, or the first digits of a digest.
    """


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

    found = ask_long("data.prepare", recipe, sets)
    _show(found, as_json, print_prepared)


@data.command()
@click.argument("what", metavar="DATASET|FILE|URL")
@click.option(
    "--base", metavar="MODEL", help="Count tokens as this model does; default: one trained on the dataset."
)
@click.option(
    "--map",
    "map_",
    metavar="MAP",
    help="What a file's columns mean, as a recipe writes it: '{user: q, assistant: a}'",
)
@click.option("--no-page", is_flag=True, help="Print the figures only; write no page.")
@as_json_option
@told
def inspect(what: str, base: str | None, map_: str | None, no_page: bool, as_json: bool) -> None:
    """What is in a dataset, or in a file before there is a recipe.

    Of a dataset: rows, lengths, labels, what occurs twice, and what the rules did. Of a file: what its columns hold and mean,
    which private data is in them, lengths, labels and duplicates of the first rows; what is shown of a row is masked. A file is
    a path, a pattern, a URL, or a source as a recipe writes it: '{sql: "${DATABASE_URL}", query: "select * from t", key: id}'.
    """
    from .data_tables import print_profile
    from .file_tables import print_source

    found = ask_long("data.inspect", what, base=base, map_=map_, page=not no_page)
    _show(found, as_json, print_profile if "dataset" in found else print_source)


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
    found = ask_long("data.advise", reference, base=base)
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
    found = ask_long("data.diff", a, b)
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

    found = ask_long("data.explain", row, dataset=dataset, recipe=recipe)
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

    found = ask_long("data.search", dataset, words, where, limit=limit)
    _show(found, as_json, print_matches)


@data.command()
@click.argument("dataset")
@click.argument("to")
@click.option(
    "--format", "form", type=click.Choice(["parquet", "jsonl", "csv", "lm-eval"]), default="parquet",
    show_default=True,
    help="jsonl: chat messages as trainers read them; csv: where every row is one question and one answer; lm-eval: the test "
    "rows as a task of lm-evaluation-harness.",
)  # fmt: skip
@click.option("--table", metavar="NAME", help="Make this table; TO is then the address of a database.")
@click.option("--croissant", is_flag=True, help="Add croissant.json, which other tools load datasets by.")
@as_json_option
@told
def export(dataset: str, to: str, form: str, table: str | None, croissant: bool, as_json: bool) -> None:
    """Write the rows of DATASET to TO: a folder, a URL, or a database. Never overwrites; verifies what it wrote.

    \b
    luthier data export ticket-router folder
    luthier data export ticket-router s3://bucket/tickets --format jsonl
    luthier data export ticket-router '${DATABASE_URL}' --table training.tickets
    luthier data export ticket-router tasks --format lm-eval

    Credentials stand in the environment, as each store documents; ${VAR} in TO is filled in from there.
    """
    from .data_tables import print_exported

    found = ask_long("data.export", dataset, to, format=form, table=table, croissant=croissant)
    _show(found, as_json, print_exported)


@data.command()
@click.option(
    "--where", "where", multiple=True, required=True, metavar="FIELD=VALUE",
    help="Which rows: id=ID, origin=FILE:LINE (with source=NAME), group=NAME or contains=TEXT; several must all hold.",
)  # fmt: skip
@click.option(
    "--dataset", metavar="DATASET", help="Look for them there alone; who used them is said of every dataset."
)
@click.option("--reason", help="Why; kept beside the tombstone.")
@click.option(
    "--recipe", type=click.Path(path_type=Path),
    help="Look into the sources of this recipe too: rules may have changed or taken out what is looked for.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Do it; otherwise it is asked for, or only told.")
@as_json_option
@told
def forget(
    where: tuple[str, ...],
    dataset: str | None,
    reason: str | None,
    recipe: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Leave rows out from now on, and say which datasets and models used them.

    A row is its content: identical rows go together, in whatever file they stand; with group= only as they stand in that
    group. A row that a rule made of another goes with that one. What was made before stays as it is. No text of a row is kept or shown.
    """
    from .data_tables import print_forget

    def ask(really: bool) -> dict[str, Any]:
        return ask_long("data.forget", where, dataset=dataset, reason=reason, recipe=recipe, really=really)

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

    _show(ask("data.forgotten"), as_json, print_forgotten)


@data.command()
@click.argument("file")
@as_json_option
@told
def layout(file: str, as_json: bool) -> None:
    """Which layout FILE has, how sure that is and why, what else it could be, and how many of its first rows fit."""
    from .file_tables import print_layouts

    _show(here().data.layout(file), as_json, print_layouts)


@data.command()
@click.argument("file")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="LAYOUT",
              help="openai, sharegpt, alpaca, prompt_completion, labelled, preference, rated or text.")  # fmt: skip
@click.option("--map", "map_", metavar="MAP", help="What the columns mean, as a recipe writes it: '{user: q, assistant: a}'")  # fmt: skip
@as_json_option
@told
def convert(file: str, out: Path, to: str, map_: str | None, as_json: bool) -> None:
    """Write the rows of FILE to OUT (JSON Lines) in another layout. Never overwrites.

    A row that the layout has no place for stops it, with the row's place: nothing is left out. Ids, groups and weights stay
    behind.
    """
    from .file_tables import print_converted

    _show(here().data.convert(file, out, to=to, map_=map_), as_json, print_converted)


@data.group(cls=Nearest)
def contract() -> None:
    """What a source promises of its columns: propose it, check a file against it, write it in the open standard.

    CONTRACT is a file of ours (YAML) or of the Open Data Contract Standard, version 3.
    """


_output = click.option("-o", "--output", type=click.Path(path_type=Path), help="Write there instead of to standard output; never overwrites.")  # fmt: skip


def _put_yaml(found: Any, output: Path | None, as_json: bool) -> None:
    from luthier.app.data.files import as_yaml

    if as_json:
        put_json(found)
    elif output is None:
        put(as_yaml(found).rstrip())
    if output is not None:
        try:
            with output.open("x", encoding="utf-8") as file:
                file.write(as_yaml(found))
        except FileExistsError:
            raise SpecError(f"{output} is already there.", remedy="Choose another name.") from None
        except OSError as error:
            raise SpecError(
                f"{output} cannot be written: {error.strerror}.", remedy="Choose another place."
            ) from None


@contract.command()
@click.argument("file")
@_output
@as_json_option
@told
def propose(file: str, output: Path | None, as_json: bool) -> None:
    """A contract that the first rows of FILE keep; which of it is a promise is for people to say."""
    _put_yaml(here().data.contract_propose(file)["contract"], output, as_json)


@contract.command()
@click.argument("file")
@click.argument("contract")
@as_json_option
@told
def check(file: str, contract: str, as_json: bool) -> None:
    """How many rows of FILE break CONTRACT, the first of them, and whether the whole would be refused."""
    from .file_tables import print_checked

    found = here().data.contract_check(file, contract)
    _show(found, as_json, print_checked)
    if found["refused"]:
        sys.exit(1)


@contract.command("export")
@click.argument("contract")
@click.option(
    "--odcs", is_flag=True, help="In the form of the Open Data Contract Standard; without it in ours."
)
@click.option("--name", help="What the source is called in it; default: from the file's name.")
@_output
@as_json_option
@told
def export_contract(contract: str, odcs: bool, name: str | None, output: Path | None, as_json: bool) -> None:
    """CONTRACT as YAML, whichever form it has now."""
    _put_yaml(here().data.contract_export(contract, name=name, odcs=odcs), output, as_json)
