"""`eke probe`: how good is a run's embedding, by a linear classifier and by nearest neighbors on frozen features."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eke.data.splits import DataOptions, Split, load_split
from eke.engine.journal import RunFolder
from eke.engine.model_files import ModelCard, load_model, new_network
from eke.engine.predict import Predictions, embed
from eke.engine.processes import choose_device
from eke.errors import ConfigError
from eke.files import write_json
from eke.metrics.classification import negative_log_likelihood
from eke.metrics.representation import effective_rank, embedding_std, knn_probs
from eke.models.backbones import resolve_name
from eke.models.network import Network
from eke.progress import Advance, Progress, silent
from eke.tasks.measure import difference, measure
from eke.tasks.options import FitOptions
from eke.tasks.prepare import Material, prepare
from eke.tasks.train import group_notes

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse L2 strengths among which validation chooses: ½|w|² + C times the sum of the cross entropies is minimized."""
C_DEFAULT = 1.0
"""The one taken where nothing can be chosen on: no validation images, or they are what is measured."""
MAX_ITERATIONS = 1000
NEIGHBORS = 20

PROBES = {"linear": "linear probe", "knn": "nearest neighbors"}
"""Names in probe.json -> names in words."""


class Linear(NamedTuple):
    """A fitted linear probe."""

    model: Any
    """scikit-learn pipeline: standardization, then logistic regression."""
    C: float
    converged: bool

    def probs(self, embeddings: Tensor) -> NDArray[np.float32]:
        """Return (N, K) class probabilities of embeddings (N, D)."""
        predicted: NDArray[np.float64] = self.model.predict_proba(embeddings.double().numpy())
        return predicted.astype(np.float32)


class Probed(NamedTuple):
    """What both probes say of the measured images on the features of one network."""

    predictions: dict[str, Predictions]
    linear: Linear
    embeddings: dict[str, float]
    """Spread and effective rank of the measured images' embeddings."""


def probe(run: Path, options: FitOptions, out: Path | None = None, progress: Progress = silent) -> dict[str, Any]:
    """Measure the frozen embedding of a run, and beside it that of the same network with untrained weights.

    Two classifiers are trained on the embeddings of the labeled images: logistic regression on standardized
    features, its L2 strength chosen on validation, and a vote of nearest neighbors. They are measured on the
    test images, or without any on validation; then the strength is the default, so that it is not chosen on
    what it is measured on. The difference to untrained weights is paired by image.

    Args:
        run: a finished run folder, pretrained without labels or fitted.
        options: name the images, labels and split; size, channels and fit must be those of the run's card.
            `seed` makes the untrained weights too; with the run's own seed they are its random start.
        out: where predictions and probe.json are written; by default `probe` in the run folder.
        progress: shows decoding, embedding and fitting.

    Returns:
        What probe.json holds, and `out`.

    Raises:
        ConfigError: `out` holds something, the images are brought to another form than the run's, or nothing
            is left to measure on.
        CheckpointError: the run is not finished or its files are damaged.
        DataError: images or labels cannot be used.
    """
    out = out or run / "probe"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is never overwritten. Name another folder with --out.")
    device = choose_device(options.compute.device)
    network, card = load_model(RunFolder(run).model, device)
    require_form(options.data, card, run)
    material = prepare(options, device, progress)
    if material.images.several:
        raise ConfigError(
            f"A probe sorts images into classes, and those of {options.source} may have several. Measure what the run "
            f"is good for by training from it: eke fit {options.source} --init {run}."
        )
    if not material.evaluated():
        raise ConfigError(
            "There are neither test nor validation images to measure on. Name test images with --test SOURCE, or "
            "raise data.val_rate."
        )
    measured = "test" if material.test else "validation"
    networks = {"trained": network, "untrained": untrained(card, options.seed).to(device)}
    probed = {name: probe_network(each, material, measured, name, progress) for name, each in networks.items()}

    for weights, each in probed.items():
        for kind, predictions in each.predictions.items():
            predictions.save(out / "predictions" / f"{weights}-{kind}.npz")
    result = {
        "run": str(run),
        "source": options.source,
        "test": options.test,
        "part": measured,
        "n": len(material.part(measured).rows),
        "model": resolve_name(card.model.name, card.size),
        "embedding_width": network.width,
        "seed": options.seed,
        "labels": material.budget,
        "classes": list(material.images.classes),
        "C_chosen": chooses_strength(material, measured),
        "C": {name: each.linear.C for name, each in probed.items()},
        "neighbors": min(NEIGHBORS, len(material.pools.labeled)),
        "probes": {kind: compared(probed, kind, material.images.classes) for kind in PROBES},
        "embeddings": {name: each.embeddings for name, each in probed.items()},
        "notes": notes(run, card, material, measured, probed),
        "problems": material.problems,
    }
    write_json(out / "probe.json", result)
    return {**result, "out": str(out)}


def require_form(options: DataOptions, card: ModelCard, run: Path) -> None:
    """Refuse images that would be brought to another form than those the network was trained on."""
    size = options.working_size()
    asked = {"size": list(size) if size else None, "channels": options.channels, "fit": options.fit}
    trained = {"size": list(card.size), "channels": card.channels, "fit": card.fit}
    for name, value in trained.items():
        if asked[name] != value:
            raise ConfigError(
                f"data.{name} is {asked[name]}, but {run} was trained with {value}. Set data.{name}={value}."
            )


def untrained(card: ModelCard, seed: int) -> Network:
    """Build the card's network with weights drawn from `seed`, also where the run started from others."""
    drawn = card.model.model_copy(update={"pretrained": False, "weights": None})
    return new_network(card.model_copy(update={"model": drawn}), seed)


def chooses_strength(material: Material, measured: str) -> bool:
    """Tell whether there are validation images to choose on that are not the ones measured."""
    return measured != "validation" and bool(material.validation)


def probe_network(network: Network, material: Material, measured: str, name: str, progress: Progress) -> Probed:
    """Train both probes on the features of one network.

    Args:
        network: it is left as it is.
        material: labeled images to train on, validation to choose on.
        measured: the part that is predicted, "test" or "validation".
        name: of the network, for progress.
        progress: shows embedding and fitting.
    """
    pools, part, validation = material.pools, material.part(measured), material.part("validation")
    choosing = validation.rows if chooses_strength(material, measured) else []
    with progress(f"embedding, {name}", len(pools.labeled) + len(choosing) + len(part.rows)) as advance:
        bank = embed(network, pools.pixels.read, pools.labeled, pools.device, advance)
        queries = embed(network, part.pixels.read, part.rows, pools.device, advance)
        chosen_on = embed(network, validation.pixels.read, choosing, pools.device, advance) if choosing else None
    labels = np.array(pools.labels)
    with progress(f"linear probe, {name}", len(C_GRID) if choosing else 1) as advance:
        if chosen_on is None:
            linear = fit_linear(bank, labels, C_DEFAULT)
            advance(1)
        else:
            linear = choose_linear(bank, labels, chosen_on, validation.images.labels[choosing], advance)
    classes = len(material.images.classes)
    probs = {
        "linear": linear.probs(queries),
        "knn": knn_probs(queries, bank, torch.as_tensor(pools.labels), classes, NEIGHBORS).numpy(),
    }
    ids, truth = np.array([part.images.ids[row] for row in part.rows]), part.images.labels[part.rows]
    spread = {"std": float(embedding_std(queries)), "effective_rank": float(effective_rank(queries))}
    return Probed({kind: Predictions(ids, truth, each) for kind, each in probs.items()}, linear, spread)


def fit_linear(embeddings: Tensor, labels: NDArray[np.int64], C: float) -> Linear:
    """Fit logistic regression to standardized embeddings (N, D) and classes (N,), each of 0 to K-1 at least once."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=MAX_ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said among the notes
        model.fit(embeddings.double().numpy(), labels)  # in float32 the solver may stop early
    return Linear(model, C, bool(model[-1].n_iter_.max() < MAX_ITERATIONS))


def choose_linear(
    embeddings: Tensor, labels: NDArray[np.int64], validation: Tensor, truth: NDArray[np.int64], advance: Advance
) -> Linear:
    """Fit one probe per strength of the grid and return the one whose validation images are most likely.

    The negative log-likelihood decides, since among few images many strengths get equally many right.
    """
    tried: list[tuple[float, Linear]] = []
    for C in C_GRID:
        linear = fit_linear(embeddings, labels, C)
        tried.append((negative_log_likelihood(linear.probs(validation), truth), linear))
        advance(1)
    return min(tried, key=lambda each: each[0])[1]  # of equals the first, the most regular


def compared(probed: dict[str, Probed], kind: str, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the figures of one probe on both networks, and their difference, trained - untrained."""
    predictions = {name: each.predictions[kind] for name, each in probed.items()}
    figures: dict[str, Any] = {name: measure(each, classes) for name, each in predictions.items()}
    return {**figures, "difference": difference(predictions["trained"], predictions["untrained"])}


def notes(run: Path, card: ModelCard, material: Material, measured: str, probed: dict[str, Probed]) -> list[str]:
    """Say what a reader of the figures must know."""
    folder, part = RunFolder(run), material.part(measured)
    ids = {part.images.ids[row] for row in part.rows}
    found = [*material.split.notes, *group_notes(material)]
    found += overlap_notes(load_split(folder.split), ids, learns_labels=bool(card.classes), measured=measured)
    if card.model.pretrained or card.model.weights or folder.read(folder.config).get("init"):
        found.append("The run started from trained weights: the difference to untrained weights is theirs, too.")
    stopped = [name for name, each in probed.items() if not each.linear.converged]
    if stopped:
        found.append(
            f"The linear probe of the {' and the '.join(stopped)} network was stopped after {MAX_ITERATIONS:,} "
            "iterations, before it converged."
        )
    return found


def overlap_notes(split: Split, ids: set[str], *, learns_labels: bool, measured: str) -> list[str]:
    """Say which of the measured images the run itself was trained on.

    Args:
        split: of the run.
        ids: of the measured images.
        learns_labels: whether the run was trained with labels; a run without reads them for its figures only.
        measured: name of the part.
    """
    learned = ids & set(split.labeled) if learns_labels else set()
    seen = (ids & {*split.labeled, *split.unlabeled}) - learned
    found = []
    if learned:
        found.append(
            f"The run learned the labels of {len(learned):,} of the {len(ids):,} {measured} images: the trained "
            "network's figures are too high. Name other images with --test."
        )
    if seen:
        found.append(
            f"{len(seen):,} of the {len(ids):,} {measured} images were in the run's unlabeled pool: it saw them, "
            "though not their labels."
        )
    return found


def render(result: dict[str, Any]) -> str:
    """Lay the result out as text: the label budget, a table with intervals, what can be said, and where it is."""
    labels, part = result["labels"], result["part"]
    heads = {"linear": "linear, accuracy", "knn": f"{result['neighbors']} neighbors, accuracy"}
    lines = [
        f"{labels['total']} labels = {labels['train']} train + {labels['validation']} validation; frozen embedding of "
        f"{result['model']}, {result['embedding_width']} dimensions",
        "",
        f"{part} ({result['n']:,} images)".ljust(26) + "".join(f"{head:<24}" for head in heads.values()).rstrip(),
    ]
    for row in ("trained", "untrained", "difference"):
        cells = [_cell(result["probes"][kind][row]["accuracy"], "+" if row == "difference" else "") for kind in PROBES]
        lines.append(f"  {row:<24}" + "".join(f"{cell:<24}" for cell in cells).rstrip())
    lines += ["", *(_verdict(result, kind) for kind in PROBES), "", _strength(result)]
    lines += [_spread(name, figures, result["embedding_width"]) for name, figures in result["embeddings"].items()]
    if part == "validation":
        lines += ["", "No test images were named (--test SOURCE), so validation is measured."]
    lines += [f"Note: {note}" for note in result["notes"]]
    if result["problems"]:
        lines += ["", f"Set aside: {len(result['problems'])} images or rows; probe.json names all of them."]
    return "\n".join([*lines, "", f"probe  {result['out']}"])


def _cell(interval: dict[str, float], sign: str) -> str:
    value, low, high = (100 * interval[end] for end in ("value", "low", "high"))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}] %"


def _verdict(result: dict[str, Any], kind: str) -> str:
    gained = result["probes"][kind]["difference"]["accuracy"]
    name = PROBES[kind].capitalize()
    if not gained["decided"]:
        return f"{name}: cannot tell whether training helped: the interval of the difference contains 0."
    change = "more" if gained["value"] > 0 else "fewer"
    return (
        f"{name}: {abs(100 * gained['value']):.1f} points {change} of the {result['part']} images right than with "
        f"untrained weights (p = {gained['p']:.2g}; one seed each)."
    )


def _strength(result: dict[str, Any]) -> str:
    if not result["C_chosen"]:
        why = "validation is what is measured" if result["part"] == "validation" else "there is no validation"
        return f"L2 strength: the default, C = {C_DEFAULT:g}, since {why}."
    chosen = ", ".join(f"{C:g} {name}" for name, C in result["C"].items())
    return f"L2 strength: C = {chosen}, chosen on {result['labels']['validation']} validation images."


def _spread(name: str, figures: dict[str, float], width: int) -> str:
    return (
        f"Embedding, {name}: spread {figures['std']:.2f} (1: as on a sphere, 0: collapsed), effective rank "
        f"{figures['effective_rank']:.1f} of {width}"
    )
