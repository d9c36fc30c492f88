"""The one family of errors. Each message says what was wrong, the value that was seen, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class EkeError(Exception):
    """Any error that eke raises on purpose. The command line prints its message and exits with `exit_code`."""

    exit_code = 1


class ConfigError(EkeError):
    """An option, a command or a combination of them that cannot be carried out."""

    exit_code = 2


class DataError(EkeError):
    """Images, labels or splits that cannot be used as they are."""

    exit_code = 3


class CheckpointError(EkeError):
    """A run folder, checkpoint or model file that is missing, damaged, foreign or unsafe."""

    exit_code = 4


class TrainingError(EkeError):
    """Training that cannot go on: a loss that is not finite, a step that no time is left for."""

    exit_code = 5


class InterruptedRunError(EkeError):
    """Ctrl-C during training; the run is saved and can go on."""

    exit_code = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Say which of the `known` words is nearest to `word`, or list them where none is near.

    Example:
        >>> did_you_mean("fixmach", ["fixmatch", "uda"])
        "Did you mean 'fixmatch'?"
        >>> did_you_mean("zebra", ["fixmatch", "uda"])
        'Known: fixmatch, uda.'
    """
    known = list(known)
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(known))}."


def first_line(error: BaseException) -> str:
    """Return what another library's error says, without its pages of advice."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
