"""The pixel cache at scale: is it built at the speed of decoding, and does reading it stay small?

Real CIFAR-10 photographs, enlarged to 96x96 JPEG, are decoded into a cache in a temporary folder (2.76 GB for
the default 100,000), which a fresh process then reads in random batches.

    python benchmarks/speed/cache.py [--n 100000] [--data PARQUET] [--json]
"""

import argparse
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHARED = Path(os.environ.get("EKE_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SIDE = 96
DISTINCT = 5000
BATCH, BATCHES = 512, 200

_contents: list[bytes] = []


class Photos:
    """An image set that repeats a few thousand distinct photographs under ids of their own."""

    def __init__(self, contents: list[bytes], n: int) -> None:
        self.contents = contents
        self.ids = [f"{i:016x}" for i in range(n)]
        self.paths = tuple(f"{i}.jpg" for i in range(n))

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> bytes:
        return self.contents[index % len(self.contents)]


def enlarge(data: Path, n: int) -> list[bytes]:
    import pyarrow.parquet as pq
    from PIL import Image

    contents = []
    for row in pq.read_table(data, columns=["image"]).column("image").slice(0, n).to_pylist():
        file = io.BytesIO()
        image = Image.open(io.BytesIO(row["bytes"])).convert("RGB")
        image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    return contents


def load_contents(path: Path) -> None:
    _contents.extend(pickle.loads(path.read_bytes()))


def decode_only(rows: range) -> int:
    from eke.data.decode import decode

    for row in rows:
        decode(_contents[row % len(_contents)], channels=3)
    return len(rows)


def time_decoding(contents_path: Path, n: int, cores: int) -> float:
    """Images per second of decoding alone, in one warm process per core."""
    blocks = [range(i, min(i + 150, n)) for i in range(0, n, 150)]
    with multiprocessing.get_context("spawn").Pool(cores, load_contents, (contents_path,)) as pool:
        pool.map(decode_only, [range(50)] * 4 * cores, chunksize=1)
        started = time.perf_counter()
        decoded = sum(pool.imap_unordered(decode_only, blocks))
        return decoded / (time.perf_counter() - started)


def read_batches(path: Path) -> dict[str, float]:
    """Read random batches into one buffer; report speed and the peak resident memory of this process."""
    import torch

    from eke.data.cache import PixelCache

    torch.set_num_threads(1)
    cache = PixelCache(path)
    generator = torch.Generator().manual_seed(0)
    buffer = torch.empty((BATCH, *cache.shape), dtype=torch.uint8)
    cache.read(range(min(BATCH, len(cache))))
    started = time.perf_counter()
    for _ in range(BATCHES):
        cache.read(torch.randint(len(cache), (BATCH,), generator=generator), out=buffer)
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return {"read_images_per_s": BATCH * BATCHES / seconds, "read_peak_rss_mb": int(peak) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000, help="images in the cache")
    parser.add_argument("--data", type=Path, default=SHARED / "cifar10-train.parquet", help="photographs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read_batches(arguments.read)))
        return
    from eke.data.cache import build_cache

    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contents = enlarge(arguments.data, min(DISTINCT, arguments.n))
        (folder / "contents").write_bytes(pickle.dumps(contents))
        decoding = time_decoding(folder / "contents", arguments.n, cores)
        started = time.perf_counter()
        cache = build_cache(
            Photos(contents, arguments.n), (SIDE, SIDE), channels=3, fit="crop", folder=folder / "cache"
        )
        building = arguments.n / (time.perf_counter() - started)
        reader = [sys.executable, __file__, "--read", str(cache.path)]
        reading = json.loads(subprocess.run(reader, check=True, capture_output=True, text=True).stdout)
        figures = {
            "n": arguments.n,
            "size": [SIDE, SIDE],
            "cores": cores,
            "file_gb": cache.path.stat().st_size / 1e9,
            "decode_images_per_s": decoding,
            "build_images_per_s": building,
            "build_over_decode": building / decoding,
            **reading,
        }
    if arguments.json:
        print(json.dumps(figures))
        return
    for label, value in figures.items():
        print(f"{label:22} {value:,.2f}" if isinstance(value, float) else f"{label:22} {value}")


if __name__ == "__main__":
    main()
