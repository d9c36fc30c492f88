"""How many points of the path does explanation-based attention need? Rankings with few points against 128.

    python benchmarks/accuracy/path_points.py OUT/cells/fit-*/run --n-labels 250

takes finished runs with validation images, such as the cells of `eke reproduce eba-mnist`, and 500 images of each one's
own source that it did not spend, and ranks these by integrated gradients with each number of points. Prints, against
the ranking by the most points: Spearman's correlation of the ranks of all images, and the share of the first `--n` that
both have, means over runs with 95 % t intervals. "none" is the ranking by descriptors without attention: what attention
changes at all. Runs of one seed share images, so intervals are somewhat too narrow.
"""

import argparse
import json
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from eke.acquire.contract import Labeled
from eke.acquire.eba import eba
from eke.data.splits import load_split
from eke.engine.journal import RunFolder, describe_environment
from eke.engine.model_files import load_classifier
from eke.engine.processes import choose_device
from eke.metrics.statistics import t_interval
from eke.progress import bars, silent
from eke.tasks.candidates import Attention, Pool, gather, mistakes_of
from eke.tasks.prepare import open_pixels


def rankings(run, n_images, scale, points):
    """Return, for each number of points and for no attention, the pool's images from the most wanted to the least."""
    device = choose_device("auto")
    network, card = load_classifier(RunFolder(run).model, device)
    images, cache, readable, _ = open_pixels(RunFolder(run).read(RunFolder(run).config)["source"], card)
    split = load_split(RunFolder(run).split)
    spent = {*split.labeled, *split.validation, *split.test, *split.dropped}
    left = [row for row in readable if images.ids[row] not in spent]
    rows = np.random.default_rng(0).permutation(left)[:n_images].tolist()
    pool = Pool(run, network, card, images, cache.resident(device), rows, silent)
    found = {}
    for each in ("none", *points):
        form = "none" if each == "none" else "ig"
        attention = Attention(form, scale, 1 if each == "none" else each, False)
        strategy = eba(mistakes_of(pool, attention).mistakes)
        candidates = gather(pool, strategy.needs, attention.n_steps, 0, attention)
        found[str(each)] = [pick.row for pick in strategy.select(candidates, Labeled(), len(rows), 0)]
    return found


def compare(ranking, reference, n):
    """Return the correlation of ranks, and the share of the first n that both have."""
    return float(spearmanr(np.argsort(ranking), np.argsort(reference)).statistic), len(
        {*ranking[:n]} & {*reference[:n]}
    ) / n


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--n-labels", type=int, help="only the runs that trained with so many labels")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--scale", default="L90", help="layers, as in eba:ig@SCALE")
    parser.add_argument("--points", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 128])
    parser.add_argument("--n", type=int, default=100, help="picks that are compared as a set")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    most = str(max(given.points))
    runs = [run for run in given.runs if given.n_labels in (None, len(load_split(RunFolder(run).split).labeled))]
    found = {}
    with bars("runs", len(runs)) as advance, tempfile.TemporaryDirectory() as folder:
        for number, run in enumerate(runs):
            copy = shutil.copytree(run, Path(folder) / str(number), ignore=shutil.ignore_patterns("scores"))
            ranked = rankings(copy, given.images, given.scale, given.points)
            for name, ranking in ranked.items():
                found.setdefault(name, []).append(compare(ranking, ranked[most], given.n))
            advance(1)
    intervals = {
        name: {"spearman": t_interval(ranks)._asdict(), "shared": t_interval(shared)._asdict()}
        for name, values in found.items()
        for ranks, shared in [zip(*values, strict=True)]
    }
    environment = describe_environment(torch.device("cpu"))
    if given.json:
        print(json.dumps({"command": shlex.join(sys.argv), "environment": environment, "points": intervals}))
        return
    print(" ".join(f"{key}={value}" for key, value in environment.items()))
    print(f"{len(runs)} runs, {given.images} images, {given.scale}, against {most} points")
    print(f"{'points':>6}  {'rank correlation':<24}  the first {given.n} shared")
    for name, each in intervals.items():
        words = ["{value:.3f} [{low:.3f}, {high:.3f}]".format(**each[key]) for key in ("spearman", "shared")]
        print(f"{name:>6}  {words[0]:<24}  {words[1]}")


if __name__ == "__main__":
    main()
