"""What judges have replied, kept between runs in one SQLite file, with a ledger of every call.

The reply is kept, not the grade, and read again each time. A row carries a digest of itself, and a row that does not
match is not believed. The cache is a convenience: where it is locked, damaged
or cannot be written, it says so once, steps aside, and the run goes on without it.

Write-ahead logging lets several processes share the file; each reply is committed as it comes, with its cost, so a
killed run has lost nothing but the calls that were under way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from closedbook.harness.errors import one_line

log = logging.getLogger(__name__)

DAMAGE = (sqlite3.Error, UnicodeError, OverflowError)  # what SQLite's binding raises over a bad file or value

SCHEMA = 1
_TABLES = """
CREATE TABLE replies (key BLOB PRIMARY KEY, reply TEXT NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE calls (
    time REAL NOT NULL, model TEXT NOT NULL, server TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, dollars REAL NOT NULL
);
"""
_ENTER = "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?)"
_KEEP = "INSERT OR IGNORE INTO replies VALUES (?, ?, ?)"
_FIND = "SELECT reply, digest FROM replies WHERE key = ?"
_FORGET = "DELETE FROM replies WHERE key = ?"


class Call(NamedTuple):
    """One call that was answered, whether the reply could be read or not."""

    model: str
    server: str
    prompt_tokens: int
    completion_tokens: int
    dollars: float


def reply_key(identity: Mapping[str, str], messages: Sequence[Mapping[str, str]]) -> bytes:
    """The key of a reply: a digest of all that it depends on, who is asked, how, and what."""
    return hashlib.sha256(json.dumps([sorted(identity.items()), messages]).encode()).digest()


def _row_digest(key: bytes, reply: str) -> bytes:
    return hashlib.sha256(key + reply.encode()).digest()[:8]


def _can_be_kept(reply: str) -> bool:
    """Whether a reply is text through and through: half a surrogate pair cannot be written."""
    try:
        return bool(reply.encode())
    except UnicodeEncodeError:
        return False


class ReplyCache:
    """Replies by key, and the ledger of calls.

    Args:
        path: The file; None keeps nothing beyond this object.
        patience: Seconds to wait for another process that writes.
    """

    def __init__(self, path: Path | None, patience: float = 5.0) -> None:
        self.path = path
        self._patience = patience
        self._database = self._open()

    def get(self, key: bytes) -> str | None:
        """The reply under a key; None where there is none that can be believed."""
        try:
            row = self._database.execute(_FIND, (key,)).fetchone()
        except DAMAGE as error:
            self._step_aside(error)
            return None
        if row is None:
            return None
        reply, digest = row
        if isinstance(reply, str) and digest == _row_digest(key, reply):
            return reply
        log.warning("judge cache %s: a damaged row is not used; the call is made again", self.path)
        self._write((_FORGET, (key,)))
        return None

    def add(self, call: Call, key: bytes | None = None, reply: str = "") -> None:
        """Enter a call into the ledger and, under a key, keep its reply, both or neither; a key's first reply stays."""
        entries: list[tuple[str, tuple[object, ...]]] = [(_ENTER, (time.time(), *call))]
        if key is not None and _can_be_kept(reply):
            entries.append((_KEEP, (key, reply, _row_digest(key, reply))))
        self._write(*entries)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _write(self, *entries: tuple[str, tuple[object, ...]]) -> None:
        """Write all entries in one transaction."""
        try:
            self._transact(entries)
        except DAMAGE as error:
            self._step_aside(error)
            self._transact(entries)

    def _transact(self, entries: Iterable[tuple[str, tuple[object, ...]]]) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in entries:
                self._database.execute(statement, values)
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _open(self) -> sqlite3.Connection:
        try:
            if self.path:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            return self._connect_patiently()
        except (*DAMAGE, OSError) as error:
            return self._in_memory(error)

    def _connect_patiently(self) -> sqlite3.Connection:
        """Connect, again and again while another process prepares the file: SQLite does not wait for that itself."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return _connect(self.path, self._patience)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _step_aside(self, error: Exception) -> None:
        """Go on with a cache in memory, so that one run still judges equal triples once."""
        with suppress(sqlite3.Error):
            self._database.close()
        self._database = self._in_memory(error)

    def _in_memory(self, error: Exception) -> sqlite3.Connection:
        if self.path is None:
            raise error
        self._warn(error)
        self.path = None
        return _connect(None, self._patience)

    def _warn(self, error: Exception) -> None:
        log.warning(
            "judge cache %s cannot be used (%s); judging goes on without it; remove the file if it is damaged, or set "
            "CLOSEDBOOK_JUDGE_CACHE to another one",
            self.path,
            one_line(error),
        )


def _connect(path: Path | None, patience: float) -> sqlite3.Connection:
    """A database with our tables.

    Raises:
        sqlite3.Error: The file is no database, is of another version, or is locked.
    """
    database = sqlite3.connect(path or ":memory:", timeout=patience, isolation_level=None, check_same_thread=False)
    try:
        database.execute("BEGIN IMMEDIATE")  # two processes may open a new file at once
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and not tables:
            for statement in _TABLES.split(";\n"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {SCHEMA}")
        elif version != SCHEMA:
            raise sqlite3.DatabaseError(f"it is no judge cache of version {SCHEMA}")
        database.execute("COMMIT")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA wal_autocheckpoint = 4000")  # pages; each checkpoint holds everything up
    except BaseException:
        database.close()
        raise
    return database
