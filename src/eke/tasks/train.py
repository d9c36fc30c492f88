"""Train one method on prepared material into one run folder: the loop, and what stands between its steps."""

from typing import Any

import torch
from torch import Tensor

from eke import collectives
from eke.config import fingerprint
from eke.data.stream import Stream, ViewPlan
from eke.engine.checkpoint import load_checkpoint, save_checkpoint
from eke.engine.journal import Journal, RunFolder, describe_environment
from eke.engine.loop import StepReport, run_steps
from eke.engine.model_files import new_network, save_model
from eke.engine.optim import learning_rate, make_optimizer
from eke.engine.predict import predict_probs
from eke.engine.processes import autocast, prepare_network, spread
from eke.errors import ConfigError, did_you_mean
from eke.files import write_json
from eke.methods import METHODS
from eke.methods.contract import Setting
from eke.models.ema import Ema
from eke.models.network import Network
from eke.progress import Progress
from eke.tasks.measure import measure
from eke.tasks.options import FitOptions, method_options
from eke.tasks.prepare import Material

POOL_SAMPLE = 2000
"""Unlabeled images that are predicted at the end, for the distribution of predicted classes."""


def train(options: FitOptions, material: Material, folder: RunFolder, *, resume: bool, progress: Progress) -> None:
    """Train, evaluate and save; on return the folder holds model, predictions and results.

    Raises:
        TrainingError: a loss was not finite.
        CheckpointError: `resume` finds a checkpoint that is damaged or of another configuration.
    """
    device, total = material.device, _steps(options)
    method, stream, network = make_method(options, material)
    spread_method = spread(method, device)
    optimizer = make_optimizer(method, options.optim)
    average = Ema(network, options.optim.ema_decay)
    identity = fingerprint(options.model_dump(mode="json"))
    first = 0
    if resume and folder.checkpoint.exists():
        first = load_checkpoint(
            folder.checkpoint,
            fingerprint=identity,
            method=method,
            average=average,
            optimizer=optimizer,
            device=device,
        )
    journal = Journal(folder, options.evaluate.log_every_steps, first)
    evaluate_every = options.evaluate.every_steps or max(1, total // 10)

    reports = run_steps(
        spread_method,
        network,
        stream,
        optimizer,
        lambda step: learning_rate(step, options.optim, total),
        average,
        autocast(options.compute, device),
        first=first,
        last=total,
        seed=options.seed,
    )
    with progress(options.method["name"], total) as advance:
        advance(first)
        for report in reports:
            journal.write(report, known_truth(report, material.truth))
            if _due(report.step, evaluate_every, total):
                journal.flush()
                evaluate_during(journal, average, material, report.step)
            if _due(report.step, options.checkpoint.every_steps, total):
                journal.flush()
                if collectives.rank() == 0:
                    save_checkpoint(
                        folder.checkpoint,
                        step=report.step,
                        fingerprint=identity,
                        method=method,
                        average=average,
                        optimizer=optimizer,
                    )
            advance(1)
    if collectives.rank() == 0:
        finish(options, material, folder, average.module, progress)


def make_method(options: FitOptions, material: Material) -> tuple[torch.nn.Module, Stream, Network]:
    """Build network, method and stream of a run, on its device."""
    kind = METHODS[options.method["name"]]
    network = prepare_network(new_network(material.card, options.seed), options.compute, material.device)
    setting = Setting(
        n_classes=len(material.card.classes),
        n_labeled=len(material.labeled),
        n_unlabeled=len(material.unlabeled),
        total_steps=_steps(options),
        seed=options.seed,
    )
    method = kind(method_options(options), network, setting)
    assert isinstance(method, torch.nn.Module)
    stream = Stream(
        material.pixels,
        material.labeled,
        material.labels,
        material.unlabeled,
        choose_views(kind.views, options.views),
        batch_size=options.batch.labeled,
        mu=options.batch.mu,
        seed=options.seed,
        device=material.device,
    )
    return method.to(material.device).train(), stream, network


def choose_views(plan: ViewPlan, chosen: dict[str, str]) -> ViewPlan:
    """Replace presets of the method's plan, by view name, with those that the user chose."""
    names = {*plan.labeled, *plan.unlabeled}
    for name in chosen:
        if name not in names:
            raise ConfigError(f"This method has no view {name!r} (views.{name}). {did_you_mean(name, names)}")
    return ViewPlan(
        {name: chosen.get(name, preset) for name, preset in plan.labeled.items()},
        {name: chosen.get(name, preset) for name, preset in plan.unlabeled.items()},
    )


def known_truth(report: StepReport, truth: Tensor) -> dict[str, Tensor]:
    """Measure how many of the used pseudo-labels are right, where the source happens to know the class.

    The method never sees these classes. NaN where no used pseudo-label of this step has a known class.

    Args:
        report: of one step.
        truth: (n_unlabeled,) classes of the pool, -1 where unknown.
    """
    pseudo = report.result.pseudo
    if pseudo is None:
        return {}
    known = truth[report.batch.u_index]
    used = pseudo.mask * (known >= 0)
    right = (used * (pseudo.label == known)).sum()
    return {"known_pseudo_label_accuracy": right / used.sum()}


def evaluate_during(journal: Journal, average: Ema, material: Material, step: int) -> None:
    """Note loss and accuracy on validation; test images are not touched before the end."""
    if collectives.rank() or not material.validation:
        return
    predictions = material.predict(average.module, "validation")
    accuracy = float((predictions.probs.argmax(1) == predictions.labels).mean())
    journal.write_evaluation(step, "validation", {"accuracy": accuracy})


def finish(
    options: FitOptions, material: Material, folder: RunFolder, network: torch.nn.Module, progress: Progress
) -> None:
    """Save the model, read validation and test once, and write predictions and results."""
    save_model(folder.model, network, material.card)
    evaluations: dict[str, Any] = {}
    for name in material.evaluated():
        predictions = material.predict(network, name, progress)
        predictions.save(folder.predictions(name))
        evaluations[name] = measure(predictions, material.card.classes)
    plan = choose_views(METHODS[options.method["name"]].views, options.views)
    images_per_step = options.batch.labeled * (len(plan.labeled) + options.batch.mu * len(plan.unlabeled))
    write_json(
        folder.results,
        {
            "method": options.method["name"],
            "model": options.model.name,
            "steps": _steps(options),
            "seed": options.seed,
            "labels": material.budget,
            "n_unlabeled": len(material.unlabeled),
            "images_through_network": images_per_step * _steps(options),
            "evaluations": evaluations,
            "pool": pool_distribution(network, material, options.seed),
            "classes": list(material.card.classes),
            "problems": material.problems,
        },
    )
    write_json(folder.environment, describe_environment(material.device))


def pool_distribution(network: torch.nn.Module, material: Material, seed: int) -> dict[str, Any] | None:
    """Count predicted classes over a sample of the unlabeled pool, beside the labels' own distribution."""
    if not len(material.unlabeled):
        return None
    order = torch.randperm(len(material.unlabeled), generator=torch.Generator().manual_seed(seed))[:POOL_SAMPLE]
    rows = [material.unlabeled[int(i)] for i in order]
    k = len(material.card.classes)
    predicted = predict_probs(network, material.pixels.read, rows, material.device).argmax(1)
    truth = material.truth.cpu()[order]
    known = truth >= 0
    return {
        "n": len(rows),
        "predicted": torch.bincount(predicted, minlength=k).tolist(),
        "labeled": torch.bincount(torch.as_tensor(material.labels), minlength=k).tolist(),
        "accuracy_where_known": (predicted == truth)[known].float().mean().item() if known.any() else None,
        "n_known": int(known.sum()),
    }


def _due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def _steps(options: FitOptions) -> int:
    assert options.steps is not None, "fit() turns a time budget into steps before training"
    return options.steps
