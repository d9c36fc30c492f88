"""Views a second: eke's batches of tensors against torchvision's transforms on Pillow images, same cores, same run.

    python benchmarks/speed/views.py --json views.json

Both start from decoded images in memory and end with float tensors; drawing the parameters is included. The two take
turns, so a change of the machine's speed meets both. With one thread, CPU time is measured: it does not see what else
the machine does.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from pathlib import Path

import torch
from PIL import Image

from eke.augment.presets import PRESETS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pillow_views import make_views, pillow_view

NAMES = (
    *("weak", "randaugment/google", "randaugment/torchssl", "randaugment/comatch"),
    *("simclr", "simclr/imagenet", "barlow_twins/1"),
)
TARGETS = {("randaugment/google", 32): 12.0, ("randaugment/google", 224): 1.5}
BATCH = {32: 448, 224: 32}


def pictures(n: int, side: int, data: Path | None) -> torch.Tensor:
    """Give CIFAR-10 images enlarged to `side`, or, without data, smooth random ones."""
    if data is None:
        small = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    else:
        import io

        import numpy as np
        from pyarrow import parquet

        rows = parquet.read_table(data / "cifar10-test.parquet", columns=["image"]).slice(0, n)["image"].to_pylist()
        decoded = [np.array(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in rows]
        small = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float()
    large = torch.nn.functional.interpolate(small, (side, side), mode="bicubic")
    return large.round().clamp(0, 255).to(torch.uint8).contiguous()


def measure(name: str, side: int, repeats: int, threads: int, data: Path | None) -> dict[str, object]:
    clock = time.process_time if threads == 1 else time.perf_counter
    images = pictures(BATCH.get(side, 64), side, data)
    n = len(images)
    pillow = [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in images]
    transform, preset, generator = pillow_view(name, side), PRESETS[name], torch.Generator().manual_seed(0)
    rates: dict[str, list[float]] = {"pillow": [], "eke": []}
    for repeat in range(repeats + 1):
        start = clock()
        make_views(pillow, transform)
        middle = clock()
        preset.apply(images, preset.draw(n, 3, (side, side), generator))
        end = clock()
        if repeat:  # the first warms up
            rates["pillow"].append(n / (middle - start))
            rates["eke"].append(n / (end - middle))
    ratios = [ours / theirs for ours, theirs in zip(rates["eke"], rates["pillow"], strict=True)]
    return {
        "preset": name,
        "side": side,
        "batch": n,
        "pillow_per_s": statistics.median(rates["pillow"]),
        "eke_per_s": statistics.median(rates["eke"]),
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "target": TARGETS.get((name, side)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 224])
    parser.add_argument("--presets", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="folder with cifar10-test.parquet; smooth random images without it")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    random.seed(0)
    torch.manual_seed(0)
    rows = []
    print(f"{'preset':22}{'side':>5}{'batch':>6}{'Pillow/s':>10}{'eke/s':>10}{'ratio':>8}  lowest-highest  target")
    for side in options.sizes:
        for name in options.presets:
            row = measure(name, side, options.repeats, options.threads, options.data)
            rows.append(row)
            print(
                f"{name:22}{side:5}{row['batch']:6}{row['pillow_per_s']:10.0f}{row['eke_per_s']:10.0f}{row['ratio']:8.1f}"
                f"  {row['ratio_lowest']:6.1f}-{row['ratio_highest']:<7.1f}  {row['target'] or ''}"
            )
    about = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "clock": "CPU time" if options.threads == 1 else "wall time",
        "repeats": options.repeats,
        "torch": torch.__version__,
        "pillow": Image.__version__,
        "python": platform.python_version(),
        "images": "cifar10-test" if options.data else "smooth random",
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if options.json:
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
