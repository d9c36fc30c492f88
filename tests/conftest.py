"""Fixtures for every test: a fixed seed, one thread, and the folder of real data where there is one.

One thread, because the tensors are tiny and the tests themselves run side by side.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes that tests start inherit it

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets (EKE_SHARED_DATA, or `shared/data` beside the checkout); skips without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EKE_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data not found in {folder} (set EKE_SHARED_DATA to run this test)")
    return folder


@pytest.fixture
def stopped_at_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """Make a context in which a run ends right after its first checkpoint, as a kill would end it."""
    import eke.tasks.train as train_task

    class StoppedError(Exception):
        pass

    save = train_task.save_checkpoint

    def save_and_stop(*args: Any, **named: Any) -> None:
        save(*args, **named)
        raise StoppedError

    @contextmanager
    def stopped() -> Iterator[None]:
        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            patch.setattr(train_task, "save_checkpoint", save_and_stop)
            yield

    return stopped
