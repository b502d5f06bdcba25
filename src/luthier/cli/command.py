"""What every command is made of: `--json`, errors as messages and exit codes, which App is behind it. Not here: how a verb is asked of it, or of a server: asking."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from luthier.core.errors import Interrupted, LuthierError, SpecError

from . import remotes

if TYPE_CHECKING:
    from luthier.app.app import App


def meant() -> tuple[str, remotes.RemoteSpec] | None:
    """The server that --remote, LUTHIER_REMOTE or `luthier remote use` names; None: this machine."""
    context = click.get_current_context(silent=True)
    asked = None if context is None else context.find_root().obj
    return remotes.named(os.environ, asked)


def app() -> App:
    """This machine's. Raises SpecError where a server is meant: what needs a home here is not done beside it."""
    on_this_machine(" ".join(click.get_current_context().command_path.split()[1:]))
    return here()


def on_this_machine(command: str) -> None:
    """Raises SpecError where a server is meant."""
    if (found := meant()) is not None:
        raise SpecError(
            f"`luthier {command}` works on this machine, and the server {found[0]} is meant.",
            remedy="Add --remote local for this machine, or run it on the server's.",
        )


def here() -> App:
    """This machine's, whichever server is meant: for commands that look at files of this machine alone."""
    from luthier.app.app import App

    return App.open()


def put(text: str = "") -> None:
    click.echo(text)


def put_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def safe(text: str) -> str:
    """What strangers wrote, with what steers a terminal written out."""
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text  # as most are, and then the pages' wording need not be loaded
    from luthier.app.report.wording import visible

    return visible(text)


def one_line(text: str, longest: int = 80) -> str:
    """The same as one line, cut where it is longer."""
    from luthier.app.report.wording import shorten, visible

    return shorten(visible(" ".join(text.split())), longest)


def told(command: Callable[..., None]) -> Callable[..., None]:
    """Errors of ours become a message and an exit code; with --json, a JSON object on standard output too."""

    @wraps(command)
    def inner(*args: Any, **kwargs: Any) -> None:
        # Libraries announce their own future to their own developers; a user can do nothing with it.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
        try:
            command(*args, **kwargs)
        except LuthierError as error:
            if kwargs.get("as_json"):
                put_json(
                    {
                        "error": {
                            "kind": type(error).__name__,
                            "message": error.message,
                            "remedy": error.remedy,
                        }
                    }
                )
            kind = "stopped" if isinstance(error, Interrupted) else "error"
            click.echo(safe(f"{kind}: {error}"), err=True)  # it may hold a server's words
            sys.exit(error.exit_code)
        except BrokenPipeError:  # `luthier list | head`
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            sys.exit(0)

    return inner


as_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."
)


class Nearest(click.Group):
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
