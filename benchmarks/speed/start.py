"""How long `eke --help` and `import eke` take in a fresh process.

    python benchmarks/speed/start.py

Prints the median and the range of 20 starts, and that of a bare Python for comparison.
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import eke": [sys.executable, "-c", "import eke"],
    "eke --help": [sys.executable, "-m", "eke", "--help"],
    "eke fit --help": [sys.executable, "-m", "eke", "fit", "--help"],
}


def main():
    for name, command in COMMANDS.items():
        seconds = []
        for _ in range(20):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
        print(f"{name:<16} {statistics.median(seconds):.3f} s  ({min(seconds):.3f} ... {max(seconds):.3f})")


if __name__ == "__main__":
    main()
