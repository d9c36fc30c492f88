"""Export a trained network for use without eke, and check that the file computes the same."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eke.engine.journal import RunFolder
from eke.engine.model_files import ModelCard, load_model
from eke.errors import ConfigError, TrainingError, did_you_mean
from eke.files import write_atomic
from eke.models.network import Network

TOLERANCE = 1e-4
"""Largest difference of a probability that still counts as rounding."""
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}


class Classifier(nn.Module):
    """Images (N, C, [T,] H, W), float in [0, 1] -> probabilities (N, K). Normalization is inside."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.kind.probabilities(self.network(images).logits)


def export(run: Path, format_: str, out: Path | None) -> dict[str, Any]:
    """Write the run's network as ONNX or as a torch.export program and compare it with the model.

    Returns:
        path, format, classes, input shape, and the largest difference of a probability over random images.

    Raises:
        ConfigError: the format is unknown, or its packages are not installed.
        TrainingError: the exported file does not compute the same; it is not kept.
    """
    if format_ not in SUFFIX:
        raise ConfigError(f"Unknown format {format_!r}. {did_you_mean(format_, SUFFIX)}")
    network, card = load_model(RunFolder(run).model, torch.device("cpu"))
    path = out or run / f"model{SUFFIX[format_]}"
    if path.exists():
        raise ConfigError(f"{path} exists and is never overwritten. Name another file with --out.")
    model = Classifier(network).eval()
    images = torch.rand((3, *card.shape), generator=torch.Generator().manual_seed(0))
    written: dict[str, float] = {}

    def write(temporary: Path) -> None:
        (_write_onnx if format_ == "onnx" else _write_torch)(model, images, card, temporary)
        written["difference"] = _difference(model, images, format_, temporary)
        if not written["difference"] <= TOLERANCE:
            raise TrainingError(
                f"The exported network differs from the model by {written['difference']:.1e} (at most {TOLERANCE} "
                f"is rounding), so {path} was not written. Try --format {'torch' if format_ == 'onnx' else 'onnx'}."
            )

    write_atomic(path, write)
    return {
        "path": str(path),
        "format": format_,
        "classes": list(card.classes),
        "input": ["N", *card.shape],
        "input_range": "float32 in [0, 1]",
        "difference": written["difference"],
    }


def _write_onnx(model: Classifier, images: Tensor, card: ModelCard, path: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401  the exporter needs it
    except ImportError as error:
        raise ConfigError(f"ONNX export needs the extra packages: pip install 'eke[onnx]' ({error}).") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes={"images": {0: torch.export.Dim("n", min=1)}},
            verbose=False,
        )
    proto = program.model_proto  # type: ignore[union-attr]
    proto.metadata_props.append(onnx.StringStringEntryProto(key="classes", value=json.dumps(card.classes)))
    onnx.save(proto, path)


def _write_torch(model: Classifier, images: Tensor, card: ModelCard, path: Path) -> None:
    program = torch.export.export(model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("n", min=1)}})
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={"classes.json": json.dumps(card.classes)})


@torch.inference_mode()
def _difference(model: Classifier, images: Tensor, format_: str, path: Path) -> float:
    """Compare on batches of other sizes than the exported one, so that the batch axis is known to be free."""
    largest = 0.0
    for n in (1, 5):
        batch = torch.rand((n, *images.shape[1:]), generator=torch.Generator().manual_seed(n))
        largest = max(largest, (model(batch) - _run(format_, path, batch)).abs().max().item())
    return largest


def _run(format_: str, path: Path, images: Tensor) -> Tensor:
    if format_ == "torch":
        with path.open("rb") as file:
            program = torch.export.load(file)
        probs: Tensor = program.module()(images)
        return probs
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"The parity check needs onnxruntime: pip install 'eke[onnx]' ({error}).") from None
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
