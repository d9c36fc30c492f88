"""FixMatch, FreeMatch and CoMatch on CIFAR-10 in a short protocol for one accelerator, beside the published figures.

    python benchmarks/accuracy/short_protocol.py DATA --steps 5000 --out runs/short-protocol

DATA holds cifar10-train.parquet and cifar10-test.parquet. Every method has its CIFAR-10 recipe (WRN-28-2, B = 64,
mu = 7), with a cosine over the steps asked for instead of 2^20; supervised training has equal labels, labeled batch and
steps. Nothing is chosen on the test images. A killed run goes on with the same command, and started twice both share
the work.
"""

import argparse
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

from eke.config import fingerprint
from eke.progress import bars
from eke.tables.rows import Rows
from eke.tasks.grid import Grid
from eke.tasks.grid_cells import Train
from eke.tasks.grid_data import TableData, hash_file
from eke.tasks.grid_table import Row, Section, Table, report_of, write_table

PUBLISHED = {
    "supervised": {40: 0.2242, 250: 0.4404, 4000: 0.8449},
    "fixmatch": {40: 0.8619, 250: 0.9493, 4000: 0.9574},
    "freematch": {40: 0.9510, 250: 0.9512, 4000: 0.9590},
    "comatch": {40: 0.9309, 250: 0.9509},
}
"""Accuracy after 2^20 steps: FixMatch with RandAugment (arXiv:2001.07685, table 2), FreeMatch (arXiv:2205.07246, table
1), CoMatch (arXiv:2011.11183; 40 labels: README of its code), supervised (USB, results/classic_cv.csv)."""


def cifar10(folder: Path) -> TableData:
    """Return the two files as they are: labels are drawn from the training file for each seed."""
    files = {part: folder / f"cifar10-{part}.parquet" for part in ("train", "test")}
    hashes = fingerprint({part: hash_file(file) for part, file in files.items()})
    return TableData("cifar10", *(str(file.absolute()) for file in files.values()), hashes, labels={})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--labels", type=int, nargs="+", default=[40, 250, 4000])
    parser.add_argument("--model", default="wrn-28-2")
    parser.add_argument("--out", type=Path, default=Path("runs/short-protocol"))
    given = parser.parse_args()

    rows = Rows(SimpleNamespace(data=cifar10(given.data)), range(given.seeds))
    sections = []
    for n_labels in given.labels:
        flags = {
            "steps": given.steps,
            "model": {"name": given.model},
            "data": {"labels_per_class": n_labels // 10, "val_rate": 0.0},
            "compute": {"precision": "bfloat16", "channels_last": True},
        }
        listed = []
        for method, published in PUBLISHED.items():
            paper = {"Acc.": published[n_labels]} if n_labels in published else {}
            listed.append(Row(method, {"Acc.": rows.series(Train(method, flags))}, paper))
        text = f"{given.steps:,} steps here, 1,048,576 in the papers. CIFAR-10 as JPEG of quality 75."
        sections.append(Section(f"{n_labels} labels", text, ("Acc.",), listed))
    table = Table("short-protocol", "CIFAR-10 in a short protocol", "accelerator", range(given.seeds), sections, [])
    grid = Grid(table.cells(), given.out)
    report = report_of(table, grid, grid.run(bars), shlex.join(["python", *sys.argv]))
    print(write_table(report, given.out, "short-protocol")["markdown"])


if __name__ == "__main__":
    main()
