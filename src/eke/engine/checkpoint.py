"""Checkpoints: everything a run needs to go on exactly, and nothing that could execute code.

A checkpoint holds the method's state (network, teachers, queues, running averages: all of it is parameters and
buffers), the averaged network, the optimizer and the step. Randomness is a function of the step.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from eke.errors import CheckpointError, first_line
from eke.files import write_atomic


class Stateful(Protocol):
    """What a checkpoint can hold: modules, optimizers."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


def save_checkpoint(path: Path, parts: Mapping[str, Stateful], *, step: int, fingerprint: str) -> None:
    """Write the state of `parts` after `step` steps; the previous checkpoint stays valid until this one is on disk.

    Args:
        path: of the checkpoint.
        parts: what to save, by name: method, average, optimizer.
        step: steps done.
        fingerprint: of the run's configuration.

    Raises:
        EkeError: the disk is full or the folder cannot be written.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    state = {"step": step, "fingerprint": fingerprint, **states}
    write_atomic(path, lambda temporary: torch.save(state, temporary))


def load_checkpoint(path: Path, parts: Mapping[str, Stateful], *, fingerprint: str, device: torch.device) -> int:
    """Restore the state that `save_checkpoint` wrote and return its step.

    Raises:
        CheckpointError: the file is damaged, carries pickled code, or belongs to another configuration.
    """
    state = read_tensors(path, device)
    if not isinstance(state, dict) or set(state) != {"step", "fingerprint", *parts}:
        raise CheckpointError(f"{path} is not a checkpoint of eke. Name another run folder, or train anew.")
    if state["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path} was written under another configuration ({state['fingerprint']}, this one is {fingerprint}). "
            "Resume with the options in the run's config.json, or train into a new folder."
        )
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} does not fit this network: {first_line(error)}") from None
    return int(state["step"])


def read_tensors(path: Path, device: torch.device) -> Any:
    """Read a file of tensors and plain values; a file that needs code to be executed is refused.

    Raises:
        CheckpointError: the file is missing, damaged, or carries pickled code.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint {path}. Train without --resume first.") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged or carries pickled code, which eke never executes. Only tensors and plain values "
            f"are read. ({first_line(error)})"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be read: {first_line(error)}") from None
