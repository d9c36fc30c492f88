"""Switches change speed and rounding, never the algorithm."""

import json
from pathlib import Path

import pytest

from eke.errors import ConfigError
from eke.tasks.fit import fit

from .conftest import digit_options


def first_loss(options: object, run: Path) -> float:
    fit(options, run)  # type: ignore[arg-type]
    return json.loads((run / "steps.jsonl").read_text().splitlines()[0])["loss"]


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [(("compute.channels_last=true",), 1e-5), (("compute.precision=bfloat16",), 0.05)],
)
def test_a_switch_leaves_the_loss_where_it_was(words: tuple[str, ...], tolerance: float, tmp_path: Path) -> None:
    plain = first_loss(digit_options("supervised", steps=2), tmp_path / "plain")
    assert first_loss(digit_options("supervised", words, steps=2), tmp_path / "switched") == pytest.approx(
        plain, rel=tolerance
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own internals
def test_a_compiled_network_trains_and_saves_plain_weights(tmp_path: Path) -> None:
    plain = first_loss(digit_options("supervised", steps=2), tmp_path / "plain")
    compiled = first_loss(digit_options("supervised", ("compute.compile=true",), steps=2), tmp_path / "compiled")
    assert compiled == pytest.approx(plain, rel=1e-4)
    card = json.loads((tmp_path / "compiled" / "model" / "model.json").read_text())
    assert card["classes"] == [str(k) for k in range(10)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_network_is_compiled_below_the_layers_whose_maps_are_taken(tmp_path: Path) -> None:
    words = ("attention.weight=5", "attention.layer=block2,block4")
    plain = first_loss(digit_options("fixmatch", words, steps=2, baseline="none"), tmp_path / "plain")
    compiled = first_loss(
        digit_options("fixmatch", (*words, "compute.compile=true"), steps=2, baseline="none"), tmp_path / "compiled"
    )
    assert compiled == pytest.approx(plain, rel=1e-4)


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compute.device = 'cuda:99' cannot be used"):
        fit(digit_options(assignments=("compute.device=cuda:99",)), tmp_path / "run")
    with pytest.raises(ConfigError, match="compute.device = 'gpu' cannot be used"):
        fit(digit_options(assignments=("compute.device=gpu",)), tmp_path / "run")
