import csv
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import class_folders

from eke.data import label_database
from eke.data.images import ImageSet
from eke.data.label_events import Batch, Event
from eke.data.label_store import Imported, LabelStore
from eke.data.labels import apply_labels
from eke.data.sources import open_images
from eke.errors import DataError

WRITER = """
import sys
from pathlib import Path
from eke.data.label_events import Event
from eke.data.label_store import LabelStore
path, who, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = LabelStore(path)
for number in range(n):
    store.append([Event(who, f"{who}{number}", "label", "cat", key=f"{who}/{number}")])
    print(number, flush=True)  # the acknowledgment
"""


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "labels.db")


@pytest.fixture
def pets(tmp_path: Path) -> ImageSet:
    return open_images(class_folders(tmp_path / "pets", {"cat": 1, "dog": 1, "unlabeled": 3}))


def label(image: str, name: str, who: str = "ann") -> Event:
    return Event(who, image, "label", name)


def writer(store: LabelStore, who: str, n: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(store.path), who, str(n)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_the_last_answer_that_is_not_undone_counts(store: LabelStore) -> None:
    store.append([label("a", "cat"), label("b", "cat"), label("a", "dog"), label("c", "dog")])
    assert store.current() == {"a": "dog", "b": "cat", "c": "dog"}
    store.append([Event("ann", "a", "undo"), Event("ann", "b", "undo"), Event("ann", "c", "skip")])
    assert store.current() == {"a": "cat"}
    store.append([Event("ann", "a", "undo"), Event("ann", "c", "undo")])
    assert store.current() == {"c": "dog"}, "undo goes back as far as wanted, and takes back a skip too"


def test_undo_takes_back_an_answer_of_the_same_person(store: LabelStore) -> None:
    store.append([label("a", "cat", "ann"), label("a", "dog", "bob"), Event("ann", "a", "undo")])
    assert store.current() == {"a": "dog"}
    store.append([Event("ann", "a", "undo")])
    assert store.current() == {"a": "dog"}, "ann has nothing left to take back"
    assert [each.undoes for each in store.history("a")] == [None, None, 1, None]


def test_what_is_asked_waiting_answered_and_control(store: LabelStore) -> None:
    batch = Batch("b1", "entropy", seed=3, round=1, model="runs/1")
    asks = [Event("eke", name, "ask", batch="b1", control=name == "e") for name in "abcde"]
    assert store.append(asks, batch) == 5
    store.append([label("a", "cat"), Event("ann", "b", "skip"), Event("ann", "c", "unsure"), label("z", "dog")])
    assert store.asked() == set("abcde")
    assert store.waiting() == {"d", "e"}
    assert (store.skipped(), store.unsure(), store.control()) == ({"b"}, {"c"}, {"e"})
    assert store.excluded() == {"a", "b", "c", "z"}
    store.append([Event("eke", "a", "ask", batch="b1"), Event("ann", "b", "undo")])
    assert store.waiting() == {"a", "b", "d", "e"}, "asked again, and undone"
    assert store.excluded() == {"a", "c", "z"}
    assert store.batches() == [batch]


def test_history_keeps_every_field(store: LabelStore) -> None:
    event = Event("ann", "a", "label", "cat; dog", 2, "undecided", 0.5, True, "runs/1", "b", "k", 1200)
    store.append([event, label("b", "cat")], Batch("b", "random"))
    (stored,) = store.history("a")
    assert stored.event == event
    assert stored.event.control is True
    assert stored.id == 1
    assert stored.time.endswith("+00:00")


def test_the_same_key_twice_is_one_event(store: LabelStore) -> None:
    event = label("a", "cat")._replace(key="k")
    assert store.append([event, event]) == 1
    assert store.append([label("a", "dog"), event]) == 1
    assert len(store.history("a")) == 2
    assert store.current() == {"a": "dog"}


def test_a_batch_of_events_is_stored_whole_or_not_at_all(store: LabelStore) -> None:
    wrong = [
        (Event("ann", "b", "lable", "cat"), "Did you mean 'label'"),
        (Event("ann", "b", "label"), "label None"),
        (Event("ann", "b", "skip", "cat"), "label 'cat'"),
        (Event("", "b", "skip"), "needs who and image"),
        (Event("ann", "b", "skip", batch="nine"), "batch 'nine'"),
        (Event("ann", "b", "skip", score=object()), "cannot be used"),  # type: ignore[arg-type]
    ]
    for event, says in wrong:
        with pytest.raises(DataError, match=says):
            store.append([label("a", "cat"), event])
    assert store.current() == {}


def test_events_are_never_changed_or_removed(store: LabelStore) -> None:
    store.append([label("a", "cat")])
    for command in ("UPDATE events SET label = 'dog'", "DELETE FROM events"):
        with sqlite3.connect(store.path) as connection, pytest.raises(sqlite3.IntegrityError, match="never"):
            connection.execute(command)
        connection.close()
    assert store.current() == {"a": "cat"}


def test_exported_labels_are_a_label_file(store: LabelStore, pets: ImageSet, tmp_path: Path) -> None:
    one, two, three = (pets.ids[pets.paths.index(f"unlabeled/00{place}.png")] for place in range(3))
    store.append([label(one, "cat"), label(two, "dog"), Event("ann", three, "skip")])
    assert store.export_labels(tmp_path / "out.csv", several=False) == 2
    found = apply_labels(pets, [tmp_path / "out.csv"])
    assert [found.label_words(row) for row in found.positions([one, two, three])] == ["cat", "dog", None]
    store.append([label(one, "cat; dog"), label(two, ";")])
    store.export_labels(tmp_path / "out.csv", several=True)
    found = apply_labels(pets, [tmp_path / "out.csv"])
    assert [found.label_names(row) for row in found.positions([one, two])] == [("cat", "dog"), ()]


def questions(file: Path, images: ImageSet, **columns: list[str]) -> Path:
    """Write a question file about the first images, as `eke ask` does."""
    n = len(next(iter(columns.values())))
    table = {
        "rank": [str(rank + 1) for rank in range(n)],
        "id": list(images.ids[:n]),
        "path": list(images.paths[:n]),
        "score": [f"{1 / (rank + 1):.6f}" for rank in range(n)],
        **columns,
    }
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([list(table), *zip(*table.values(), strict=True)])
    return file


def test_a_filled_question_file_is_imported(store: LabelStore, pets: ImageSet, tmp_path: Path) -> None:
    extra = {"reason": ["undecided", "", "random"], "control": ["no", "", "yes"], "round": ["2", "2", "2"]}
    file = questions(tmp_path / "ask.csv", pets, label=["cat", "", "dog"], **extra)
    assert store.import_answers(file, pets, "ann") == Imported(2, 0, 1)
    a, b, c = pets.ids[:3]
    assert store.current() == {a: "cat", c: "dog"}
    assert (store.asked(), store.waiting(), store.control()) == ({a, b, c}, {b}, {c})
    asked, answered = store.history(a)
    assert asked.event[:8] == ("ann", a, "ask", None, 2, "undecided", 1.0, False)
    assert answered.event[:4] == ("ann", a, "label", "cat")

    questions(tmp_path / "ask.csv", pets, label=["dog", "cat", ""], **extra)
    assert store.import_answers(file, pets, "ann") == Imported(2, 0, 1), "the same questions, filled in further"
    assert store.import_answers(file, pets, "ann") == Imported(0, 2, 1), "the same file twice changes nothing"
    assert store.current() == {a: "dog", b: "cat", c: "dog"}, "an empty cell takes no label away"
    questions(tmp_path / "ask.csv", pets, label=["cat", "cat", ""], **extra)
    store.import_answers(file, pets, "ann")
    assert store.current()[a] == "cat", "the file has the last word, also where it says what it once said"
    assert [batch.strategy for batch in store.batches()] == ["ask.csv"]
    assert [each.event.action for each in store.history(b)] == ["ask", "label"]


def test_several_labels_are_imported(store: LabelStore, pets: ImageSet, tmp_path: Path) -> None:
    file = questions(tmp_path / "ask.csv", pets, labels=["dog;cat", ";", ""])
    assert store.import_answers(file, pets, "ann") == Imported(2, 0, 1)
    assert store.current() == {pets.ids[0]: "cat; dog", pets.ids[1]: ";"}


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"label": ["cat", "dgo"]}, r"row 2 has the class 'dgo'\. Did you mean 'dog'\?.*empty folder"),
        ({"id": ["7", "7"], "label": ["", ""]}, r"row 1 asks for cat/000\.png with id '7'.*Restore"),
        ({"id": ["7"], "path": ["cat/00.png"], "label": [""]}, r"row 1 .*nearest is 'cat/000\.png'.*remove the row"),
        ({"label": ["cat"], "control": ["maybe"]}, "row 1 has control = 'maybe'"),
        ({"label": ["cat"], "round": ["two"]}, "row 1 has round = 'two'"),
        ({"lable": ["cat"]}, "Did you mean 'lable'"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_stored(
    store: LabelStore, pets: ImageSet, tmp_path: Path, columns: dict[str, list[str]], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        store.import_answers(questions(tmp_path / "ask.csv", pets, **columns), pets, "ann")
    assert store.asked() == set()
    assert store.batches() == []


def test_an_image_with_two_rows_is_named(store: LabelStore, pets: ImageSet, tmp_path: Path) -> None:
    file = questions(tmp_path / "ask.csv", pets, id=[pets.ids[0]] * 2, label=["cat", "dog"])
    with pytest.raises(DataError, match="row 2 names image .* as row 1 does"):
        store.import_answers(file, pets, "ann")
    with pytest.raises(DataError, match="Cannot read the answers"):
        store.import_answers(tmp_path / "none.csv", pets, "ann")


def test_a_kill_loses_nothing_that_was_acknowledged(store: LabelStore) -> None:
    for who in ("k", "m"):
        process = writer(store, who, 100_000)
        assert process.stdout is not None
        for line in process.stdout:
            if line == "15\n":
                process.send_signal(signal.SIGKILL)
                break
        acknowledged = 16 + len(process.stdout.readlines())
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        kept = {image for image in store.current() if image.startswith(who)}
        assert kept >= {f"{who}{number}" for number in range(acknowledged)}
        assert len(kept) <= acknowledged + 1, "at most one was stored and not yet acknowledged"
        assert store.append([label("after", "dog")]) == 1


def test_two_processes_that_begin_and_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "labels.db"
    command = [sys.executable, "-c", WRITER, str(path)]
    processes = [
        subprocess.Popen([*command, who, "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for who in "pq"
    ]
    for process in processes:
        assert process.communicate()[1] == b""
        assert process.returncode == 0
    assert LabelStore(path).current() == {f"{who}{number}": "cat" for who in "pq" for number in range(60)}


def test_the_log_is_written_ahead_and_flushed(store: LabelStore) -> None:
    with label_database.opened(store.path) as connection:
        values = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    assert values == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 30_000, "foreign_keys": 1}


def test_a_file_system_without_shared_memory_gets_the_older_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def without_shared_memory(path: Path, **options: object) -> sqlite3.Connection:
        return connect(f"file:{path}?vfs=unix-dotfile", uri=True, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(label_database.sqlite3, "connect", without_shared_memory)
    with pytest.warns(UserWarning, match="no write-ahead log"):
        store = LabelStore(tmp_path / "labels.db")
    store.append([label("a", "cat")])
    assert LabelStore(store.path).current() == {"a": "cat"}


def test_files_that_are_no_label_store(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("id,label\n" * 100)
    with pytest.raises(DataError, match=r"text\.db cannot be used as a label store: file is not a database"):
        LabelStore(text)
    foreign = sqlite3.connect(tmp_path / "foreign.db")
    foreign.execute("CREATE TABLE songs (name TEXT)")
    with pytest.raises(DataError, match="database of another program"):
        LabelStore(tmp_path / "foreign.db")
    foreign.execute("CREATE TABLE meta AS SELECT 'songs' AS name, '1' AS value")
    foreign.close()
    with pytest.raises(DataError, match="database of another program"):
        LabelStore(tmp_path / "foreign.db")
    with pytest.raises(DataError, match="unable to open"):
        LabelStore(tmp_path)
    with pytest.raises(DataError, match=r"Cannot begin a label store in .*text\.db"):
        LabelStore(text / "labels.db")


def test_a_store_of_a_newer_version_is_refused(store: LabelStore) -> None:
    newer = sqlite3.connect(store.path)
    newer.execute("UPDATE meta SET value = '2'")
    newer.commit()
    newer.close()
    with pytest.raises(DataError, match=r"newer eke \(schema 2; this one knows 1\)\. Update eke"):
        LabelStore(store.path)
