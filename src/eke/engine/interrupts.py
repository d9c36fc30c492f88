"""Ctrl-C between steps: the state is whole then, and can be saved."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noticed_interrupts() -> Iterator[Callable[[], bool]]:
    """Note the first interrupt instead of raising it; a second one raises KeyboardInterrupt as usual.

    Yields:
        Tells whether an interrupt came. Off the main thread, where signals cannot be handled, always False.
    """
    came = False

    def notice(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, notice)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)
