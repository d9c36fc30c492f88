"""The label store: answers of persons as events in one SQLite file, which are added and never changed.

An answer that `append` has returned from is on the disk: it survives a kill and a loss of power (write-ahead log,
synchronous=FULL). Any number of processes and threads may read and write: each method opens the file, does one short
transaction and closes it, and waits up to 30 s for another writer.
"""

import csv
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from eke.data.images import ImageSet
from eke.data.label_answers import read_answers
from eke.data.label_database import begin, opened
from eke.data.label_events import Batch, Event, StoredEvent, check_event
from eke.errors import DataError
from eke.files import write_atomic

_EVENT = ", ".join(Event._fields)
_BATCH = ", ".join(Batch._fields)


class Imported(NamedTuple):
    """What a filled question file brought."""

    n_new: int
    """Answers that were stored."""
    n_known: int
    """Answers that the store had already."""
    n_empty: int
    """Questions that are not answered in the file."""


class LabelStore:
    """Answers about images, kept by image id in one file."""

    def __init__(self, path: Path) -> None:
        """Open a store, or begin one where there is no file.

        Raises:
            DataError: the file is no label store, or one of a newer eke.
        """
        self.path = path
        begin(path)

    def append(self, events: Sequence[Event], batch: Batch | None = None) -> int:
        """Store events, all of them or none; when this returns they are safe.

        Args:
            events: in their order. One whose key is there already is left out.
            batch: comes with its questions, which name it by its id; one that is there already stays as it is.

        Returns:
            How many events are new.

        Raises:
            DataError: an event is not possible or names an unknown batch, or the file cannot be written.
        """
        for event in events:
            check_event(event)
        with opened(self.path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            if batch is not None:
                places = ", ".join("?" * len(batch))
                connection.execute(f"INSERT INTO batches ({_BATCH}) VALUES ({places}) ON CONFLICT DO NOTHING", batch)
            known = {row[0] for row in connection.execute("SELECT id FROM batches")}
            for unknown in {event.batch for event in events} - known - {None}:
                raise DataError(f"An event names the batch {unknown!r}, which {self.path} has not. Append it too.")
            n_new = sum(_insert(connection, event) for event in events)
            connection.execute("COMMIT")
        return n_new

    def import_answers(self, file: Path, images: ImageSet, who: str) -> Imported:
        """Take the answers of a question file that a person has filled in; afterwards the store agrees with it.

        Its questions become a batch, once, however often the file is imported. An empty cell is no answer, and takes
        none away.

        Args:
            file: as `eke ask` writes it; see `read_answers`.
            images: the images that it may name, and the classes.
            who: the person who answered.

        Raises:
            DataError: the file cannot be read, or a row names an unknown image or class; nothing is stored.
        """
        batch, questions, answers = read_answers(file, images, who)
        current = self.current()
        new = [answer for answer in answers if current.get(answer.image) != answer.label]
        self.append([*questions, *new], batch)
        return Imported(len(new), len(answers) - len(new), len(questions) - len(answers))

    def export_labels(self, file: Path, *, several: bool) -> int:
        """Write current labels as a CSV that `--labels` reads; returns how many.

        Args:
            file: is replaced.
            several: whether an image may have several labels: the columns are id,labels instead of id,label.
        """
        labels = sorted(self.current().items())

        def write(temporary: Path) -> None:
            with temporary.open("w", newline="", encoding="utf-8") as table:
                csv.writer(table).writerows([("id", "labels" if several else "label"), *labels])

        write_atomic(file, write)
        return len(labels)

    def current(self) -> dict[str, str]:
        """Return image id -> label, of images whose last answer that was not undone is a label."""
        return dict(self._rows("SELECT image, label FROM answers WHERE action = 'label'"))

    def asked(self) -> set[str]:
        """Return the ids of all images that were ever asked for."""
        return self._ids("SELECT image FROM questions")

    def waiting(self) -> set[str]:
        """Return the ids of images that were asked for and have no answer since."""
        return self._ids(
            "SELECT questions.image FROM questions LEFT JOIN answers ON answers.image = questions.image "
            "WHERE answers.id IS NULL OR answers.id < questions.id"
        )

    def skipped(self) -> set[str]:
        """Return the ids of images whose last answer is "skip"."""
        return self._ids("SELECT image FROM answers WHERE action = 'skip'")

    def unsure(self) -> set[str]:
        """Return the ids of images whose last answer is "unsure"."""
        return self._ids("SELECT image FROM answers WHERE action = 'unsure'")

    def control(self) -> set[str]:
        """Return the ids of images that were drawn at random, to measure what labels bring."""
        return self._ids("SELECT image FROM events WHERE control")

    def excluded(self) -> set[str]:
        """Return the ids of images with an answer of any kind: no strategy need ask for them again."""
        return self._ids("SELECT image FROM answers")

    def history(self, image: str) -> list[StoredEvent]:
        """Return all events of one image, in their order."""
        rows = self._rows(f"SELECT id, time, undoes, {_EVENT} FROM events WHERE image = ? ORDER BY id", image)
        stored = [StoredEvent(row[0], row[1], row[2], Event(*row[3:])) for row in rows]
        return [each._replace(event=each.event._replace(control=bool(each.event.control))) for each in stored]

    def batches(self) -> list[Batch]:
        """Return the batches, in their order."""
        return [Batch(*row) for row in self._rows(f"SELECT {_BATCH} FROM batches ORDER BY rowid")]

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with opened(self.path) as connection:
            return connection.execute(query, values).fetchall()

    def _ids(self, query: str) -> set[str]:
        return {row[0] for row in self._rows(query)}


def _insert(connection: sqlite3.Connection, event: Event) -> int:
    """Insert one event, unless its key is there; returns how many were inserted."""
    undoes = None
    if event.action == "undo":
        last = "SELECT max(id) FROM standing WHERE image = ? AND who = ?"
        undoes = connection.execute(last, (event.image, event.who)).fetchone()[0]
    values = (datetime.now(UTC).isoformat(timespec="milliseconds"), undoes, *event)
    places = ", ".join("?" * len(values))
    command = f"INSERT INTO events (time, undoes, {_EVENT}) VALUES ({places}) ON CONFLICT (key) DO NOTHING"
    return connection.execute(command, values).rowcount
