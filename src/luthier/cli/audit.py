"""`luthier audit ...`: who did, or was denied, what, and whether that is what was written."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .asking import ask
from .command import Nearest, app, as_json_option, one_line, put, put_json, told
from .moments import moment

PATH = click.Path(path_type=Path)


@click.group(cls=Nearest)
def audit() -> None:
    """Who did, or was denied, what: a chain that cannot be changed unseen.

    \b
    luthier audit list                                     the newest entries
    luthier audit key audit.pem                            a key to sign with; audit.pem.pub is for who verifies
    luthier audit checkpoint --key audit.pem --to FILE     sign the trail as it stands; keep FILE on another machine
    luthier audit verify --checkpoints FILE --key audit.pem.pub
    luthier audit export FILE --format otlp                for a collector of OpenTelemetry
    luthier audit erase --person ann --because "..."       who somebody is goes, what was done stays
    """


@audit.command(name="list")
@click.option("--action", help="Only this, or what begins with it: `rollout.`")
@click.option("--actor", help="Only of this id.")
@click.option("--subject", help="Only about this.")
@click.option("--newest", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many.")
@as_json_option
@told
def list_(action: str | None, actor: str | None, subject: str | None, newest: int, as_json: bool) -> None:
    """The newest entries, oldest of them first."""
    found = ask("audit.newest", action=action, actor=actor, subject=subject, newest=newest)
    if as_json:
        put_json(found)
        return
    if not found:
        put("no entries")
    for entry in found:
        who = entry.actor
        if entry.person:
            who += f" ({', '.join(str(v) for v in entry.person.values())})"
        outcome = "" if entry.outcome == "done" else f"  {entry.outcome}"
        put(
            f"{entry.seq:>6}  {moment(entry.time_us / 1e6)}  {one_line(who, 40):24}  {entry.action:20}  {one_line(entry.subject, 60)}{outcome}"
        )


@audit.command()
@click.option(
    "--checkpoints",
    multiple=True,
    type=PATH,
    metavar="FILE|FOLDER",
    help="Signed checkpoints; may be given again.",
)
@click.option(
    "--key", "keys", multiple=True, type=PATH, metavar="FILE.pub", help="A public key that signed them."
)
@as_json_option
@told
def verify(checkpoints: tuple[Path, ...], keys: tuple[Path, ...], as_json: bool) -> None:
    """Whether the trail is what was written. The exit status is 1 where it is not; the first bad entry is named."""
    found = ask("audit.verify", checkpoints=checkpoints, keys=keys)
    if as_json:
        put_json(found)
    elif found.sound:
        vouched = (
            f"up to entry {found.proven:,} by {found.checkpoints:,} checkpoints"
            if found.checkpoints
            else "by its own hashes alone, which whoever can write the database can reckon anew: give --checkpoints"
        )
        put(f"sound: {found.entries:,} entries, vouched for {vouched}")
        if found.erased:
            put(f"of {found.erased:,} entries it was erased who stands behind them")
    if found.cut and not as_json:
        put(f"{found.cut:,} checkpoints were cut off while they were written, and vouch for nothing")
    for one in () if as_json else found.faults:
        put(f"{one.kind} at entry {one.seq:,}: {one.says}")
    if not found.sound:
        sys.exit(1)


@audit.command()
@click.argument("file", type=PATH)
@told
def key(file: Path) -> None:
    """A new key to sign checkpoints with, for your eyes alone; FILE.pub is for who verifies."""
    made = app().audit.new_key(file)
    put(f"wrote {file} and {file}.pub (key {made})")


@audit.command()
@click.option("--key", "key_file", required=True, type=PATH, metavar="FILE", help="The private key.")
@click.option("--to", required=True, type=PATH, metavar="FILE", help="Where it is added, one a line.")
@as_json_option
@told
def checkpoint(key_file: Path, to: Path, as_json: bool) -> None:
    """Sign the trail as it stands. Keep what is written away from whoever can write the database."""
    made = app().audit.checkpoint(key_file, to)
    if as_json:
        put_json(vars(made))
        return
    put(f"signed up to entry {made.seq:,}: {made.sha256[:16]}, added to {to}")


@audit.command()
@click.argument("file", type=PATH)
@click.option("--format", "form", type=click.Choice(["jsonl", "otlp"]), default="jsonl", show_default=True)
@click.option("--after", type=click.IntRange(0, 2**62), default=0, help="Only entries behind this one.")
@as_json_option
@told
def export(file: Path, form: str, after: int, as_json: bool) -> None:
    """Entries as a new FILE, one JSON object a line; `otlp` as logs of OpenTelemetry."""
    count = app().audit.export(file, "otlp" if form == "otlp" else "jsonl", after=after)
    put_json({"entries": count, "file": str(file)}) if as_json else put(
        f"{count:,} entries written to {file}"
    )


@audit.command()
@click.option("--person", required=True, help="As the trail names that person.")
@click.option("--because", "why", required=True, help="Why; it stays in the trail, so name nobody.")
@as_json_option
@told
def erase(person: str, why: str, as_json: bool) -> None:
    """Take out who somebody is, wherever the trail names that person. The chain still verifies."""
    count = ask("audit.erase", person=person, because=why)
    put_json({"entries": count}) if as_json else put(f"taken out of {count:,} entries")
