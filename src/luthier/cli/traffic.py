"""`luthier traffic ...`: what served models were asked and answered, and what people said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from luthier.core import units

from .asking import Told, ask
from .command import Nearest, as_json_option, one_line, put, put_json, safe, told
from .moments import moment


class Unit(click.ParamType):
    """A number with its unit, read as recipes read it."""

    def __init__(self, name: str, read: Callable[[Any], float]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return self._read(float(value) if isinstance(value, str) and _is_number(value) else value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


SHARE, DURATION = Unit("share", units.share), Unit("duration", units.seconds)


@click.group(cls=Nearest)
def traffic() -> None:
    """What served models were asked and answered, where `luthier serve --capture` keeps it.

    \b
    luthier traffic list                           the names, and how much there is
    luthier traffic list ticket-router             the newest exchanges
    luthier traffic show chatcmpl-...              one of them, whole
    luthier traffic feedback labels.csv            ratings and better answers: id, rating, correction, tool_calls, comment
    luthier traffic remove --older "30 days"       take out what is old, or --id, or --user

    In a recipe `{traffic: ticket-router}` is a source of rows.
    """


@traffic.command("list")
@click.argument("name", required=False)
@click.option("--newest", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@as_json_option
@told
def list_(name: str | None, newest: int, as_json: bool) -> None:
    """Served names with traffic; or the newest exchanges of NAME."""
    if name is None:
        names = ask("traffic.names")
        if as_json:
            put_json(names)
        elif not names:
            put(
                "nothing is kept; `luthier serve NAME --capture 10%` keeps a share of what is asked and answered"
            )
        for told_of in [] if as_json else names:
            span = f"{moment(told_of['first_s'])} to {moment(told_of['last_s'])}"
            put(
                f"{told_of['name']:30} {told_of['exchanges']:>8,} exchanges  {told_of['judged']:>8,} judged  {span}"
            )
        return
    found = ask("traffic.listing", name, newest)
    if as_json:
        put_json(found)
        return
    for one in found:
        put(f"{moment(one.exchange.time_s)}  {one.exchange.id}  {_judged(one)}")
        put(f"    {one_line(_said(one.exchange.messages[-1]), 100)}\n    → {one_line(_answer(one), 100)}")


@traffic.command()
@click.argument("exchange_id")
@as_json_option
@told
def show(exchange_id: str, as_json: bool) -> None:
    """One exchange, whole."""
    found = ask("traffic.show", exchange_id)
    if as_json:
        put_json(found)
        return
    exchange = found.exchange
    put(
        f"{exchange.id}  {moment(exchange.time_s)}  {exchange.release or exchange.digest[:12]}  key {exchange.key_id}"
    )
    if exchange.masked:
        put(f"{exchange.masked} private values were masked")
    if exchange.tools:
        put(f"{'tools':>10}: {safe(', '.join(one['function']['name'] for one in exchange.tools))}")
    for message in exchange.messages:
        put(f"{message['role']:>10}: {safe(_said(message))}")
    put(f"{'answer':>10}: {safe(_answer(found))}")
    put(f"{'judged':>10}: {_judged(found)}")
    if _corrected(found):
        better = {"content": found.correction, "tool_calls": found.get("calls")}
        put(f"{'correction':>10}: {safe(_said(better))}")
    if found.comment is not None:
        put(f"{'comment':>10}: {safe(found.comment)}")


@traffic.command()
@click.argument("file")
@click.option("--by", help="Who judged; default: you.")
@as_json_option
@told
def feedback(file: str, by: str | None, as_json: bool) -> None:
    """Take in judgements: a FILE with `id` and a rating (-1 to 1), a correction (text, or `tool_calls`) or a comment."""
    done = ask("traffic.feedback", file, by=by)
    if as_json:
        put_json(done)
        return
    put(f"{done['judged']:,} judgements taken in")
    if done["unknown"]:
        put(f"{done['unknown']:,} rows name answers that are not kept here")


@traffic.command()
@click.option("--id", "ids", multiple=True, metavar="ID", help="This exchange; may be given again.")
@click.option("--older", type=DURATION, metavar="TIME", help="Everything older, as in '30 days'.")
@click.option("--user", help="Everything of a user, as clients wrote it in `user`.")
@click.option("--because", "why", help="Why; recorded.")
@as_json_option
@told
def remove(
    ids: tuple[str, ...], older: float | None, user: str | None, why: str | None, as_json: bool
) -> None:
    """Take exchanges out with all that was said of them. What was learnt from them stays learnt: see `luthier data forget`."""
    gone = ask("traffic.remove", ids=ids, older_s=older, user=user, why=why)
    put_json({"removed": gone}) if as_json else put(f"{gone:,} exchanges removed")


def _answer(one: Told) -> str:
    answer = one.exchange.answers[one.choice]
    return (
        f"(declined) {answer['refusal']}"
        if answer["text"] is None
        else _said({**answer, "content": answer["text"]})
    )


def _said(message: Mapping[str, Any]) -> str:
    """Its text, and what it calls."""
    calls = [
        f"{one['function']['name']}({one['function']['arguments']})"
        for one in message.get("tool_calls") or ()
    ]
    return "\n".join([*filter(None, [message["content"]]), *calls])


def _corrected(one: Told) -> bool:
    return one.correction is not None or one.get("calls") is not None


def _judged(one: Told) -> str:
    told = [] if one.rating is None else [f"rated {one.rating:+g}"]
    return ", ".join([*told, *(["corrected"] if _corrected(one) else [])]) or "not judged"
