"""Explanation-based attention, Figure 2: nine requests of 250 labels on MNIST, at three imbalances, lenet.

Scales: `smoke` is digits of 20 pixels and says nothing; `cpu` a pool of 10,000 images of MNIST, 1,000 to validate, four
requests, K = 8 instead of 128, and 600 steps whatever the number of labels; `paper` the paper's own numbers.
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

SEEDS = {"smoke": 2, "cpu": 3, "paper": 10}
SINGLE, MULTI = "eba:ig@L20", "eba:ig@L90"
FEATURES, SALIENCY, UNCERTAIN = "eba:none@L20", "eba:grad@L90", "varratio_mc"
STRATEGIES = (UNCERTAIN, FEATURES, SALIENCY, SINGLE, MULTI, f"{MULTI}/oracle")
RATE = {"lr": 0.05, "schedule": "tenths-3/10"}
RATIOS = (1.0, 10.0, 100.0)


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: no folder of MNIST was named.
        DataError: images are missing.
    """
    bench = _bench(scale, data)
    replays = make_replays(bench, seeds, out, progress)
    says = Claims(replays, "section 4, MNIST, Figure 2")
    first, middle, last = bench.ratios[0], bench.ratios[-2], bench.ratios[-1]
    says.add("Matching by features beats random labels (by about 1 point)", (first, FEATURES, RANDOM))
    says.add("Attention adds to it (another point)", (first, MULTI, FEATURES))
    says.add("At a high imbalance features beat random labels (by up to 20 points)", (last, FEATURES, RANDOM))
    says.add("At a high imbalance attention beats random labels (by up to 25 points)", (last, MULTI, RANDOM))
    says.add_growth("Imbalance makes the lead of attention larger", MULTI, RANDOM, first, last)
    says.add(
        "Several scales and integrated gradients are the best of attention",
        *((ratio, MULTI, other) for ratio in bench.ratios for other in (SINGLE, SALIENCY)),
    )
    says.add(
        "Attention beats the variation ratio but at the highest imbalance",
        (first, MULTI, UNCERTAIN),
        (middle, MULTI, UNCERTAIN),
    )
    says.add("At the highest imbalance the variation ratio beats it (by less than 1 point)", (last, UNCERTAIN, MULTI))
    says.add_growth(
        "True classes instead of pseudo-labels help more at a high imbalance (up to 25 points)",
        f"{MULTI}/oracle",
        MULTI,
        first,
        last,
    )
    title = "Explanation-based attention, Figure 2: active learning on imbalanced digits"
    return lay_out("eba-mnist", title, scale, bench, replays, says.made)


def _bench(scale: Scale, data: Path | None) -> EbaBench:
    if scale == "smoke":
        plan = SimulationPlan("digits", None, 12, n_val=40, n_pool=600, n_test=200, size=20)
        text = "Handwritten digits, enlarged to 20 pixels, a few steps: a test of the machinery."
        return EbaBench(plan, (1.0, 6.0), STRATEGIES, 1, 2, "lenet", RATE, lambda n: 20, text)
    if data is None:
        raise ConfigError("This table needs MNIST: --data FOLDER with mnist-train.parquet and mnist-test.parquet.")
    train, test = (str(data / f"mnist-{part}.parquet") for part in ("train", "test"))
    if scale == "cpu":
        plan = SimulationPlan(train, test, 250, n_val=1_000, n_pool=10_000)
        text = "MNIST; lenet with dropout; SGD, rate 0.05, a tenth of it after each 180 of 600 steps of 25 images."
        return EbaBench(plan, RATIOS, STRATEGIES, 4, 8, "lenet", RATE, lambda n: 600, text)
    plan = SimulationPlan(train, test, 250, n_val=10_000, n_pool=50_000)
    text = "MNIST; lenet with dropout; SGD, 50 epochs of batches of 25, rate 0.05, a tenth of it after each 15."
    return EbaBench(plan, RATIOS, STRATEGIES, 9, 128, "lenet", RATE, epochs(50), text)
