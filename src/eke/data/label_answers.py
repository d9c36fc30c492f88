"""Reading a question file of `eke ask` that a person has filled in: a wrong row is named, nothing is guessed."""

from collections.abc import Mapping
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from typing import Any

from eke.data.images import ImageSet, Word, names_in
from eke.data.label_events import Batch, Event
from eke.data.rows import as_word, as_words, spell_labels
from eke.data.tables import column_of, read_table
from eke.errors import DataError, did_you_mean

_YES_NO = {"": False, "0": False, "no": False, "false": False, "1": True, "yes": True, "true": True}


def read_answers(file: Path, images: ImageSet, who: str) -> tuple[Batch, list[Event], list[Event]]:
    """Read questions and answers.

    Args:
        file: a table with the columns id and label or labels, as `--labels` reads them; path, score, reason, control
            (yes or no) and round are kept where they are there. An empty label is a question without an answer.
        images: the images that it may name, and the classes; any class where there are none yet.
        who: the person who answered.

    Returns:
        The batch, whose id depends on the questions alone; an "ask" event for each row, with a key, so that it is
        stored once; a "label" event for each answer.

    Raises:
        DataError: the file cannot be read, or a row names an unknown image or class or the same image as another.
    """
    try:
        table = read_table(file.read_bytes(), file.name)
    except OSError as error:
        raise DataError(f"Cannot read the answers in {file}: {error.strerror}. Check the path.") from None
    ids = [as_word(cell) for cell in column_of(table, ("id",), str(file))]
    cells = column_of(table, ("labels",) if "labels" in table else ("label",), str(file))
    digest = blake2b("\n".join(ids).encode(), digest_size=8)
    digest.update("\n".join(map(str, table.get("score", ()))).encode())
    batch = Batch(digest.hexdigest(), strategy=file.name)

    known, seen = set(images.ids), dict[str, int]()
    questions: list[Event] = []
    answers: list[Event] = []
    for number, (image, cell) in enumerate(zip(ids, cells, strict=True), 1):
        where = f"{file}, row {number}"
        row = {column: values[number - 1] for column, values in table.items()}
        if image not in known:
            raise DataError(f"{where} {_unknown_image(image, as_word(row.get('path')), images)}")
        if image in seen:
            raise DataError(f"{where} names image {image}, as row {seen[image]} does. Keep one of the two rows.")
        seen[image] = number
        question = _question(row, image, batch.id, where)._replace(who=who)
        questions.append(question)
        word: Word = as_words(cell) if "labels" in table else as_word(cell)
        _check_classes(word, images, where)
        if word != "":
            label = spell_labels(word) if isinstance(word, tuple) else word
            answers.append(question._replace(action="label", label=label, key=None))
    return batch, questions, answers


def _question(row: Mapping[str, Any], image: str, batch: str, where: str) -> Event:
    control, round_, score = (as_word(row.get(column)) for column in ("control", "round", "score"))
    if control.lower() not in _YES_NO:
        raise DataError(f"{where} has control = {control!r}. Write yes or no.")
    try:
        return Event(
            who="",
            image=image,
            action="ask",
            round=int(round_) if round_ else None,
            reason=as_word(row.get("reason")),
            score=float(score) if score else None,
            control=_YES_NO[control.lower()],
            batch=batch,
            key=f"{batch}/{image}",
        )
    except ValueError:
        raise DataError(f"{where} has round = {round_!r} and score = {score!r}. Both must be numbers.") from None


def _check_classes(word: Word, images: ImageSet, where: str) -> None:
    for name in names_in(word):
        if images.classes and name not in images.classes:
            raise DataError(
                f"{where} has the class {name!r}. {did_you_mean(name, images.classes)} A new class must first be in "
                f"{images.source}: by an empty folder, or a row of its labels.csv."
            )


def _unknown_image(image: str, path: str, images: ImageSet) -> str:
    """Say which image a row may mean, and what to do."""
    if path in images.paths:
        now = images.ids[images.paths.index(path)]
        return (
            f"asks for {path} with id {image!r}, but that image has the id {now} now: its file was changed. Restore "
            "the file, or correct the id if the label still holds."
        )
    names = images.paths if path else images.ids
    near = get_close_matches(path or image, names, n=1)
    hint = f"The nearest is {near[0]!r}. " if near else ""
    return (
        f"names an image that is not in {images.source}: id {image!r}, path {path!r}. {hint}Name the source that the "
        "questions were asked of, or remove the row."
    )
