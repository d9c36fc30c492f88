"""Does attention that agrees tell which network is better? Agreement on held-out images against validation accuracy.

    python benchmarks/accuracy/agreement.py OUT/cells/fit-*/run --layers block1,block2,block3,block4

takes finished runs with validation images, such as the cells of `eke reproduce gradcam-table2`, and measures, at each
layer, agreement and spread of the maps of the same 128 validation images and views, without their labels. Prints for
each layer Spearman's rank correlation with validation accuracy over runs, with a bootstrap interval over runs (10,000
resamples, percentiles). Runs of one seed share their labels, so they are not quite independent and intervals are
somewhat too narrow. `--method NAME` takes the runs of one method only: between methods a correlation says which method
looks more alike, within one which run does.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from eke.engine.journal import RunFolder
from eke.engine.model_files import load_classifier
from eke.engine.processes import choose_device
from eke.methods.terms import AttentionOptions
from eke.progress import bars
from eke.tasks.held_out_attention import N_IMAGES, HeldOut, consistency
from eke.tasks.prepare import open_pixels

N_RESAMPLES = 10_000


def held_out_of(config, card):
    """Return the run's first validation images; these benchmarks' runs have a validation source of their own."""
    images, cache, rows, _ = open_pixels(config["data"]["val_source"], card)
    rows = rows[:N_IMAGES]
    return HeldOut(cache.resident(choose_device("cpu")).read(rows), [images.ids[row] for row in rows])


def measure(run, layers):
    """Return accuracy, and agreement and spread by layer; None for a run without validation."""
    folder = RunFolder(run)
    results, config = folder.read(folder.results), folder.read(folder.config)
    if "validation" not in results["evaluations"] or not config["data"]["val_source"]:
        return None
    network, card = load_classifier(folder.model, choose_device("cpu"))
    images = held_out_of(config, card)
    row = {
        "run": str(run),
        "method": results["method"],
        "accuracy": results["evaluations"]["validation"]["accuracy"]["value"],
    }
    for layer in layers:
        found = consistency(network, images, AttentionOptions(weight=1, layer=layer))
        row[layer] = {name: found[f"attention_{name}"] for name in ("agreement", "spread", "flat_rate")}
    return row


def correlation(a, b):
    """Return Spearman's correlation and its 95 % bootstrap interval over runs."""
    a, b = np.array(a), np.array(b)
    draws = np.random.default_rng(0).integers(0, len(a), (N_RESAMPLES, len(a)))
    resampled = [spearmanr(a[rows], b[rows]).statistic for rows in draws if len(set(rows.tolist())) > 2]
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return {"value": float(spearmanr(a, b).statistic), "low": float(low), "high": float(high)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--layers", default="block1,block2,block3,block4")
    parser.add_argument("--method")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    layers = given.layers.split(",")

    rows = []
    with bars("runs", len(given.runs)) as advance:
        for run in given.runs:
            row = measure(run, layers)
            if row is not None and given.method in (None, row["method"]):
                rows.append(row)
            advance(1)
    if len(rows) < 20:
        sys.exit(f"{len(rows)} runs with validation images are too few to correlate: name 20 or more.")
    accuracy = [row["accuracy"] for row in rows]
    found = {
        layer: {name: correlation(accuracy, [row[layer][name] for row in rows]) for name in ("agreement", "spread")}
        for layer in layers
    }
    if given.json:
        report = {
            "command": shlex.join(["python", *sys.argv]),
            "n_runs": len(rows),
            "correlations": found,
            "runs": rows,
        }
        print(json.dumps(report, indent=1))
        return
    print(f"{len(rows)} runs, validation accuracy {min(accuracy):.1%} to {max(accuracy):.1%}")
    for layer, each in found.items():
        words = ", ".join(f"{n} {c['value']:+.2f} [{c['low']:+.2f}, {c['high']:+.2f}]" for n, c in each.items())
        mean = np.mean([row[layer]["agreement"] for row in rows])
        print(f"  {layer:<10} Spearman with {words}; mean agreement {mean:.2f}")


if __name__ == "__main__":
    main()
