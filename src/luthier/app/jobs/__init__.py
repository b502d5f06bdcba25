"""The queue of a server: jobs of all projects, each seen by its own alone.

verbs      what a caller may ask: submit, get, list, ask (run, pause, cancel), events
kinds      what a job of a kind does, in a process of its own (plugin table, kind `job`)
"""

from __future__ import annotations

from .verbs import Jobs

__all__ = ["Jobs"]
