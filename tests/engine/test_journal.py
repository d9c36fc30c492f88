import gc
import weakref
from pathlib import Path

import pytest
import torch

from eke.augment.geometry import View, identity
from eke.data.stream import Batch
from eke.engine.journal import Journal, RunFolder
from eke.engine.loop import StepReport
from eke.errors import TrainingError
from eke.methods.contract import StepResult


def report(step: int, loss: float = 1.0) -> StepReport:
    pixels = torch.rand(2, 1, 4, 4)
    view = View(pixels, identity(2, (4, 4)), torch.ones(2, 4, 4, dtype=torch.bool))
    batch = Batch({"weak": view}, torch.zeros(2), {}, torch.arange(2), torch.empty(0), step - 1)
    weight = torch.tensor(loss, requires_grad=True)
    return StepReport(step, StepResult(weight * 1.0, {"loss_x": torch.tensor(loss)}), batch, 0.1)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_a_window_becomes_the_mean_of_its_steps(folder: RunFolder) -> None:
    journal = Journal(folder, every_steps=2)
    for step, loss in enumerate((1.0, 3.0, 5.0), 1):
        journal.write(report(step, loss), {})
    journal.flush()
    assert [(line["step"], line["loss"], line["loss_x"]) for line in folder.lines()] == [(2, 2.0, 2.0), (3, 5.0, 5.0)]


def test_a_window_keeps_no_batch_and_no_graph(folder: RunFolder) -> None:
    journal = Journal(folder, every_steps=10)
    one = report(1)
    pixels, loss = weakref.ref(one.batch.x["weak"].pixels), weakref.ref(one.result.loss)
    journal.write(one, {})
    del one
    gc.collect()
    assert pixels() is None
    assert loss() is None


def test_the_first_bad_step_and_its_terms_are_named(folder: RunFolder) -> None:
    journal = Journal(folder, every_steps=4)
    for step, loss in enumerate((1.0, float("inf"), float("nan")), 1):
        journal.write(report(step, loss), {})
    with pytest.raises(TrainingError, match=r"^Step 2: loss, loss_x is not finite \(inf\)"):
        journal.flush()
    assert folder.lines() == []


def test_losses_may_take_turns(folder: RunFolder) -> None:
    def turn(step: int, value: float) -> StepReport:
        one = report(step)
        terms = {"loss_a" if step % 2 else "loss_x": torch.tensor(value)}
        return one._replace(result=one.result._replace(terms=terms))

    journal = Journal(folder, every_steps=3)
    for step, value in enumerate((1.0, 5.0, 3.0, 7.0), 1):
        journal.write(turn(step, value), {})
    journal.flush()
    first, second = folder.lines()
    assert (first["loss_a"], first["loss_x"]) == (2.0, 5.0)
    assert second["loss_x"] == 7.0
    assert "loss_a" not in second
    journal.write(turn(5, 1.0), {})
    journal.write(turn(6, float("nan")), {})
    with pytest.raises(TrainingError, match=r"^Step 6: loss_x is not finite \(nan\)"):
        journal.flush()


def test_known_terms_may_be_unknown(folder: RunFolder) -> None:
    journal = Journal(folder, every_steps=2)
    journal.write(report(1), {"known_rate": torch.tensor(float("nan"))})
    journal.write(report(2), {"known_rate": torch.tensor(0.5)})
    assert folder.lines()[0]["known_rate"] == 0.5


def test_on_resume_later_lines_go_and_a_line_cut_short_too(folder: RunFolder) -> None:
    folder.steps.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"st')
    Journal(folder, every_steps=2, resume_step=4)
    assert folder.steps.read_text() == '{"step": 2}\n{"step": 4}\n'
