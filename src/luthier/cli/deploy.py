"""`luthier deploy render`: a release written out for where it is to run. Applies nothing."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.core import plugin

from .asking import ask
from .command import Nearest, as_json_option, put, put_json, told


@click.group(cls=Nearest)
def deploy() -> None:
    """Files for where a release is to run, to review and apply with that place's own tools (docs/targets.md)."""


@deploy.command()
@click.argument("ref")
@click.option(
    "--to",
    "target",
    type=click.Choice(list(plugin.BUILT_IN["target"])),
    required=True,
    help="Where it is to run.",
)
@click.option(
    "--out", "folder", type=click.Path(path_type=Path), required=True, help="A folder that is not there yet."
)
@click.option(
    "--image",
    required=True,
    metavar="NAME@sha256:...",
    help="By digest. For container: what to build on, such as a Python image; for the others: what runs.",
)
@click.option("--namespace", help="Of Kubernetes and KServe.  [default: default]")
@click.option("--replicas", type=click.IntRange(1, 1000), help="How many; not of a container.  [default: 2]")
@click.option("--gpus", type=click.IntRange(0, 64), help="Of each replica; not for SageMaker.  [default: 0]")
@as_json_option
@told
def render(
    ref: str,
    target: str,
    folder: Path,
    image: str,
    namespace: str | None,
    replicas: int | None,
    gpus: int | None,
    as_json: bool,
) -> None:
    """Write REF out for a target. No secret is written: files say where they are to be found. README.md says how to go on and
    what has not been checked."""
    done = ask(
        "models.render", ref, target, folder, image=image, namespace=namespace, replicas=replicas, gpus=gpus
    )
    if as_json:
        put_json(done)
        return
    put(f"wrote {', '.join(done.files)} to {folder} for {done.ref}; README.md says how to go on")
