"""What choosing images costs at the size of a large pool, and how much memory it takes.

    python benchmarks/speed/acquire.py                          # 500,000 images, 512 features, 800 classes
    python benchmarks/speed/acquire.py --small --json           # a few seconds; what the tests run

Each part runs in a fresh process, whose peak memory (VmHWM) is its own. Aims, on 2 CPU cores: k-center 0.2 s a pick,
BADGE 0.4 s a pick, both under 3 GB; the similarity of explanation-based attention, 2048 mistakes against the pool at
384 numbers each, at 60 % or more of the rate of a bare matrix product. That rate is measured in the same process, on
blocks of the same shape that take turns with the whole. Random numbers: speed does not depend on what they show.

Types are those that `eke ask` keeps: probabilities and descriptors float32, features float16, which are widened block
by block. The 800 probabilities and 512 features of each image then take 2.1 GB of the 3.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from eke.acquire.diversity import badge, k_center
from eke.acquire.eba import BLOCK_MISTAKES, BLOCK_POOL, Sides, most_similar, similarity

PARTS = ("k_center", "badge", "eba")
FULL = {"images": 500_000, "features": 512, "classes": 800, "descriptors": 384, "mistakes": BLOCK_MISTAKES, "picks": 10}
SMALL = {"images": 3000, "features": 32, "classes": 20, "descriptors": 24, "mistakes": 100, "picks": 3}


def peak_gb():
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / 1e9


def random_rows(n, width, dtype, seed, positive=False):
    """Return (n, width) made block by block, so that making them does not set the peak."""
    generator, rows = torch.Generator().manual_seed(seed), torch.empty(n, width, dtype=dtype)
    for block in rows.split(8192):
        made = torch.randn(block.shape, generator=generator)
        block.copy_(made.softmax(1) if positive else made)
    return rows


def seconds_per_pick(choose, n_picks):
    """Return the seconds of a pick beyond the first, so that what is computed once does not count."""
    times = []
    for n in (1, 1 + n_picks):
        begin = time.perf_counter()
        choose(n)
        times.append(time.perf_counter() - begin)
    return {"seconds_per_pick": (times[1] - times[0]) / n_picks, "seconds_before": times[0]}


def run_k_center(given):
    features, order = random_rows(given.images, given.features, torch.float16, 0), torch.randperm(given.images)
    return seconds_per_pick(lambda n: k_center(features, features[:0], n, order), given.picks)


def run_badge(given):
    features, order = random_rows(given.images, given.features, torch.float16, 0), torch.randperm(given.images)
    probs = random_rows(given.images, given.classes, torch.float32, 1, positive=True)
    return seconds_per_pick(lambda n: badge(probs, features, n, order, 0), given.picks)


def run_eba(given):
    pool = Sides(*(random_rows(given.images, given.descriptors, torch.float32, seed) for seed in (0, 1)))
    mistakes = Sides(*(random_rows(given.mistakes, given.descriptors, torch.float32, seed) for seed in (2, 3)))
    order = torch.randperm(given.images)
    products = 2 * given.mistakes * given.descriptors * 2  # per image, in both factors of R
    block, n = pool.unit(slice(0, BLOCK_POOL)), min(BLOCK_POOL, given.images)
    ours = mistakes.unit(slice(None))
    out = torch.empty(given.mistakes, n)
    bare = []
    for repeat in range(6):
        begin = time.perf_counter()
        torch.mm(ours[0], block[0].T, out=out)
        torch.mm(ours[1], block[1].T, out=out)
        if repeat:
            bare.append(products * n / (time.perf_counter() - begin))
        similarity(ours, block)
    begin = time.perf_counter()
    most_similar(mistakes, pool, min(32, given.images), order)
    seconds = time.perf_counter() - begin
    rate = products * given.images / seconds
    plain = statistics.median(bare)
    return {"seconds": seconds, "gflops": rate / 1e9, "gflops_of_products": plain / 1e9, "share": rate / plain}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="sizes that take a few seconds")
    for name in FULL:
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=PARTS, help="one part, in this process")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for name, size in (SMALL if given.small else FULL).items():
        if getattr(given, name) is None:
            setattr(given, name, size)
    torch.set_num_threads(given.threads)
    if given.part:
        found = globals()[f"run_{given.part}"](given)
        print(json.dumps({**found, "peak_gb": peak_gb()}))
        return

    from eke.engine.journal import describe_environment  # here, so that its imports do not count as memory of a part

    result = {"environment": describe_environment(torch.device("cpu")), "arguments": vars(given)}
    for part in PARTS:
        command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
        result[part] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    if given.json:
        print(json.dumps(result))
        return
    print(" ".join(f"{k}={v}" for k, v in result["environment"].items()))
    for part, aim in (("k_center", 0.2), ("badge", 0.4)):
        found = result[part]
        print(
            f"{part:<9} {found['seconds_per_pick']:.3f} s a pick (aim {aim}), {found['peak_gb']:.2f} GB (aim: under 3)"
        )
    found = result["eba"]
    print(
        f"eba       {found['gflops']:.1f} of {found['gflops_of_products']:.1f} GFLOP/s of the products alone: "
        f"{found['share']:.0%} (aim: 60 %), {found['seconds']:.1f} s, {found['peak_gb']:.2f} GB"
    )


if __name__ == "__main__":
    main()
