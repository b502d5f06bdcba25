"""A piece of work that is done again and again beside something else, for as long as a block lasts; and one of many, which keeps none of
the others from being done.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from luthier.core.errors import LuthierError

logger = logging.getLogger("luthier.site")


def safely(what: str, work: Callable[[], object], level: int = logging.WARNING) -> bool:
    """Whether it was done. What goes wrong is logged, with `what` before it, and raised to nobody."""
    try:
        work()
    except (LuthierError, OSError) as error:  # the records may be away for a while
        logger.log(level, "%s: %s", what, error)
    except Exception:  # a defect must not end it for a server that goes on
        logger.exception("%s", what)
    else:
        return True
    return False


@contextmanager
def repeating(name: str, work: Callable[[], int], every_s: float, first_s: float = 0.0) -> Iterator[None]:
    """In a thread called `name`. `work` says how much it has done: after something it is called again at once, after nothing in `every_s`.
    What goes wrong is logged and ends nothing. The block's end waits for the call that is under way."""
    over = threading.Event()

    def run() -> None:
        wait_s = first_s
        while not over.wait(wait_s):
            done: list[int] = []
            safely(name, lambda: done.append(work()))  # noqa: B023  called at once
            wait_s = 0.0 if any(done) else every_s

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
