"""The SQLite file behind the label store: its tables, how it is begun, and how it is opened."""

import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from eke.data.label_events import ACTIONS, ANSWERS
from eke.errors import DataError
from eke.files import locked

SCHEMA_VERSION = 1
WAIT_S = 30.0
"""How long to wait for another writer."""

_MARK = "eke label store"
# max(id) with GROUP BY makes SQLite take the other columns from the row of the largest id
_SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO meta VALUES ('{_MARK}', '{SCHEMA_VERSION}');
CREATE TABLE batches (id TEXT PRIMARY KEY, strategy TEXT NOT NULL, seed INTEGER, round INTEGER, model TEXT);
CREATE TABLE events (
    id INTEGER PRIMARY KEY, time TEXT NOT NULL, who TEXT NOT NULL, image TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN {ACTIONS}), label TEXT, round INTEGER, reason TEXT NOT NULL, score REAL,
    control INTEGER NOT NULL, model TEXT, batch TEXT REFERENCES batches (id), key TEXT UNIQUE, spent_ms INTEGER,
    undoes INTEGER UNIQUE REFERENCES events (id)
);
CREATE INDEX events_of_image ON events (image, id);
CREATE TRIGGER kept BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER kept_too BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never removed'); END;
CREATE VIEW standing AS SELECT * FROM events WHERE action IN {ANSWERS}
    AND NOT EXISTS (SELECT 1 FROM events AS later WHERE later.undoes = events.id);
CREATE VIEW answers AS SELECT max(id) AS id, image, action, label FROM standing GROUP BY image;
CREATE VIEW questions AS SELECT max(id) AS id, image FROM events WHERE action = 'ask' GROUP BY image;
"""


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file, and close it; what is committed in between is on the disk.

    Raises:
        DataError: SQLite refuses the file or a command.
    """
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            yield connection
    except sqlite3.Error as error:
        raise DataError(
            f"{path} cannot be used as a label store: {error}. Nothing was stored. Check the file and the free space, "
            "or name another file."
        ) from error


def begin(path: Path) -> None:
    """Make the tables where there are none, and check that the file is a label store that this eke can read.

    Raises:
        DataError: it is none, or one of a newer eke.
    """
    try:
        with locked(path.with_name(f".{path.name}.lock")), opened(path) as connection:  # two may begin it at once
            if not _tables(connection):
                _choose_log(connection, path)
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            found = "meta" in _tables(connection) and connection.execute("SELECT * FROM meta").fetchone()
    except OSError as error:
        raise DataError(f"Cannot begin a label store in {path.parent}: {error.strerror}. Check the folder.") from None
    if not found or found[0] != _MARK:
        raise DataError(f"{path} is a database of another program, not a label store. Name another file.")
    if int(found[1]) > SCHEMA_VERSION:
        raise DataError(
            f"{path} was written by a newer eke (schema {found[1]}; this one knows {SCHEMA_VERSION}). Update eke."
        )


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _choose_log(connection: sqlite3.Connection, path: Path) -> None:
    """Choose the write-ahead log; a file system without shared memory refuses it, by its answer or by an error."""
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    except sqlite3.OperationalError as error:
        mode = str(error)
    if mode != "wal":
        connection.execute("PRAGMA journal_mode = DELETE")
        warnings.warn(
            f"The file system of {path} has no write-ahead log ({mode}): answers are as safe, but writing and reading "
            "wait for each other. A local disk is better.",
            stacklevel=4,
        )
