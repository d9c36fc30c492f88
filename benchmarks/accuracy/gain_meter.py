"""Does the gain meter tell the truth? Campaigns of requests whose answers and true accuracies are known.

    python benchmarks/accuracy/gain_meter.py --data ../shared/data --campaigns 60
    python benchmarks/accuracy/gain_meter.py --campaigns 3 --rounds 4         # digits alone, half a minute

A campaign: of each image, features that are computed once (its pixels, of MNIST means of 2 x 2); a random first batch;
then in each round a control share, drawn and kept as `eke ask` does, and the least decided images by margin; a linear
probe is fitted to all labels but the control's, and measured on the control by `eke gain`'s functions. The truth is its
accuracy on test images that nothing else sees. Pools:

    whole     all classes
    easy      two classes, zero and one, which the first batch settles: nothing to gain
    noise     all classes, labels shuffled, of the test images too: nothing to gain

Printed of each: how often the control's 95 % interval holds the truth, at the last round and over all; the mean of
control less truth, which shows whether the control is easier than what it stands for; the root mean square error of the
forecast of the next batch's gain, from the third round on, and how often its interval holds; in how many campaigns
stopping is advised before the last round, and what the labels that would have followed still brought.
Intervals of rates are Wilson's over campaigns; of rounds of one campaign they would be too narrow, and have none.
"""

import argparse
import json
import shlex
import sys
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from eke.acquire.contract import Candidates, Labeled
from eke.acquire.strategies import STRATEGIES
from eke.data.sources import open_images
from eke.engine.journal import describe_environment
from eke.metrics.gain import Round
from eke.metrics.statistics import t_interval, wilson
from eke.metrics.stopping import advise, kappa
from eke.progress import bars
from eke.randomness import mixed_seed
from eke.tasks.choosing import draw_control
from eke.tasks.probe import C_DEFAULT, fit_linear

POOLS = ("whole", "easy", "noise")
WORTH = 0.01
FROM_ROUND = 3
"""The first round whose forecast is judged: with two points a curve has no bend."""


class Bench(NamedTuple):
    """Images whose truth is known."""

    name: str
    ids: list[str]
    features: torch.Tensor
    labels: np.ndarray
    n_pool: int
    batch: int


def digits():
    images = open_images("digits")
    pixels = np.stack([np.asarray(images.read(row)) for row in range(len(images))])
    return Bench("digits", list(images.ids), _flat(pixels), images.labels, n_pool=1_300, batch=50)


def mnist(data):
    images = open_images(str(data / "mnist-train.parquet"))
    rows = np.random.default_rng(0).permutation(len(images))[:20_000]
    pixels = np.stack([np.asarray(Image.open(BytesIO(images.read(int(row))))) for row in rows])
    means = pixels.reshape(-1, 14, 2, 14, 2).mean((2, 4))
    ids = [images.ids[row] for row in rows]
    return Bench("MNIST", ids, _flat(means), images.labels[rows], n_pool=10_000, batch=100)


def _flat(pixels):
    return torch.from_numpy(pixels.reshape(len(pixels), -1).astype(np.float32) / 255)


def campaign(bench, pool, seed, n_rounds, control_rate):
    """Return, of each round: labels, control images, right ones, the truth, and the agreement with the round before."""
    generator = np.random.default_rng(mixed_seed(seed, 0, f"campaign/{bench.name}/{pool}"))
    labels = generator.permutation(bench.labels) if pool == "noise" else bench.labels
    rows = generator.permutation(np.flatnonzero(bench.labels < 2) if pool == "easy" else len(labels))
    n_pool = round(len(rows) * bench.n_pool / len(bench.labels))
    batch = min(bench.batch, n_pool // (2 * n_rounds))
    left, test = [int(row) for row in rows[:n_pool]], rows[n_pool:]
    trained, left = left[:batch], left[batch:]
    names = [f"{seed}/{name}" for name in bench.ids]  # a control is a function of names: each campaign has its own
    control, said, found = [], None, []
    for number in range(n_rounds):
        probe = fit_linear(bench.features[trained], labels[trained], C_DEFAULT)
        classes = probe.model[-1].classes_
        truth = float((classes[probe.probs(bench.features[test]).argmax(1)] == labels[test]).mean())
        probs = probe.probs(bench.features[left + control])
        predicted = classes[probs.argmax(1)]
        sample = classes[probe.probs(bench.features[rows[:1000]]).argmax(1)]
        right = int((predicted[len(left) :] == labels[control]).sum())
        found.append((len(trained), len(control), right, truth, None if said is None else kappa(said, sample)))
        said = sample
        chosen, drawn = ask(
            [names[row] for row in left], left, torch.from_numpy(probs[: len(left)]), batch, control_rate, seed + number
        )
        trained, control = trained + chosen, control + drawn
        gone = {*chosen, *drawn}
        left = [row for row in left if row not in gone]
    return found


def ask(ids, rows, probs, n, control_rate, seed):
    """Return rows for the strategy and rows for the control, as `eke ask` draws them."""
    control = draw_control(ids, n, control_rate)
    candidates = Candidates(ids, probs=probs, excluded=control.apart)
    chosen = STRATEGIES["margin"].select(candidates, Labeled(), n - len(control.drawn), seed)
    return [rows[pick.row] for pick in chosen], [rows[pick.row] for pick in control.drawn]


def judge(campaigns):
    """Put the rounds of many campaigns into figures; without a control image there is nothing to judge."""
    last, every, bias, errors, held, stops, missed, gains = [], [], [], [], [], [], [], []
    for rounds in campaigns:
        measured = [
            Round(str(number), n_labels, right, n) for number, (n_labels, n, right, _, _) in enumerate(rounds) if n
        ]
        truths = [each[3] for each in rounds if each[1]]
        agreements = [each[4] for each in rounds if each[1]][1:]
        covered = []
        for round_, truth in zip(measured, truths, strict=True):
            interval = round_.accuracy()
            covered.append(interval.low <= truth <= interval.high)
        every += covered
        last.append(covered[-1])
        bias.append(measured[-1].accuracy().value - truths[-1])
        stopped = None
        for number, (now, then) in enumerate(pairwise(truths), 1):
            if number < FROM_ROUND:
                continue
            n_more = measured[number].n_labels - measured[number - 1].n_labels
            advice = advise(measured[:number], n_more, WORTH, agreements[: number - 1])
            errors.append(advice.forecast.value - (then - now))
            held.append(advice.forecast.low <= then - now <= advice.forecast.high)
            gains.append(then - now)
            if stopped is None and advice.stop:
                stopped = number
                missed.append((truths[-1] - now) / (len(truths) - number))
        stops.append(stopped is not None)
    return {
        "n": len(campaigns),
        "covered_last": wilson(sum(last), len(last))._asdict(),
        "covered_all": float(np.mean(every)),
        "control_less_truth": t_interval(bias)._asdict(),
        "forecast_rms": float(np.sqrt(np.mean(np.square(errors)))),
        "forecast_mean_error": float(np.mean(errors)),
        "true_gain": float(np.mean(gains)),
        "forecast_covered": float(np.mean(held)),
        "stopped": wilson(sum(stops), len(stops))._asdict(),
        "gain_per_batch_after_stop": float(np.mean(missed)) if missed else None,
        "truth": [float(np.mean([rounds[place][3] for rounds in campaigns])) for place in (0, -1)],
    }


def render(found):
    lines = [
        f"{'':<14} {'campaigns':>9} {'truth':>15} {'covered, last':>20} {'all':>6} {'control-truth':>20} "
        f"{'gain':>6} {'forecast rms':>12} {'mean':>6} {'covered':>8} {'stop':>20} {'then':>6}"
    ]
    for name, each in found.items():
        start, end = (f"{100 * value:.1f}" for value in each["truth"])
        after = each["gain_per_batch_after_stop"]
        lines.append(
            f"{name:<14} {each['n']:>9} {start + ' to ' + end:>15} {_words(each['covered_last']):>20} "
            f"{100 * each['covered_all']:>6.1f} {_words(each['control_less_truth']):>20} "
            f"{100 * each['true_gain']:>6.2f} {100 * each['forecast_rms']:>12.2f} "
            f"{100 * each['forecast_mean_error']:>+6.2f} {100 * each['forecast_covered']:>8.1f} "
            f"{_words(each['stopped']):>20} {'' if after is None else f'{100 * after:.2f}':>6}"
        )
    return "\n".join(lines)


def _words(interval):
    return f"{100 * interval['value']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with mnist-train.parquet; without it digits alone")
    parser.add_argument("--campaigns", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--control", type=float, default=0.1, help="share of each request, 0.1 as in eke ask")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    benches = [digits(), *([mnist(given.data)] if given.data else [])]
    found = {}
    for bench in benches:
        for pool in POOLS:
            with bars(f"{bench.name}, {pool}", given.campaigns) as advance:
                campaigns = []
                for seed in range(given.campaigns):
                    campaigns.append(campaign(bench, pool, seed, given.rounds, given.control))
                    advance(1)
            found[f"{bench.name}, {pool}"] = judge(campaigns)
    environment = describe_environment(torch.device("cpu"))
    if given.json:
        print(json.dumps({"command": shlex.join(sys.argv), "environment": environment, "pools": found}))
        return
    print(" ".join(f"{key}={value}" for key, value in environment.items()))
    print(render(found))


if __name__ == "__main__":
    main()
