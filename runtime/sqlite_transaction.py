"""A transaction of SQLite: all of it is there, or nothing."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator


@contextlib.contextmanager
def transaction(base: sqlite3.Connection) -> Iterator[None]:
    """Begin at once, so that nobody writes in between; commit, or undo what was done."""
    base.execute("BEGIN IMMEDIATE")
    try:
        yield
        base.execute("COMMIT")
    except BaseException:
        if base.in_transaction:
            base.execute("ROLLBACK")
        raise
