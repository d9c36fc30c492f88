"""Make a few labels go far: train, look, ask, label, report."""

from typing import TYPE_CHECKING, Any

from eke.version import __version__

if TYPE_CHECKING:
    from eke.api import Run, fit, load, pretrain
    from eke.estimator import EkeClassifier, accuracy_scorer

__all__ = ["EkeClassifier", "Run", "__version__", "accuracy_scorer", "fit", "load", "pretrain"]

_HOME = {"EkeClassifier": "estimator", "accuracy_scorer": "estimator"}


def __getattr__(name: str) -> Any:
    """Import public names when they are used, so that `import eke` does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module 'eke' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"eke.{_HOME.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return __all__
