"""One copy of a request, asked of a candidate: how it ended, and nothing of it to anybody. Not here: which requests are copied (following)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing

from luthier.deployment.evidence import Outcome
from luthier.server.answer import Choice
from luthier.server.exchange import hash_answer
from luthier.server.router import Again
from luthier.server.run import chunks_of
from luthier.server.served import ServedModel
from luthier.serving.engine import Refused

logger = logging.getLogger("luthier.server")

LOOK_S = 0.1
"""How often it is looked whether the copy is still wanted."""


async def asked_again(
    model: ServedModel, again: Again, wanted: Callable[[], bool], limit_s: float
) -> Outcome | None:
    """Through the same guards and reader of calls as the answer that the client got. A copy past the limit has failed. None where it says
    nothing of the model: it was not wanted any more, or the model refuses to be asked that, which does not count anywhere."""
    started_s, choice, late = time.monotonic(), Choice(), False
    answer = asyncio.ensure_future(_answer(model, again, choice))
    while not answer.done():
        late = time.monotonic() - started_s >= limit_s
        if late or not wanted():
            answer.cancel()  # which waits until the engine is free
        await asyncio.wait([answer], timeout=None if answer.cancelling() else LOOK_S)
    seconds = time.monotonic() - started_s
    if answer.cancelled():
        return Outcome(True, seconds) if late else None
    error = answer.exception()
    if isinstance(error, Refused):
        return None
    if error is not None:
        logger.info("%s failed on a copy: %s", model.version, type(error).__name__)
    whole = choice.last is not None and choice.last.finish is not None
    return Outcome(
        not whole,
        seconds,
        choice.refusal is not None,
        hash_answer(choice.text, choice.calls) if whole else None,
    )


async def _answer(model: ServedModel, again: Again, choice: Choice) -> None:
    chunks = chunks_of(model.engine, again.request, model.threads)
    async with aclosing(again.read(model, chunks)) as read:
        async for chunk in read:
            choice.add(chunk)
