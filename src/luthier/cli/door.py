"""Options that `luthier serve` and `luthier server start` share: what answers, what passes the door, how fast, what is kept of it, and who
is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luthier.core.errors import SpecError
from luthier.core.units import Money

from .traffic import DURATION, SHARE

if TYPE_CHECKING:
    from luthier.app.app import App
    from luthier.app.retention import Homes
    from luthier.server.keeping import Keeping
    from luthier.server.keys import Key
    from luthier.server.openai import Limits
    from luthier.server.screen import GuardSpec
    from luthier.server.watch import Observer

OPTIONS = (
    click.option(
        "--engine",
        default="transformers",
        show_default=True,
        metavar="NAME",
        help="What makes the tokens: transformers (one answer at a time), openvino (several at once, on a processor), llamacpp (the same; many adapters over one base); of one model by itself also vllm, upstream (a server's).",
    ),
    click.option(
        "--engine-set",
        "engine_settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="A setting of the engine, such as format=f16 or streams=16 of llamacpp; may be given again (docs/engines.md).",
    ),
    click.option(
        "--deadline",
        "deadline_s",
        type=DURATION,
        metavar="TIME",
        help="End an answer that takes longer, such as '60 s', with an error; a request may ask for less (x-luthier-deadline-s). Default: none.",
    ),
    click.option(
        "--rate",
        metavar="N/UNIT",
        help="How many answers of models each key may ask for, such as 60/min (s, min, h); more get 429. Default: no limit but the queue.",
    ),
    click.option(
        "--guard",
        "guard_file",
        type=click.Path(path_type=Path),
        help="A YAML file: what of requests and answers is not passed on (docs/serving.md).",
    ),
    click.option(
        "--machine",
        metavar="NAME",
        help="A machine of the price table: then what each answer cost is recorded. Default: no cost is.",
    ),
    click.option(
        "--capture",
        type=SHARE,
        metavar="SHARE",
        help="Keep this share of what is asked and answered, such as 10%; private values are masked first. 0 keeps what clients ask to keep. Default: nothing.",
    ),
    click.option(
        "--keep-for",
        "keep_s",
        type=DURATION,
        metavar="TIME",
        help="Remove what is kept after this time, such as '30 days'.",
    ),
    click.option(
        "--log",
        "log_form",
        type=click.Choice(["plain", "json"]),
        default="plain",
        show_default=True,
        help="json: a line for each request on the error output, without any text of messages.",
    ),
    click.option(
        "--traces",
        "traces_to",
        metavar="URL",
        help="Send OpenTelemetry traces to this collector, such as http://127.0.0.1:4318/v1/traces. Default: nowhere. Needs the extra otel.",
    ),
)


def door_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Door:
    """The options as they were given; reading them raises SpecError."""

    engine: str = "transformers"
    engine_settings: tuple[str, ...] = ()
    deadline_s: float | None = None
    rate: str | None = None
    guard_file: Path | None = None
    machine: str | None = None
    capture: float | None = None
    keep_s: float | None = None
    log_form: str = "plain"
    traces_to: str | None = None

    def __post_init__(self) -> None:
        if self.keep_s is not None and self.capture is None:
            raise SpecError(
                "--keep-for is given, and nothing is kept.", remedy="Add --capture, such as --capture 10%."
            )

    @property
    def settings(self) -> dict[str, str]:
        """The engine's: each name once."""
        found: dict[str, str] = {}
        for one in self.engine_settings:
            name, sign, value = one.partition("=")
            if not sign or not name or name in found:
                raise SpecError(
                    f"--engine-set {one!r} {'is given twice' if name in found else 'names no value'}.",
                    remedy="Write NAME=VALUE, each name once, as in --engine-set format=f16.",
                )
            found[name] = value
        return found

    def limits(self) -> Limits:
        from luthier.server.openai import Limits
        from luthier.server.rates import Rate

        return Limits(answer_s=self.deadline_s, rate=None if self.rate is None else Rate.parse(self.rate))

    def guard(self) -> GuardSpec:
        from luthier.server.screen import NO_GUARD, read_guard

        return NO_GUARD if self.guard_file is None else read_guard(self.guard_file)

    def hourly(self, app: App) -> Money | None:
        if self.machine is None:
            return None
        from luthier.cost.prices import load_prices

        prices, warnings = load_prices(app.home / "prices.yaml", machine=self.machine)
        row = prices.look_up(self.machine)
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)
        return Money(row.value, row.currency)

    def keeping(self, home: Callable[[Key], App]) -> Keeping | None:
        """What keeps what is said; `home`: of whoever asks."""
        from luthier.server.keeping import Keeping

        return None if self.capture is None else Keeping(home, self.capture)

    def retention(self, homes: Homes) -> AbstractContextManager[None]:
        """While it lasts, what was kept for long enough goes."""
        from luthier.app.retention import Retention

        return nullcontext() if self.keep_s is None else Retention(homes, self.keep_s).running()

    @contextmanager
    def observers(self) -> Iterator[list[Observer]]:
        with ExitStack() as until:
            found: list[Observer] = []
            if self.traces_to is not None:
                from luthier.server.traces import Traces

                traces = Traces.to(self.traces_to)
                until.callback(traces.close)
                found.append(traces)
            if self.log_form == "json":
                from luthier.server.request_log import JsonLines, to_lines

                handler = logging.StreamHandler()
                handler.setFormatter(JsonLines())
                logging.getLogger().addHandler(handler)
                until.callback(logging.getLogger().removeHandler, handler)
                found.append(to_lines(lambda line: click.echo(line, err=True)))
            yield found
