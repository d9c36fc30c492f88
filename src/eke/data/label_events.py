"""What a label store keeps: events, which are never changed, and the batches in which images were asked for."""

from typing import NamedTuple

from eke.errors import DataError, did_you_mean

ANSWERS = ("label", "skip", "unsure")
"""What a person can say of an image; the last answer that was not undone counts."""
ACTIONS = ("ask", *ANSWERS, "undo")


class Event(NamedTuple):
    """One thing that was done to one image, by a person or a strategy."""

    who: str
    """A person, or for action "ask" whoever ran the strategy."""
    image: str
    """Its id, by content."""
    action: str
    """One of ACTIONS. "undo" takes back the last answer that the same person gave of the image."""
    label: str | None = None
    """Of action "label": a class, or several as `spell_labels` joins them."""
    round: int | None = None
    """Round of asking and training."""
    reason: str = ""
    """Why the image was asked for, in words."""
    score: float | None = None
    """What the strategy gave the image."""
    control: bool = False
    """Whether the image was drawn at random, to measure what the labels bring."""
    model: str | None = None
    """Run path or hash of the model that asked, or whose prediction was shown."""
    batch: str | None = None
    """Id of the `Batch` in which the image was asked for."""
    key: str | None = None
    """Name that the sender gave the event: an event whose key is there already is not stored again."""
    spent_ms: int | None = None
    """Milliseconds that the person looked at the image."""


class StoredEvent(NamedTuple):
    """An event as the store has it."""

    id: int
    """Its place in the order of events, from 1."""
    time: str
    """When it was stored: UTC, ISO 8601 with milliseconds."""
    undoes: int | None
    """Of action "undo": id of the answer that it took back; None where there was none."""
    event: Event


class Batch(NamedTuple):
    """Where a set of questions comes from."""

    id: str
    strategy: str
    """Name of the strategy, or of the file that the questions were read from."""
    seed: int | None = None
    round: int | None = None
    model: str | None = None
    """Run path or hash of the model that chose."""


def check_event(event: Event) -> None:
    """Refuse an event that says nothing, or two things.

    Raises:
        DataError: the action is unknown, who or image is empty, or a label is missing or out of place.
    """
    if event.action not in ACTIONS:
        raise DataError(
            f"Unknown action {event.action!r} of image {event.image}. {did_you_mean(event.action, ACTIONS)}"
        )
    if not event.who or not event.image:
        raise DataError(f"An event needs who and image; got {event.who!r} and {event.image!r}.")
    if bool(event.label) != (event.action == "label"):
        raise DataError(
            f"Action {event.action!r} of image {event.image} came with the label {event.label!r}: "
            "a label goes with the action 'label', and with no other."
        )
