"""The command `luthier`. Each command parses its words, calls one App method, prints, and exits with a code:

0 done · 1 defect · 2 recipe or words · 3 data · 4 model · 5 store · 6 a part is missing · 7 the gate stopped it · 130 interrupted
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luthier import __version__
from luthier.core.errors import Interrupted, LuthierError, SpecError

if TYPE_CHECKING:
    from luthier.app.app import App

DEFAULT_BASE = "smollm2-135m-instruct"


def _app() -> App:
    from luthier.app.app import App

    return App.open()


def _put(text: str = "") -> None:
    click.echo(text)


def _json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _told(command: Callable[..., None]) -> Callable[..., None]:
    """Errors of ours become a message and an exit code; with --json, a JSON object on standard output too."""

    @wraps(command)
    def inner(*args: Any, **kwargs: Any) -> None:
        # Libraries announce their own future to their own developers; a user can do nothing with it.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
        try:
            command(*args, **kwargs)
        except LuthierError as error:
            if kwargs.get("as_json"):
                _json(
                    {
                        "error": {
                            "kind": type(error).__name__,
                            "message": error.message,
                            "remedy": error.remedy,
                        }
                    }
                )
            click.echo(f"{'stopped' if isinstance(error, Interrupted) else 'error'}: {error}", err=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:  # `luthier list | head`
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            sys.exit(0)

    return inner


_as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."
)
_sets = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="A.B=C",
    help="Change one value of the recipe; may be given again.",
)


class _Nearest(click.Group):
    """A group that says which command was probably meant."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from luthier.core.errors import did_you_mean

            raise click.UsageError(
                f"there is no command {args[0]!r}; {did_you_mean(args[0], self.list_commands(ctx))}", ctx
            )
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of a day's work, not of the alphabet


@click.group(cls=_Nearest, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="luthier")
def main() -> None:
    """Fine-tune language models on the data a company already has, inside its own walls.

    \b
    luthier init tickets.csv > recipe.yaml    propose a recipe from a data file
    luthier plan recipe.yaml                  what would run, how long, how much
    luthier run recipe.yaml                   do it
    luthier serve ticket-router               answer the OpenAI protocol
    """


@main.command()
@click.argument("data_file")
@click.option("--base", default=DEFAULT_BASE, show_default=True, help="The model to start from.")
@click.option("--name", help="What the released model will be called; default: from the file's name.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write there instead of to standard output; never overwrites.",
)
@_as_json
@_told
def init(data_file: str, base: str, name: str | None, output: Path | None, as_json: bool) -> None:
    """Propose a commented recipe for DATA_FILE: what its columns mean, which task, how to split."""
    text = _app().init(data_file, base=base, name=name, folder=output.parent if output else None)
    if output:
        try:
            with output.open("x", encoding="utf-8") as handle:
                handle.write(text)
        except FileExistsError:
            raise SpecError(
                f"{output} is already there.", remedy="Choose another name, or remove it first."
            ) from None
        except OSError as error:
            raise SpecError(
                f"{output} cannot be written: {error.strerror}.", remedy="Choose another place."
            ) from None
    if as_json:
        _json({"recipe": text, "path": str(output) if output else None})
    elif output:
        _put(f"wrote {output}; next: luthier plan {output}")
    else:
        click.echo(text, nl=False)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@_sets
@click.option(
    "--no-probe", is_flag=True, help="Formulas only: skip the two real steps that measure this machine."
)
@_as_json
@_told
def plan(recipe: Path, sets: tuple[str, ...], no_probe: bool, as_json: bool) -> None:
    """What RECIPE would run, how long, with how much memory and money. Trains nothing."""
    from .interrupt import stop_on_signals
    from .show import watch
    from .tables import print_plan

    eyes = watch()
    try:
        with stop_on_signals(eyes.say) as stop:
            result = _app().plan(recipe, sets, probe=not no_probe, watch=eyes, stop=stop)
    finally:
        eyes.close()
    _json(result.plain()) if as_json else print_plan(result)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@_sets
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="Optimizer steps on the clock; one to warm up and one to record come on top.",
)
@_as_json
@_told
def profile(recipe: Path, sets: tuple[str, ...], steps: int, as_json: bool) -> None:
    """Where a training step of RECIPE spends its time and what holds it back. Keeps no weights."""
    from .interrupt import stop_on_signals
    from .profiling import print_profile
    from .show import watch

    eyes = watch()
    try:
        with stop_on_signals(eyes.say) as stop:
            result = _app().profile(recipe, sets, steps=steps, watch=eyes, stop=stop)
    finally:
        eyes.close()
    _json(result.plain()) if as_json else print_profile(result)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@_sets
@click.option("--fresh", is_flag=True, help="Make every step anew, even what is already there.")
@_as_json
@_told
def run(recipe: Path, sets: tuple[str, ...], fresh: bool, as_json: bool) -> None:
    """Do it: prepare, train, evaluate, judge, pack, release. Run again to go on after a stop."""
    from .interrupt import stop_on_signals
    from .show import watch
    from .tables import print_run

    eyes = watch()
    try:
        with stop_on_signals(eyes.say) as stop:
            result = _app().run(recipe, sets, fresh=fresh, watch=eyes, stop=stop)
    finally:
        eyes.close()
    _json(result.plain()) if as_json else print_run(result)


@main.command()
@click.argument("ref")
@click.option("--verify", is_flag=True, help="Read every byte and compare it with its hash.")
@_as_json
@_told
def show(ref: str, verify: bool, as_json: bool) -> None:
    """One artifact, whole: REF is a name, name@version, or the first digits of a digest."""
    from .tables import print_artifact

    found = _app().show(ref, verify=verify)
    _json(found) if as_json else print_artifact(found)
    if found.get("damaged"):
        sys.exit(5)


@main.command()
@click.argument("ref")
@click.option("--rows", "all_rows", is_flag=True, help="List every training row, not only the first five.")
@_as_json
@_told
def lineage(ref: str, all_rows: bool, as_json: bool) -> None:
    """Where REF came from and what came of it.

    REF may also be row:ID (a record) or the id of a served answer (chatcmpl-...).
    """
    from dataclasses import asdict

    from .tables import print_lineage

    found = _app().lineage(ref, all_rows=all_rows)
    _json(asdict(found)) if as_json else print_lineage(found)


@main.command("list")
@click.argument("kind", required=False)
@_as_json
@_told
def list_(kind: str | None, as_json: bool) -> None:
    """Released models; or every artifact of KIND: dataset, model, report, package, release, source, run."""
    from .tables import print_list

    rows = _app().listing(kind)
    _json(rows) if as_json else print_list(rows, kind)


@main.command()
@click.argument("ref")
@click.option("--ask", metavar="TEXT", help="Ask one question and leave.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@_as_json
@_told
def chat(ref: str, ask: str | None, max_tokens: int, temperature: float, seed: int, as_json: bool) -> None:
    """Talk to a released model, or to a base model by its name."""
    from .chatting import talk

    talk(_app(), ref, ask=ask, max_tokens=max_tokens, temperature=temperature, seed=seed, as_json=as_json)


@main.command()
@click.argument("refs", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Beyond loopback a key file is needed.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 picks a free one."
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="A file with one API key a line; default: a new key is made and shown once.",
)
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A Host header to accept besides loopback; may be given again.",
)
@_as_json
@_told
def serve(
    refs: tuple[str, ...],
    host: str,
    port: int,
    key_file: Path | None,
    allowed_hosts: tuple[str, ...],
    as_json: bool,
) -> None:
    """Answer the OpenAI chat completions protocol for one or more releases."""
    from .serving import serve_releases

    serve_releases(
        _app(), refs, host=host, port=port, key_file=key_file, allowed_hosts=allowed_hosts, as_json=as_json
    )


@main.command()
@click.argument("ref")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--form",
    type=click.Choice(["adapter", "merged"]),
    default="merged",
    show_default=True,
    help="merged: for transformers; adapter: for peft.",
)
@_as_json
@_told
def export(ref: str, folder: Path, form: str, as_json: bool) -> None:
    """Write a release's model to FOLDER in the field's own formats. Never overwrites.

    A model with a classification or regression head brings head.safetensors, which only Luthier reads: other tools see
    the language model without it.
    """
    from luthier.postprocessing.package import HEAD

    files = _app().export(ref, folder, form=form)
    if as_json:
        _json({"folder": str(folder), "form": form, "files": files})
        return
    _put(f"wrote {len(files)} files to {folder} ({form})")
    if HEAD in files:
        _put(f"{HEAD} is the model's own head: only Luthier reads it, other tools see the model without it")


@main.command()
@_as_json
@_told
def doctor(as_json: bool) -> None:
    """What this machine has, what is missing, and how to get it."""
    from dataclasses import asdict

    from .tables import print_findings

    findings = _app().doctor()
    _json([asdict(f) for f in findings]) if as_json else print_findings(findings)
    if any(f.state == "bad" for f in findings):
        sys.exit(5)


if __name__ == "__main__":
    main()
