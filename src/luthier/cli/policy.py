"""`luthier policy ...`: what people of a server may do, and who says so."""

from __future__ import annotations

from pathlib import Path

import click

from .at_site import at_site, because_option, project_option
from .command import Nearest, as_json_option, one_line, put, put_json, safe, told
from .moments import moment

FILE = click.Path(path_type=Path)


@click.group(cls=Nearest)
def policy() -> None:
    """What people of a server may do: bases, sources, data, gates, approvals.

    \b
    luthier policy set site site.yaml --because "first rules"     lay down what holds everywhere
    luthier policy show                                           what holds in the project, and who says it
    luthier policy check recipe.yaml                              whether a trainer could submit this recipe

    A policy of an organisation or a project may only tighten the wider one. docs/policy.md explains every key.
    """


@policy.command()
@project_option
@as_json_option
@told
def show(project: str | None, as_json: bool) -> None:
    """Every rule that holds, and who says it."""
    site, caller = at_site(project, permission="policy.read")
    found = site.policies.show(caller)
    if as_json:
        put_json(found)
        return
    put(f"what holds in {found['scope']}")
    for rule, said in found["rules"].items():
        for one in said:
            put(f"  {rule:12} {one['from']:34} {one_line(_short(one['value']), 200)}")


@policy.command(name="get")
@click.argument("scope")
@project_option
@as_json_option
@told
def get(scope: str, project: str | None, as_json: bool) -> None:
    """What SCOPE itself lays down: site, organisation, project, or an id."""
    site, caller = at_site(project, permission="policy.read")
    found = site.policies.laid(caller, scope)
    if as_json:
        put_json(None if found is None else found.data)
        return
    if found is None:
        put(f"{scope} lays nothing down")
        return
    put(f"# laid down by {found.by} on {moment(found.time_s)}: {one_line(found.reason, 200)}")
    for rule, value in found.data.items():
        put(f"{rule}: {safe(_json(value))}")


@policy.command(name="set")
@click.argument("scope")
@click.argument("file", type=FILE)
@because_option
@project_option
@as_json_option
@told
def set_(scope: str, file: Path, because: str, project: str | None, as_json: bool) -> None:
    """Lay down FILE, a YAML policy, for SCOPE: site, organisation, project, or an id."""
    from luthier.app.recipe import read_written

    site, caller = at_site(project)
    laid = site.policies.lay(caller, scope, read_written(file), because, source=file.name)
    put_json({"scope": laid.scope, "version": laid.seq, "data": laid.data}) if as_json else put(
        f"{laid.scope}: {', '.join(sorted(laid.data)) or 'nothing'} laid down (version {laid.seq})"
    )


@policy.command()
@click.argument("scope")
@project_option
@as_json_option
@told
def history(scope: str, project: str | None, as_json: bool) -> None:
    """Every policy that SCOPE ever had, oldest first."""
    site, caller = at_site(project)
    found = site.policies.history(caller, scope)
    if as_json:
        put_json([vars(one) for one in found])
        return
    for one in found:
        put(f"{one.seq:>6}  {moment(one.time_s)}  {one.by:30}  {one_line(one.reason, 80)}")


@policy.command()
@click.argument("recipe", type=FILE)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="A.B=C",
    help="Change one value of the recipe; may be given again.",
)
@click.option(
    "--role",
    "roles",
    multiple=True,
    default=("trainer",),
    show_default=True,
    help="What whoever submits it is.",
)
@project_option
@as_json_option
@told
def check(
    recipe: Path, sets: tuple[str, ...], roles: tuple[str, ...], project: str | None, as_json: bool
) -> None:
    """Whether RECIPE may be submitted; every refusal is told. An uploaded file is written by its id."""
    from luthier.app.desk import Desk
    from luthier.app.jobs.foreign import Foreign
    from luthier.app.permitted import project_of
    from luthier.app.recipe import read_written

    site, caller = at_site(project, permission="policy.read")
    written = Foreign(read_written(recipe), sets)
    found = Desk(site).vetted(project_of(caller), roles, written, lambda file_id: file_id)
    put_json({"files": found.files, "data_class": found.data_class}) if as_json else put(
        f"may be submitted: rows of the class {one_line(found.data_class)}"
    )


def _short(value: object) -> str:
    return _json(value) if value != [] else "none"


def _json(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
