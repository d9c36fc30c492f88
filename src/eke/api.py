"""The Python face: `eke.fit` and `eke.pretrain` train, `eke.load` opens what was trained."""

from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eke.config import merge
from eke.engine.journal import RunFolder
from eke.engine.model_files import load_model
from eke.engine.predict import embed, predict_probs
from eke.engine.processes import choose_device
from eke.errors import ConfigError, did_you_mean
from eke.progress import bars, silent
from eke.tasks.attention_maps import MAPS, OF_PIXELS, attention_maps, check_maps, deepest_layer
from eke.tasks.fit import fit as fit_task
from eke.tasks.options import resolve, resolve_pretrain
from eke.tasks.prepare import open_pixels
from eke.tasks.pretrain import pretrain as pretrain_task


class Run:
    """A finished run: its results, and its model.

    Args:
        path: the run folder.

    Raises:
        CheckpointError: the run is not finished, or its files are damaged or unsafe.
    """

    def __init__(self, path: str | Path) -> None:
        folder = RunFolder(Path(path))
        self.path = folder.path
        self.results: dict[str, Any] = folder.read(folder.results)
        """What results.json holds: figures with intervals, label budget, baseline, differences."""
        self.device = choose_device("auto")
        self.network, self.card = load_model(folder.model, self.device)
        self.classes = self.card.classes

    def read(self, source: str | Path | NDArray[Any]) -> torch.Tensor:
        """Open images or clips from any source and bring them to the model's size: uint8 (N, C, [T,] H, W).

        Images that cannot be read are left out.
        """
        _, pixels, rows, _ = open_pixels(source, self.card)
        return pixels.read(rows)

    def predict_proba(self, images: torch.Tensor) -> NDArray[np.float32]:
        """Return class probabilities (N, K) of uint8 images (N, C, [T,] H, W), as `read` gives them.

        Raises:
            ConfigError: the run was trained without labels: use `network` and its embeddings.
        """
        if not self.classes:
            raise ConfigError(f"{self.path} was trained without labels and has no class head: fit one with init=it.")
        return predict_probs(self.network, lambda rows: images[list(rows)], range(len(images)), self.device).numpy()

    def embed(self, images: torch.Tensor) -> NDArray[np.float32]:
        """Return embeddings (N, D), what the class head reads, of uint8 images (N, C, [T,] H, W)."""
        return embed(self.network, lambda rows: images[list(rows)], range(len(images)), self.device).numpy()

    def predict(self, images: torch.Tensor) -> list[str] | list[tuple[str, ...]]:
        """Return the class name of each image; where images have several labels, the names of its classes."""
        probs = self.predict_proba(images)
        if self.card.several:
            return [tuple(compress(self.classes, row)) for row in probs >= np.array(self.card.thresholds)]
        return [self.classes[k] for k in probs.argmax(1)]

    def attention_maps(
        self,
        images: torch.Tensor,
        map_: str = "gradcam",
        layer: str | None = None,
        classes: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """Return where the network looks: maps (N, [t,] h, w), signed, on the grid of layer or image.

        Args:
            images: (N, C, [T,] H, W) uint8, as `read` gives them.
            map_: what `eke explain --map` takes.
            layer: whose map; default: the deepest one. Maps of pixels read none.
            classes: N positions in `classes`, what is explained of each image; default: what it is taken for.

        Raises:
            ConfigError: images of another size, a class that there is not, an unknown map or layer, or the run was
                trained without labels.
        """
        if map_ not in MAPS:
            raise ConfigError(f"There is no map {map_!r}. {did_you_mean(map_, MAPS)}")
        check_maps((map_,), (layer,) if layer else ())
        wanted, given = self.card.shape, tuple(images.shape[1:])
        if given != wanted:
            raise ConfigError(
                f"The images are {given}, and this network reads {wanted} (channels, of clips frames, height, width): "
                "open them by `read`, which brings them to its size."
            )
        chosen = self.predict_proba(images).argmax(1).tolist() if classes is None else list(classes)
        if len(chosen) != len(images):
            raise ConfigError(f"There are {len(chosen)} classes for {len(images)} images: give one each.")
        for k in chosen:
            if not 0 <= k < len(self.classes):
                raise ConfigError(f"There is no class {k}: the network knows {len(self.classes)}, from 0 on.")
        layers = (layer or deepest_layer(self.network, self.card.size),) if map_ not in OF_PIXELS else ()
        targets = torch.tensor(chosen, dtype=torch.int64, device=self.device)
        (maps,) = attention_maps(self.network, images.to(self.device), targets, (map_,), layers).values()
        return maps.numpy()


def fit(
    source: str | Path,
    *,
    method: str = "fixmatch",
    test: str | Path | None = None,
    labels: Sequence[str | Path] = (),
    labels_per_class: int | None = None,
    model: str | None = None,
    init: str | Path | None = None,
    steps: int | None = None,
    budget: str | None = None,
    baseline: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Run:
    """Train a method and its supervised baseline on the same labels, as `eke fit` does.

    Args:
        source: folder, table, zip, parquet, npz or "digits": see docs/data.md.
        method: one of `eke.methods.METHODS`.
        test: labeled test images, read once, at the end.
        labels: label files laid over the source's own labels; later ones win.
        labels_per_class: use only so many labels of each class, training + validation.
        model: name of a model; default by image size.
        init: run folder to start from.
        steps: training steps.
        budget: time instead of steps, such as "20m".
        baseline: "auto", "none", or a run folder to compare with.
        seed: of split, weights, batches and views.
        out: run folder.
        options: further options by path, such as {"batch.mu": 4}.
        resume: go on with an interrupted run in `out`.
        progress: show bars on standard error.

    Returns:
        The finished run.

    Raises:
        EkeError: see `eke.errors`; the message says what to do.
    """
    flags: dict[str, Any] = {
        "source": str(source),
        "test": None if test is None else str(test),
        "labels": [str(file) for file in labels] or None,
        "steps": steps,
        "budget": budget,
        "baseline": baseline,
        "seed": seed,
        "init": None if init is None else str(init),
        "data": {"labels_per_class": labels_per_class},
        "model": {"name": model},
    }
    resolved = resolve(method, _nested(options or {}, flags))
    shown = bars if progress else silent
    results = fit_task(resolved, Path(out) if out else None, resume=resume, progress=shown)
    if results is None:
        raise ConfigError("eke.fit returns a run on the first process only. Call `torchrun -m eke fit` instead.")
    return Run(results["run"])


def pretrain(
    source: str | Path,
    *,
    method: str = "simclr",
    test: str | Path | None = None,
    model: str | None = None,
    init: str | Path | None = None,
    steps: int | None = None,
    budget: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Run:
    """Train a network on images without their labels, as `eke pretrain` does; `fit(..., init=run.path)` starts from it.

    Args:
        source: as in `fit`.
        method: a self-supervised one of `eke.methods.METHODS`.
        test: images that must not be trained on.
        model: name of a model; default by image size.
        init: run folder to start from.
        steps: training steps.
        budget: time instead of steps, such as "1h".
        seed: of weights, batches and views.
        out: run folder.
        options: further options by path, such as {"batch.size": 128}.
        resume: go on with an interrupted run in `out`.
        progress: show bars on standard error.

    Returns:
        The finished run; its `embed` gives embeddings.

    Raises:
        EkeError: see `eke.errors`; the message says what to do.
    """
    flags: dict[str, Any] = {
        "source": str(source),
        "test": None if test is None else str(test),
        "steps": steps,
        "budget": budget,
        "seed": seed,
        "init": None if init is None else str(init),
        "model": {"name": model},
    }
    resolved = resolve_pretrain(method, _nested(options or {}, flags))
    results = pretrain_task(resolved, Path(out) if out else None, resume=resume, progress=bars if progress else silent)
    if results is None:
        raise ConfigError("eke.pretrain returns a run on the first process only. Call `torchrun -m eke pretrain`.")
    return Run(results["run"])


def load(path: str | Path) -> Run:
    """Open a finished run.

    Raises:
        CheckpointError: the run is not finished, or its files are damaged or unsafe.
    """
    return Run(path)


def _nested(paths: Mapping[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    for path, value in paths.items():
        for name in reversed(path.split(".")):
            value = {name: value}
        base = merge(base, value)
    return base
