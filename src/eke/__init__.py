"""Make a few labels go far: train, look, ask, label, report."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eke.api import Run, fit, load
    from eke.estimator import EkeClassifier, accuracy_scorer

__version__ = "0.1.0"

__all__ = ["EkeClassifier", "Run", "accuracy_scorer", "fit", "load"]

_HOME = {"EkeClassifier": "estimator", "accuracy_scorer": "estimator"}


def __getattr__(name: str) -> Any:
    """Import public names when they are used, so that `import eke` does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module 'eke' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"eke.{_HOME.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
