"""Reading files of weights without running code from them."""

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor

from eke.errors import CheckpointError


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read named tensors, to the CPU, from a .safetensors file or from one that `torch.save` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, or holds anything but named tensors: objects in it
            would be code to run, so they are refused.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # about unusual pickles, which are refused or read all the same
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"Cannot read the weights {path}: {error.strerror or error}.") from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors ({reason}). "
            "Save the model's state_dict() alone, best as .safetensors."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} does not hold named tensors. Save the model's state_dict() alone.")
    return state
