"""The only code that persists. Small rooms around one promise: a crash at any moment leaves a readable store.

    blobs      bytes named by their SHA-256, in a folder or at an fsspec URL
    database   tables on SQLite (default) or PostgreSQL, migrated by Alembic
    catalog    artifacts, their parents, and names@versions that point at digests
    ledger     append-only events
    tombstones records that are to be forgotten
    rollouts   which version of a name answers, step by step

    store = Store.open(Path("~/.luthier").expanduser())
    store.catalog.get("ticket-router@3")

The order of a commit: blobs are written under temporary names, fsynced and renamed; then one transaction makes
the artifact known. What dies in between leaves at most bytes that nothing points at.
"""

from __future__ import annotations

from .store import Store

__all__ = ["Store"]
