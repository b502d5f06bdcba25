"""`luthier approval ...`: what another person must agree to."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .at_site import at_site, because_option, project_option
from .command import Nearest, as_json_option, one_line, put, put_json, told
from .moments import moment

if TYPE_CHECKING:
    from luthier.store.approvals import Approval


@click.group(cls=Nearest)
def approval() -> None:
    """What another person must agree to, where the policy says so. Nobody agrees to what he asked for or trained.

    \b
    luthier approval list --state open
    luthier approval ask release router@3 --because "better on every queue"
    luthier approval grant appr-4be1 --because "read the report"

    Whose word it is says the key in LUTHIER_KEY.
    """


@approval.command(name="list")
@click.option("--state", help="Only these: open, granted, declined, withdrawn or expired.")
@click.option("--newest", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many.")
@project_option
@as_json_option
@told
def list_(state: str | None, newest: int, project: str | None, as_json: bool) -> None:
    """The newest first."""
    site, caller = at_site(project, permission="approvals.read")
    found = site.approvals.list(caller, [state] if state else [], limit=newest)
    if as_json:
        put_json([asdict(one) for one in found])
        return
    if not found:
        put("no approvals")
    for one in found:
        put(
            f"{one.id}  {one.state:9}  {one.kind:8}  {one_line(one.subject, 60):30}  {one_line(one.reason, 60)}"
        )


@approval.command()
@click.argument("approval_id")
@project_option
@as_json_option
@told
def show(approval_id: str, project: str | None, as_json: bool) -> None:
    """One of them, whole."""
    site, caller = at_site(project, permission="approvals.read")
    _tell(site.approvals.get(caller, approval_id), as_json)


@approval.command()
@click.argument("kind")
@click.argument("subject")
@because_option
@project_option
@as_json_option
@told
def ask(kind: str, subject: str, because: str, project: str | None, as_json: bool) -> None:
    """Ask for KIND (release, name or rollout) of SUBJECT: NAME@VERSION, or NAME=NAME@VERSION for a further name."""
    site, caller = at_site(project, permission="approvals.ask")
    _tell(site.approvals.ask(caller, kind, subject, because), as_json)


def _step(name: str, permission: str, help: str) -> None:
    @approval.command(name=name, help=help)
    @click.argument("approval_id")
    @because_option
    @project_option
    @as_json_option
    @told
    def step(approval_id: str, because: str, project: str | None, as_json: bool) -> None:
        site, caller = at_site(project, permission=permission)
        _tell(getattr(site.approvals, name)(caller, approval_id, because), as_json)


_step("grant", "approvals.decide", "Agree to what somebody else asked for.")
_step("decline", "approvals.decide", "Refuse it; a job that waits for it ends.")
_step("withdraw", "approvals.ask", "Take back what you asked for yourself.")


def _tell(one: Approval, as_json: bool) -> None:
    if as_json:
        put_json(asdict(one))
        return
    put(f"{one.id}  {one.state}: {one.kind} {one_line(one.subject, 160)}")
    put(f"  asked for by {one.by} on {moment(one.created_s)}: {one_line(one.reason, 300)}")
    if one.state == "open":
        put(f"  lapses on {moment(one.expires_s)}")
    elif one.decided_s is not None:
        put(
            f"  {one.state} by {one.decided_by} on {moment(one.decided_s)}: {one_line(one.decided_reason or '', 300)}"
        )
