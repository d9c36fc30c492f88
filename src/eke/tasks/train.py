"""Train one method on prepared material into one run folder: the loop, and what stands between its steps."""

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from eke import collectives
from eke.engine.checkpoint import load_checkpoint, save_checkpoint
from eke.engine.interrupts import noticed_interrupts
from eke.engine.journal import Journal, RunFolder, describe_environment
from eke.engine.loop import StepReport
from eke.engine.model_files import ModelCard, save_model
from eke.engine.predict import predict_probs
from eke.errors import InterruptedRunError
from eke.files import write_json
from eke.metrics.multilabel import DEFAULT_THRESHOLD, best_thresholds
from eke.models.backbones import resolve_name
from eke.models.network import Network
from eke.progress import Progress
from eke.tasks.assemble import Assembly, assemble, images_per_step, training_steps
from eke.tasks.held_out_attention import attention_notes, box_notes, consistency, held_out, measure_attention
from eke.tasks.keep import decisions_kept, keep_if_best, kept_notes, require_figure, take_kept
from eke.tasks.localize import measure_boxes
from eke.tasks.measure import main_figure, measure, metric_of_run
from eke.tasks.options import EvaluateOptions, FitOptions, TrainingOptions
from eke.tasks.prepare import Material

POOL_SAMPLE, POOL_SAMPLE_PER_CLASS = 2000, 25
"""Unlabeled images that are predicted at the end, for the distribution of predicted classes: the larger of both."""


def train(
    options: FitOptions,
    material: Material,
    folder: RunFolder,
    identity: str,
    *,
    resume: bool,
    progress: Progress,
) -> None:
    """Train, evaluate and save; on return the folder holds model, predictions and results.

    Args:
        options: of the run; `steps` is known.
        material: what it trains on and is measured on.
        folder: where it writes.
        identity: fingerprint of what determines the run; a checkpoint of another is refused.
        resume: go on from the folder's checkpoint, if it has one.
        progress: shows the training.

    Raises:
        TrainingError: a loss was not finite.
        CheckpointError: `resume` finds a checkpoint that is damaged or of another configuration.
        InterruptedRunError: Ctrl-C; the state is saved.
    """
    assert options.steps is not None
    assembly = assemble(options, material.pools)
    require_figure(options.evaluate, len(material.validation), assembly.attention is not None)
    evaluate_every = options.evaluate.every_steps or max(1, options.steps // 10)
    network, step = assembly.average.module, options.steps
    for step, journal in run_and_save(assembly, options, material, folder, identity, resume=resume, progress=progress):
        if due(step, evaluate_every, options.steps):
            journal.flush()
            evaluate_during(journal, assembly, material, step, options.evaluate)
            if collectives.from_first(partial(keep_if_best, folder, options.evaluate, network, step)):
                break
    if collectives.rank() == 0:
        finish(options, material, folder, assembly, step, progress)


def run_and_save(
    assembly: Assembly,
    options: TrainingOptions,
    material: Material,
    folder: RunFolder,
    identity: str,
    *,
    resume: bool,
    progress: Progress,
) -> Iterator[tuple[int, Journal]]:
    """Run the steps of a run: journal each, yield (steps done, journal), then save where a checkpoint is due.

    A run from its beginning yields 0 steps first, where its start is looked at too.

    What the caller notes in the journal is thus on disk before the checkpoint that stands for it. Arguments and
    errors are those of `train`.
    """
    if collectives.rank() == 0:
        begin(folder, options, material)
    assert options.steps is not None
    total = options.steps
    parts = assembly.parts()
    first = 0
    if resume and collectives.from_first(folder.checkpoint.exists):
        first = load_checkpoint(folder.checkpoint, parts, fingerprint=identity, device=material.pools.device)
    journal = Journal(folder, options.evaluate.log_every_steps, first)

    with progress(options.method["name"], total) as advance, noticed_interrupts() as interrupted:
        advance(first)
        if options.evaluate.start and not first:
            yield 0, journal
        for report in training_steps(assembly, options, first):
            journal.write(report, known_truth(report, material.truth))
            yield report.step, journal
            stop = interrupted() and collectives.world_size() == 1  # other processes could not be told in time
            if due(report.step, options.checkpoint.every_steps, total) or stop:
                journal.flush()
                if collectives.rank() == 0:
                    save_checkpoint(folder.checkpoint, parts, step=report.step, fingerprint=identity)
            if stop:
                raise InterruptedRunError(
                    f"interrupted after step {report.step} of {total}, which is saved in {folder.path}. Go on with the "
                    "same command and --resume."
                )
            advance(1)


def begin(folder: RunFolder, options: TrainingOptions, material: Material) -> None:
    """Write down what determines the run, before step 1. The environment may differ on resume: then warn."""
    environment = describe_environment(material.pools.device)
    if folder.environment.exists():
        before = folder.read(folder.environment)
        changed = [k for k in environment if k != "commit" and environment[k] != before.get(k)]
        if changed:
            warnings.warn(
                f"{folder.path} was begun with another {', '.join(changed)}: the run goes on, but not bit for bit.",
                stacklevel=2,
            )
    write_json(folder.config, options.model_dump(mode="json"))  # first: with it, the folder is a run that can resume
    material.split.save(folder.split)
    write_json(folder.environment, environment)


def due(step: int, every: int, last: int) -> bool:
    """Tell whether something that happens every so many steps, and at the last, happens after `step`."""
    return step % every == 0 or step == last


def known_truth(report: StepReport, truth: Tensor) -> dict[str, Tensor]:
    """Measure how many of the used pseudo-labels are right, where the source happens to know the class.

    The method never sees these classes. NaN where no used pseudo-label of this step has a known class.

    Args:
        report: of one step.
        truth: (n_unlabeled,) classes of the pool, or (n_unlabeled, K) of several labels; -1 where unknown.
    """
    pseudo = report.result.pseudo
    if pseudo is None:
        return {}
    known = truth[report.batch.u_index]
    used = pseudo.mask * (known >= 0)
    right, n_used = collectives.all_reduce_sum(torch.stack([(used * (pseudo.label == known)).sum(), used.sum()]))
    return {"known_pseudo_label_accuracy": right / n_used}


def evaluate_during(
    journal: Journal, assembly: Assembly, material: Material, step: int, looks: EvaluateOptions
) -> None:
    """Note accuracy or mAP on validation, and whether attention follows its images; test images are not touched."""
    if collectives.rank() == 0 and material.validation:
        network = assembly.average.module
        predictions = material.predict(network, "validation")
        metric = metric_of_run(several=predictions.several)
        figures, options = {metric: main_figure(predictions)}, assembly.attention
        if options is not None:
            images, own = held_out(material, "validation"), getattr(assembly.method, "held_out_figures", None)
            pixels = images.pixels.to(material.pools.device).float().div(255)
            figures |= consistency(network, images, options) if own is None else own(network, pixels)
        if looks.start:
            # thresholds of several labels are chosen at the end
            decided = predictions.probs >= 0.5 if predictions.several else predictions.predicted
            figures["decisions_kept"] = decisions_kept(journal.folder, decided, step)
        journal.write_evaluation(step, "validation", figures)


def finish(
    options: FitOptions, material: Material, folder: RunFolder, assembly: Assembly, steps: int, progress: Progress
) -> None:
    """Save the model, read validation and test once, and write predictions and results after so many `steps`."""
    card, network = material.pools.card, assembly.average.module
    best = take_kept(folder, options.evaluate, network)
    thresholds = choose_thresholds(network, material)
    save_model(folder.model, network, card.model_copy(update={"thresholds": thresholds}))
    evaluations: dict[str, Any] = {}
    predicted = {name: material.predict(network, name, thresholds, progress) for name in material.evaluated()}
    for name, predictions in predicted.items():
        predictions.save(folder.predictions(name))
        evaluations[name] = measure(predictions, card.classes)
    looked_at = assembly.attention.layer[0] if assembly.attention and assembly.attention.layer else None
    boxes = measure_boxes(network, material, predicted, looked_at, folder, progress)
    attention = measure_attention(network, assembly.attention, material)
    write_json(folder.environment, describe_environment(material.pools.device))
    write_json(
        folder.results,
        {
            "method": options.method["name"],
            "model": resolve_name(options.model.name, card.size),
            "steps": steps,
            "kept": best and best._asdict(),
            "seed": options.seed,
            "labels": material.budget,
            "n_unlabeled": len(material.pools.unlabeled),
            "images_through_network": images_per_step(options) * steps,
            "evaluations": evaluations,
            "pool": pool_distribution(network, material, options.seed),
            "attention": attention,
            "boxes": boxes,
            "classes": list(card.classes),
            "several": card.several,
            "notes": [
                *assembly.notes,
                *material.split.notes,
                *group_notes(material),
                *threshold_notes(material),
                *clip_notes(card),
                *kept_notes(best, options.evaluate),
                *attention_notes(folder.lines(), steps),
                *box_notes(attention),
            ],
            "problems": material.problems,
        },
    )


def choose_thresholds(network: Network, material: Material) -> tuple[float, ...]:
    """Choose the probability from which each class is predicted, by F1 on validation; 0.5 without validation.

    Returns:
        (K,) of images with several labels, else none.
    """
    card = material.pools.card
    if not card.several:
        return ()
    if not material.validation:
        return (DEFAULT_THRESHOLD,) * len(card.classes)
    predictions = material.predict(network, "validation")
    return tuple(best_thresholds(predictions.probs, predictions.labels).tolist())


def threshold_notes(material: Material) -> list[str]:
    """Say how the classes of images with several labels were decided."""
    if not material.pools.card.several:
        return []
    if not material.validation:
        return [f"There are no validation images: every class is predicted from a probability of {DEFAULT_THRESHOLD}."]
    return [
        f"Each class is predicted from the probability that gives the best F1 on {len(material.validation):,} "
        "validation images, whose own F1 is therefore too high."
    ]


def group_notes(material: Material) -> list[str]:
    """Say where intervals are too narrow: images of one group are not independent."""
    notes = []
    for name in material.evaluated():
        part = material.part(name)
        groups = {part.images.groups[row] for row in part.rows} if part.images.groups else set()
        if groups and len(groups) < len(part.rows):
            notes.append(
                f"The {len(part.rows):,} {name} images are of {len(groups):,} groups. Intervals and p-values take "
                "images for independent, which images of one group are not: they are too narrow."
            )
    return notes


def clip_notes(card: ModelCard) -> list[str]:
    """Say what is called an image where a run reads clips."""
    if card.frames is None:
        return []
    return [f"Images are clips of {card.frames} frames here. Pictures show the middle frame and the middle map."]


def pool_distribution(network: Network, material: Material, seed: int) -> dict[str, Any] | None:
    """Count predicted classes over a sample of the unlabeled pool, beside the labels' own distribution.

    None without a pool, and of images with several labels.

    Of K classes max(2000, 25 K) images are predicted, or the whole pool where it holds fewer: with 25 images of a class
    its count is within 40 % of what it should be in 19 of 20 cases.
    """
    pools = material.pools
    if not pools.unlabeled or pools.card.several:
        return None
    n = max(POOL_SAMPLE, POOL_SAMPLE_PER_CLASS * len(pools.card.classes))
    order = torch.randperm(len(pools.unlabeled), generator=torch.Generator().manual_seed(seed))[:n]
    rows = [pools.unlabeled[int(i)] for i in order]
    predicted = predict_probs(network, pools.pixels.read, rows, pools.device).argmax(1)
    truth = material.truth.cpu()[order]
    known, n_classes = truth >= 0, len(pools.card.classes)
    return {
        "n": len(rows),
        "predicted": torch.bincount(predicted, minlength=n_classes).tolist(),
        "labeled": torch.bincount(torch.as_tensor(pools.labels), minlength=n_classes).tolist(),
        "accuracy_where_known": (predicted == truth)[known].float().mean().item() if known.any() else None,
        "n_known": int(known.sum()),
    }
