"""Stores every finished summary on disk before it is used, so no summary is paid for twice."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass, replace
from pathlib import Path

_PATIENCE = 60  # seconds that a process waits for another's write


@dataclass(frozen=True)
class Draw:
    """One answer of a summarizer."""

    text: str
    finished: bool = True  # False: cut off at max_tokens
    prompt_tokens: int = 0  # as the server counts them; 0 for a function
    completion_tokens: int = 0


class Journal:
    """Draws by request key, in SQLite. A killed process loses no draw for which `put` has returned."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.database = open_database(path)
        self.database.execute(
            "CREATE TABLE IF NOT EXISTS draws (key TEXT PRIMARY KEY, text TEXT NOT NULL, finished INTEGER NOT NULL,"
            " prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL) WITHOUT ROWID"
        )

    def get(self, key: str) -> Draw | None:
        row = self.database.execute(
            "SELECT text, finished, prompt_tokens, completion_tokens FROM draws WHERE key = ?", (key,)
        ).fetchone()
        return Draw(row[0], bool(row[1]), row[2], row[3]) if row else None

    def put(self, key: str, draw: Draw) -> Draw:
        """Stores a draw, unless the key has one. Returns the stored draw, the same as `get`."""
        draw = replace(draw, text=draw.text.encode("utf-8", "replace").decode())  # removes lone surrogates
        self.database.execute(
            "INSERT INTO draws VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
            (key, draw.text, draw.finished, draw.prompt_tokens, draw.completion_tokens),
        )
        return self.get(key) or draw

    def close(self) -> None:
        self.database.close()


def open_database(path: Path) -> sqlite3.Connection:
    """Opens an autocommit connection, usable from any one thread at a time."""
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_PATIENCE)
    _write_ahead(database)
    database.execute("PRAGMA synchronous = NORMAL")  # a kill loses nothing; a power loss may lose the last commits
    return database


def _write_ahead(database: sqlite3.Connection) -> None:
    """Turns on the write-ahead log. If another process does so too, SQLite refuses at once, regardless of `timeout`,
    to avoid a deadlock, so it is retried.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
