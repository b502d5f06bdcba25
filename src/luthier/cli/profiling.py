"""`luthier profile`: a profile as a person reads it."""

from __future__ import annotations

import click

from .asking import Told
from .tables import columns


def print_profile(found: Told) -> None:
    click.echo(f"{found.name}: what holds training back")
    for title, facts in found.sections:
        click.echo(f"\n{title}")
        click.echo(columns(facts, "  "))
