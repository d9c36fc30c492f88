"""A small real run on scikit-learn's digits, trained once for all tests that only look at it."""

from pathlib import Path
from typing import Any

import pytest

from eke.tasks.fit import fit
from eke.tasks.options import FitOptions, resolve


def digit_options(method: str = "fixmatch", assignments: tuple[str, ...] = (), **flags: Any) -> FitOptions:
    """A run of a few steps on 40 + 20 labels of digits; `flags` replace its values."""
    values = {
        "source": "digits",
        "steps": 12,
        "data": {"labels_per_class": 6, "val_rate": 0.34, "holdout_rate": 0.2},
        "model": {"name": "small"},
        "batch": {"labeled": 8, "mu": 2},
        "checkpoint": {"every_steps": 5},
        "evaluate": {"log_every_steps": 3, "every_steps": 6},
        **flags,
    }
    return resolve(method, values, assignments)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Keep pixel caches of tests out of the user's folder."""
    patch = pytest.MonkeyPatch()
    patch.setenv("EKE_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "fixmatch"
    fit(digit_options(), run)
    return run
