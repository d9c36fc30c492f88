"""Writing files so that nothing is lost: the old content stays valid until the new one is whole."""

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eke.errors import EkeError


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk and rename it over `path`.

    Raises:
        EkeError: the disk is full or the folder cannot be written; `path` is as it was before.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise EkeError(_refusal(path, error)) from error
    except RuntimeError as error:  # torch and safetensors wrap the system's error in their own
        raise EkeError(f"Could not write {path}: {error}. The previous file is unchanged.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _refusal(path: Path, error: OSError) -> str:
    remedy = "Free some space" if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else "Check the folder"
    unchanged = " The previous file is unchanged." if path.exists() else ""
    return f"Could not write {path}: {error.strerror}.{unchanged} {remedy} and run again."


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; NaN and infinities are refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; others wait. The system releases it when this process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Take a lock file if it is free, and say whether it was. The system releases it however this process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
