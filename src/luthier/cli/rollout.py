"""`luthier rollout ...`: put a new version in place of the one that answers, step by step, and take it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .asking import Told, ask
from .command import Nearest, as_json_option, put, put_json, told
from .moments import moment

_by = click.option("--by", metavar="NAME", help="Who takes this step; default: you.")


def _because(default: str | None) -> Callable[..., Any]:
    """Without a default the reason must be given (click takes `default=None` for a default)."""
    how: dict[str, Any] = (
        {"required": True} if default is None else {"default": default, "show_default": True}
    )
    return click.option("--because", metavar="REASON", help="Why; it stands in the record.", **how)


@click.group(cls=Nearest)
def rollout() -> None:
    """How a new version of a name takes over from the one that answers.

    \b
    luthier rollout start ticket-router@3 --because "trained on June"   as its recipe says (deploy.rollout)
    luthier rollout status ticket-router                                where it stands, and what speaks for it
    luthier rollout promote ticket-router --because "looks good"        the new version answers, at once
    luthier rollout rollback ticket-router                              the old one answers again, at once

    `luthier serve ticket-router` follows: it loads the candidate beside what answers, moves requests, and has the rule look.
    """


@rollout.command()
@click.argument("ref")
@_because(None)
@_by
@click.option(
    "--plan", type=click.Path(path_type=Path), help="A YAML file with the plan; default: the recipe's."
)
@click.option(
    "--set", "sets", multiple=True, metavar="A.B=C", help="Change one value of the plan; may be given again."
)
@as_json_option
@told
def start(
    ref: str, because: str, by: str | None, plan: Path | None, sets: tuple[str, ...], as_json: bool
) -> None:
    """Begin to put REF (NAME@VERSION, or NAME for the newest) in place of what answers now."""
    from luthier.app.recipe import read_written
    from luthier.core.spec import Tree, override, parse, read_yaml
    from luthier.deployment.spec import RolloutSpec

    wished = None
    if plan is not None or sets:
        tree = read_yaml(read_written(plan), plan.name) if plan else Tree(ask("rollouts.plan_of", ref))
        wished = parse(RolloutSpec, override(tree, sets), "docs/rollout.md explains every key.").plain()
    _show(ask("rollouts.start", ref, by=by, reason=because, plan=wished), as_json)


@rollout.command()
@click.argument("name", required=False)
@as_json_option
@told
def status(name: str | None, as_json: bool) -> None:
    """Where the rollout of NAME stands, and what speaks for and against the candidate; without NAME: all of them."""
    if name is None:
        found = ask("rollouts.listing")
        if as_json:
            put_json(found)
        elif not found:
            put("no name has a rollout; `luthier rollout start NAME@VERSION` begins one")
        for one in [] if as_json else found:
            put(f"{one.name:30} {one.told:20} {one.answers} answers" + (f", {one.candidate} is tried" if one.under_way else ""))  # fmt: skip
        return
    now = ask("rollouts.status", name)
    put_json(now) if as_json else _print_status(now)


def _step(name: str, action: str, about: str, because: str | None) -> click.Command:
    @rollout.command(name, help=about)
    @click.argument("name")
    @_because(because)
    @_by
    @as_json_option
    @told
    def command(name: str, because: str, by: str | None, as_json: bool) -> None:
        _show(ask(f"rollouts.{action}", name, by=by, reason=because), as_json)

    return command


_step("promote", "promote", "The candidate of NAME answers from now on, whatever steps are left.", None)
_step(
    "rollback",
    "roll_back",
    "What answered NAME before answers again; also after a promotion.",
    "taken back by hand",
)
_step(
    "pause", "pause", "Stay at this share; only the rule may still take the candidate back.", "paused by hand"
)
_step(
    "resume", "resume", "Go on with what was paused; the time of the pause does not count.", "resumed by hand"
)
_step("approve", "approve", "Agree to a candidate that waits for it (`approve: human`).", None)


@rollout.command()
@click.argument("name")
@as_json_option
@told
def history(name: str, as_json: bool) -> None:
    """Every step that was ever taken for NAME: when, what, by whom and why."""
    found = ask("rollouts.history", name)
    if as_json:
        put_json(found)
        return
    for one in found:
        put(f"{moment(one.time_s)}  {one.action.replace('_', ' '):10} → {one.told:20} {one.stable} → {one.candidate}  by {one.by}")  # fmt: skip
        put(f"    {one.reason}")


def _show(at: Told, as_json: bool) -> None:
    if as_json:
        put_json(at)
        return
    put(
        f"{at.name}: {at.told}; {at.answers} answers" + (f", {at.candidate} is tried" if at.under_way else "")
    )
    if at.under_way:
        if at.can_notice:
            put(f"the plan {at.can_notice}")
        put(f"what serves {at.name} follows within a second; look: luthier rollout status {at.name}")


def _print_status(at: Told) -> None:
    put(f"{at.name}: {at.told} since {moment(at.since_s)}; {at.answers} answers")
    put(f"last step: {at.action.replace('_', ' ')} by {at.by} on {moment(at.time_s)}: {at.reason}")
    if not at.under_way:
        return
    put(f"tried: {at.candidate}, {at.requests:,} requests in this step, {at.seen.requests:,} in all")
    if at.seen.compared:
        put(
            f"copies: {at.seen.agreed:,} of {at.seen.compared:,} got the same answer, {at.seen.dropped:,} were left out"
        )
    for one in at.findings:
        put(f"  {one.told}")
    if at.can_notice:
        put(f"the plan {at.can_notice}")
    put(f"waits for {at.waits_for}")
