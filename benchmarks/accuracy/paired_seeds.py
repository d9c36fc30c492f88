"""A method against its supervised baseline over paired seeds: equal labels, labeled views, labeled batch and steps.

    python benchmarks/accuracy/paired_seeds.py digits --n-seeds 5 --steps 400 --labels-per-class 4 ...
    python benchmarks/accuracy/paired_seeds.py cifar10-train.parquet --test cifar10-test.parquet --n-seeds 3 \\
        --labels-per-class 25 --steps 4000 --model small --set batch.labeled=16 --set batch.mu=4 --set data.val_rate=0

Each seed draws other labels, weights, batches and views; the two runs of a seed share them. Prints the accuracies,
the paired difference with its t interval over seeds, the mean mask rate of the last tenth of the run, hardware and
commit. A killed benchmark goes on: finished runs in --out are kept. Nothing is chosen on the test images: one
configuration is run, and its figures are reported as they are.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

from eke.engine.journal import RunFolder
from eke.metrics.statistics import paired_t, t_interval
from eke.progress import bars
from eke.tasks.fit import fit
from eke.tasks.options import resolve


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--test")
    parser.add_argument("--method", default="fixmatch")
    parser.add_argument("--n-seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--labels-per-class", type=int, default=25)
    parser.add_argument("--model", default="small")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/paired-seeds"))
    given = parser.parse_args()

    rows = []
    for seed in range(given.n_seeds):
        flags = {
            "source": given.source,
            "test": given.test,
            "steps": given.steps,
            "seed": seed,
            "data": {"labels_per_class": given.labels_per_class},
            "model": {"name": given.model},
        }
        started = time.perf_counter()
        folder = given.out / f"{given.method}-seed-{seed}"
        results = fit(resolve(given.method, flags, given.set), folder, resume=folder.exists(), progress=bars)
        lines = [line for line in RunFolder(folder).lines() if "mask_rate" in line]
        last = [line["mask_rate"] for line in lines if line["step"] > 0.9 * given.steps]
        rows.append(
            {
                "seed": seed,
                given.method: results["evaluations"]["test"]["accuracy"]["value"],
                "supervised": results["baseline"]["evaluations"]["test"]["accuracy"]["value"],
                "final_mask_rate": statistics.mean(last) if last else None,
                "n_test": results["evaluations"]["test"]["n"],
                "labels": results["labels"],
                "seconds": time.perf_counter() - started,
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr)
    method, supervised = ([row[name] for row in rows] for name in (given.method, "supervised"))
    compared = paired_t(method, supervised)
    print(
        json.dumps(
            {
                "command": shlex.join(["python", *sys.argv]),
                "environment": json.loads((folder / "environment.json").read_text()),
                "rows": rows,
                given.method: t_interval(method)._asdict(),
                "supervised": t_interval(supervised)._asdict(),
                "difference": {**compared.interval._asdict(), "p": compared.p, "decided": compared.decided},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
