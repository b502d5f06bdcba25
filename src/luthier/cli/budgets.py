"""`luthier budget ...`: how much may be used of what, and what was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .at_site import at_site, project_option
from .command import Nearest, as_json_option, one_line, put, put_json, told

NEW = click.Path(path_type=Path)
_alerts = click.option("--alert", "alerts", multiple=True, type=click.FloatRange(0, 1, min_open=True), metavar="SHARE",
                       help="Tell it at this share; may be given again. Default: 0.5, 0.8 and 1.")  # fmt: skip


@click.group(cls=Nearest)
def budget() -> None:
    """Money, tokens and GPU hours: how much may be used, by whom, and what was.

    \b
    luthier budget set project money:EUR 500         a month, for the project
    luthier budget list                              what is used, promised and left
    luthier budget usage --by user,model --month 2026-11 --csv november.csv
    """


@budget.command(name="list")
@project_option
@as_json_option
@told
def list_(project: str | None, as_json: bool) -> None:
    """Budgets as they stand this month."""
    site, caller = at_site(project, permission="budgets.read")
    found = site.budgets.list(caller)
    if as_json:
        put_json(found)
        return
    if not found:
        put("no budgets: nothing is limited")
    for one in found:
        _tell(one)


@budget.command(name="set")
@click.argument("scope")
@click.argument("unit")
@click.argument("amount")
@click.option("--once", is_flag=True, help="In all, from now on; default: each month (UTC).")
@_alerts
@project_option
@as_json_option
@told
def set_(
    scope: str, unit: str, amount: str, once: bool, alerts: tuple[float, ...], project: str | None, as_json: bool
) -> None:  # fmt: skip
    """A new budget for SCOPE (site, organisation, project, a user or a key's id): AMOUNT of UNIT (tokens, gpu_hours, money:EUR)."""
    site, caller = at_site(project)
    given: dict[str, Any] = {"alerts": list(alerts)} if alerts else {}
    made = site.budgets.add(caller, scope, unit, amount, period="once" if once else "month", **given)
    put_json(made) if as_json else _tell(made)


@budget.command()
@click.argument("budget_id")
@click.option("--amount", help="Another amount. What was promised before holds.")
@_alerts
@project_option
@as_json_option
@told
def change(
    budget_id: str, amount: str | None, alerts: tuple[float, ...], project: str | None, as_json: bool
) -> None:
    """Another amount, or other alerts."""
    site, caller = at_site(project)
    made = site.budgets.change(caller, budget_id, amount=amount, alerts=list(alerts) or None)
    put_json(made) if as_json else _tell(made)


@budget.command()
@click.argument("budget_id")
@project_option
@as_json_option
@told
def end(budget_id: str, project: str | None, as_json: bool) -> None:
    """It limits nothing any more."""
    site, caller = at_site(project)
    site.budgets.end(caller, budget_id)
    put_json({"budget": budget_id, "ended": True}) if as_json else put(f"{budget_id} has ended")


@budget.command()
@click.option("--by", default="month", show_default=True, metavar="A,B",
              help="organisation, project, user, key, model, kind, job, month, day.")  # fmt: skip
@click.option("--month", help="Only this one: 2026-11.")
@click.option("--unit", help="Only this: tokens, gpu_hours, money:EUR.")
@click.option("--csv", "csv_file", type=NEW, metavar="FILE", help="Write it to a new CSV file.")
@click.option(
    "--xlsx", "xlsx_file", type=NEW, metavar="FILE", help="Write it to a new workbook (extra xlsx)."
)
@project_option
@as_json_option
@told
def usage(
    by: str, month: str | None, unit: str | None, csv_file: Path | None, xlsx_file: Path | None, project: str | None, as_json: bool
) -> None:  # fmt: skip
    """What was used, by these dimensions."""
    from luthier.app.sheets import as_csv, as_xlsx, write_new

    site, caller = at_site(project)
    dimensions = [one for one in by.split(",") if one]
    rows = site.budgets.usage(caller, dimensions, month=month, unit=unit)
    columns = [*dimensions, "unit", "amount"]
    for file, content in (
        (csv_file, lambda: as_csv(rows, columns)), (xlsx_file, lambda: as_xlsx(rows, columns, "usage")),
    ):  # fmt: skip
        if file is not None:
            write_new(file, content())
            if not as_json:
                put(f"wrote {file}: {len(rows):,} rows")
    if as_json:
        put_json(rows)
    elif csv_file is None and xlsx_file is None:
        for row in rows:
            put(
                "  ".join(
                    [
                        *(one_line(str(row[name] or "-"), 40) for name in dimensions),
                        f"{row['amount']:,.10g}",
                        row["unit"],
                    ]
                )
            )
        if not rows:
            put("nothing was used")


def _tell(one: dict[str, Any]) -> None:
    period = one["month"] if one["period"] == "month" else "once"
    if one["amount"] is None:
        put(
            f"{one['id']}  {one['scope']}  {one['unit']}  {period}  {'nothing left' if one['exhausted'] else 'something left'}"
        )
        return
    put(
        f"{one['id']}  {one['scope']}  {period}: {one['amount']:,.10g} {one['unit']}, used {one['used']:,.10g}, "
        f"promised {one['promised']:,.10g}, left {one['left']:,.10g}"
    )
