"""Shared option values that several papers train with; a method's `recipe` names one of them.

The papers' 2^20 steps are not among them: how long a run may take is the user's choice.
"""

from collections.abc import Mapping
from typing import Any

CIFAR_SGD: Mapping[str, Any] = {
    "batch": {"labeled": 64, "mu": 7},
    "optim": {
        "name": "sgd",
        "lr": 0.03,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "schedule": "cosine-7/16",
        "warmup_steps": 0,
        "ema_decay": 0.999,
    },
}
"""FixMatch (arXiv:2001.07685, section 4 and appendix B) for CIFAR-10; its successors keep it."""

CIFAR_ADAM: Mapping[str, Any] = {
    "batch": {"labeled": 64, "mu": 1},
    "optim": {
        "name": "adamw",
        "lr": 0.002,
        "momentum": 0.9,
        "weight_decay": 0.02,
        "schedule": "constant",
        "warmup_steps": 0,
        "ema_decay": 0.999,
    },
}
"""MixMatch (arXiv:1905.02249, section 4.1) and its authors' baselines (google-research/mixmatch)."""

PASCAL_ADAM: Mapping[str, Any] = {
    "batch": {"labeled": 4, "mu": 1},
    "optim": {
        "name": "adamw",
        "lr": 1e-3,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_steps": 0,
        "ema_decay": 0.0,
    },
}
"""Harmonizing Attention, section 4.2, on PASCAL VOC: Adam, which is adamw without decay."""
