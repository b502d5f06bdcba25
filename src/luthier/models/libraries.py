"""torch, transformers and peft are most of a command's start. They are loaded here once, with the collector paused.

What they build on import stays for good, and looking through it again and again is a fifth of the wait (4.1 → 3.3 s on
two cores, docs/log.md). Light at import.
"""

from __future__ import annotations

import gc
import sys


def load_libraries() -> None:
    """Import them, and keep the collector away from what they made from now on. Again: does nothing."""
    if "peft" in sys.modules:
        return
    running = gc.isenabled()
    gc.disable()
    try:
        import peft  # noqa: F401
        import transformers.modeling_utils  # noqa: F401

        gc.freeze()
    finally:
        if running:
            gc.enable()
