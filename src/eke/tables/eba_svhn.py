"""Explanation-based attention, Figure 3: requests for labels with an eight-layer network on color images.

The paper has house numbers (SVHN). At the scale `cpu` its place is taken by CIFAR-10, under its own name, with one seed
and few steps: to see that the network works, not to compare figures. `smoke` is digits of 24 pixels; `paper` takes
svhn-train.parquet (train and extra images) and svhn-test.parquet, and the paper's own numbers.
See `eke.tables.eba` for what the paper leaves open.
"""

from pathlib import Path

from eke.errors import ConfigError
from eke.progress import Progress
from eke.tables.benches import Scale
from eke.tables.eba import Claims, EbaBench, epochs, lay_out, make_replays
from eke.tasks.grid_table import Table
from eke.tasks.replay import RANDOM
from eke.tasks.simulate_data import SimulationPlan

SEEDS = {"smoke": 2, "cpu": 1, "paper": 5}
SINGLE, TWO = "eba:ig@L256", "eba:ig@L384"
UNCERTAIN = "varratio_mc"
STRATEGIES = (UNCERTAIN, "eba:none@L256", SINGLE, TWO)
RATE = {"lr": 0.1, "schedule": "tenths-3/7"}
RATIOS = (1.0, 100.0)


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: no folder of images was named.
        DataError: images are missing.
    """
    bench = _bench(scale, data)
    replays = make_replays(bench, seeds, out, progress)
    says = Claims(replays, "section 4, SVHN, Figure 3")
    first, last = bench.ratios[0], bench.ratios[-1]
    says.add("Attention beats random labels without imbalance (by 2 points)", (first, TWO, RANDOM))
    says.add("Attention beats random labels at a high imbalance (by more than 12 points)", (last, TWO, RANDOM))
    says.add_growth("Imbalance makes the lead of attention larger", TWO, RANDOM, first, last)
    says.add(
        "Attention beats the variation ratio in the first rounds (by up to 2.5 points)",
        *((ratio, TWO, UNCERTAIN) for ratio in bench.ratios),
    )
    name = Path(bench.plan.source).name.split("-")[0].split(".")[0]
    title = f"Explanation-based attention, Figure 3: active learning with an eight-layer network, on {name}"
    return lay_out("eba-svhn", title, scale, bench, replays, says.made)


def _bench(scale: Scale, data: Path | None) -> EbaBench:
    if scale == "smoke":
        plan = SimulationPlan("digits", None, 12, n_val=40, n_pool=300, n_test=100, size=24)
        text = "Handwritten digits, enlarged to 24 pixels, a few steps: a test of the machinery."
        return EbaBench(plan, (1.0, 6.0), STRATEGIES, 1, 2, "cnn8", RATE, lambda n: 10, text)
    if data is None:
        raise ConfigError("This table needs images: --data FOLDER with cifar10-train.parquet; at scale paper svhn-...")
    name = "cifar10" if scale == "cpu" else "svhn"
    train, test = (str(data / f"{name}-{part}.parquet") for part in ("train", "test"))
    if scale == "cpu":
        plan = SimulationPlan(train, test, 250, n_val=500, n_pool=4_000, n_test=2_000)
        text = "CIFAR-10; cnn8 with dropout; SGD, rate 0.1, a tenth of it after each 171 of 400 steps of 25 images."
        return EbaBench(plan, RATIOS, STRATEGIES, 2, 8, "cnn8", RATE, lambda n: 400, text)
    plan = SimulationPlan(train, test, 2_500, n_val=104_388, n_pool=500_000)
    text = "SVHN; cnn8 with dropout; SGD, 35 epochs of batches of 25, rate 0.1, a tenth of it after each 15."
    return EbaBench(plan, (1.0, 10.0, 100.0), STRATEGIES, 9, 128, "cnn8", RATE, epochs(35), text)
