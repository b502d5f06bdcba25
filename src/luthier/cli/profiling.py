"""`luthier profile`: a profile as a person reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .tables import columns

if TYPE_CHECKING:
    from luthier.app.profiling import Profiled


def print_profile(found: Profiled) -> None:
    click.echo(f"{found.name}: what holds training back")
    for title, facts in found.sections():
        click.echo(f"\n{title}")
        click.echo(columns(facts, "  "))
