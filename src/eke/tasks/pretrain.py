"""`eke pretrain`: learn a representation from images alone, and watch that it does not collapse."""

import time
from pathlib import Path
from typing import Any

import torch

from eke import collectives
from eke.config import fingerprint
from eke.engine.journal import RunFolder, describe_environment
from eke.engine.model_files import save_model
from eke.engine.predict import embed
from eke.engine.processes import choose_device, processes
from eke.errors import ConfigError
from eke.files import write_json
from eke.metrics.representation import effective_rank, embedding_std, knn_probs
from eke.models.backbones import resolve_name
from eke.progress import Progress, silent
from eke.tasks.assemble import Assembly, assemble, images_per_step
from eke.tasks.budget import calibrate
from eke.tasks.fit import DEFAULT_BUDGET, claim, default_folder
from eke.tasks.options import PretrainOptions
from eke.tasks.prepare import Material, prepare
from eke.tasks.pretrain_report import write_pretrain_report
from eke.tasks.train import clip_notes, due, run_and_save

POOL_SAMPLE = 2000
"""Unlabeled images whose embeddings are looked at for collapse."""


def pretrain(
    options: PretrainOptions, out: Path | None = None, *, resume: bool = False, progress: Progress = silent
) -> dict[str, Any] | None:
    """Train a network without labels, evaluate its embeddings, and report.

    Args:
        options: everything that determines the run; see `eke.tasks.options.resolve_pretrain`.
        out: run folder; by default `runs/` with a name made from method, source and options.
        resume: go on with an interrupted run in that folder, exactly.
        progress: shows what takes long.

    Returns:
        The run's results with the paths written; None on processes other than the first.

    Raises:
        ConfigError: the folder holds a run already and `resume` is not given, or options cannot be carried out.
        CheckpointError: `resume` with other options than the run's, or `init` names no finished run.
        DataError: images cannot be used.
        TrainingError: a loss was not finite.
    """
    device = choose_device(options.compute.device)
    torch.use_deterministic_algorithms(options.compute.deterministic)
    if options.steps is None and options.budget is None:
        options = options.model_copy(update={"budget": DEFAULT_BUDGET})
    started = time.perf_counter()
    with processes(device):
        show = progress if collectives.rank() == 0 else silent
        folder = RunFolder(out or default_folder(options))
        options = collectives.from_first(lambda: claim(folder, options, resume))
        material = prepare(options, device, show)
        require_a_batch(options, len(material.pools.unlabeled))
        if options.steps is None:
            options = options.model_copy(update={"steps": calibrate(options, material, started, show)})
        identity = fingerprint(options.model_dump(mode="json"))
        train_without_labels(options, material, folder, identity, resume=resume, progress=show)
        if collectives.rank() != 0:
            return None
        report = write_pretrain_report(folder.path, show, material)
        results: dict[str, Any] = folder.read(folder.results)
        return {**results, "run": str(folder.path), "report": str(report)}


def require_a_batch(options: PretrainOptions, n_images: int) -> None:
    """Refuse a batch larger than the pool: an image would be in it twice and be told apart from itself."""
    if options.batch.size > n_images:
        raise ConfigError(
            f"batch.size = {options.batch.size} is more than the {n_images} images of {options.source}. "
            f"Set batch.size={n_images} or less, or give more images."
        )


def train_without_labels(
    options: PretrainOptions,
    material: Material,
    folder: RunFolder,
    identity: str,
    *,
    resume: bool,
    progress: Progress,
) -> None:
    """Train and save; on return the folder holds the network and what its embeddings are like."""
    assert options.steps is not None
    assembly = assemble(options, material.pools)
    network = assembly.average.module
    evaluate_every = options.evaluate.every_steps or max(1, options.steps // 10)
    for step, journal in run_and_save(assembly, options, material, folder, identity, resume=resume, progress=progress):
        if due(step, evaluate_every, options.steps):
            journal.flush()
            if collectives.rank() == 0:
                journal.write_evaluation(step, "representation", look_at(network, material))
    if collectives.rank() == 0:
        finish(options, material, folder, assembly)


def look_at(network: torch.nn.Module, material: Material) -> dict[str, float]:
    """Measure the spread of embeddings over the pool and, of images with one label, kNN accuracy on validation."""
    pools = material.pools
    sample = pools.unlabeled[:: max(1, len(pools.unlabeled) // POOL_SAMPLE)]

    def embedded(rows: list[int]) -> torch.Tensor:
        return embed(network, pools.pixels.read, rows, pools.device)

    spread = embedded(sample)
    figures = {"embedding_std": float(embedding_std(spread)), "effective_rank": float(effective_rank(spread))}
    if material.validation and pools.labeled and not material.images.several:
        bank = torch.as_tensor(pools.labels)
        probs = knn_probs(embedded(material.validation), embedded(pools.labeled), bank, len(material.images.classes))
        truth = torch.as_tensor(material.images.labels[material.validation])
        figures["knn_accuracy"] = (probs.argmax(1) == truth).float().mean().item()
    return figures


def finish(options: PretrainOptions, material: Material, folder: RunFolder, assembly: Assembly) -> None:
    """Save the network and write the results."""
    assert options.steps is not None
    card, network = material.pools.card, assembly.average.module
    save_model(folder.model, network, card)
    write_json(folder.environment, describe_environment(material.pools.device))
    write_json(
        folder.results,
        {
            "method": options.method["name"],
            "model": resolve_name(options.model.name, card.size),
            "steps": options.steps,
            "seed": options.seed,
            "labels": material.budget,
            "n_unlabeled": len(material.pools.unlabeled),
            "images_through_network": images_per_step(options) * options.steps,
            "representation": look_at(network, material),
            "notes": [*assembly.notes, *material.split.notes, *clip_notes(card)],
            "problems": material.problems,
        },
    )


def render(results: dict[str, Any]) -> str:
    """Lay the results out as text."""
    figures = results["representation"]
    lines = [
        f"{results['method']} on {results['n_unlabeled']:,} images without their labels; {results['steps']:,} steps of "
        f"{results['model']}",
        "",
        f"  spread of embeddings   {figures['embedding_std']:.2f}   (1 = over the whole sphere, 0 = collapsed)",
        f"  effective rank         {figures['effective_rank']:.1f}",
    ]
    if "knn_accuracy" in figures:
        labels = "{validation} validation images, from {train} labels".format(**results["labels"])
        lines.append(f"  kNN accuracy           {100 * figures['knn_accuracy']:.1f} % of {labels}")
    lines += [f"Note: {note}" for note in results["notes"]]
    run = results["run"]
    lines += ["", f"Go on with:  eke probe {run} DATA    or    eke fit DATA --init {run}"]
    lines.append(f"No labels?   eke ask {run} DATA")
    return "\n".join([*lines, "", f"run     {run}", f"report  {results['report']}"])
