"""`luthier chat`: a conversation on the terminal, or one question with --ask."""

from __future__ import annotations

import json
import sys

import click

from luthier.app.app import App
from luthier.core.units import show_seconds
from luthier.serving.engine import Request
from luthier.serving.session import Conversation

from .show import Lines


def talk(
    app: App, ref: str, *, ask: str | None, max_tokens: int, temperature: float, seed: int, as_json: bool
) -> None:
    """One answer for --ask (or for what is piped in), otherwise a conversation until an empty line or Ctrl-D."""
    if ask is None and not sys.stdin.isatty():
        ask = sys.stdin.read().strip()
    answerer = app.models.engine(ref, watch=Lines())
    try:
        labels = getattr(answerer.engine, "facts").labels is not None  # noqa: B009
        conversation = Conversation(
            answerer.engine,
            settings=Request(
                (), max_tokens=None if labels else max_tokens, temperature=temperature, seed=seed
            ),
            remember=not labels,
        )
        if ask is not None:
            _answer(conversation, ask, as_json)
            return
        click.echo(
            f"{answerer.release or answerer.name}: an empty line ends the conversation, /new starts another",
            err=True,
        )
        while text := _read():
            if text == "/new":
                conversation.reset()
            else:
                _answer(conversation, text, as_json)
    finally:
        answerer.engine.close()


def _read() -> str:
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


def _answer(conversation: Conversation, text: str, as_json: bool) -> None:
    for piece in conversation.say(text):
        if not as_json:
            click.echo(piece, nl=False)
    last = conversation.last
    assert last is not None
    if as_json:
        click.echo(json.dumps({"answer": last.text, "probability": last.probability, "refusal": last.refusal, "seconds": last.seconds,
                               "prompt_tokens": last.usage.prompt_tokens, "completion_tokens": last.usage.completion_tokens}, ensure_ascii=False))  # fmt: skip
        return
    click.echo(last.refusal or "")
    sure = f", probability {last.probability:.2f}" if last.probability is not None else ""
    click.echo(f"  ({last.usage.completion_tokens} tokens in {show_seconds(last.seconds)}{sure})", err=True)
