"""Pixel caches of these tests stay out of the user's folder."""

from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    patch = pytest.MonkeyPatch()
    patch.setenv("EKE_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()
