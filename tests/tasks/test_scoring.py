"""Scores in shards: computed once, by any number of processes, whatever the order of the images."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eke.data.images import content_id
from eke.files import held
from eke.tasks import scoring
from eke.tasks.scoring import View, score

IDS = [content_id(bytes([i])) for i in range(25)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scoring, "SHARD", 4)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"weights")
    return tmp_path


class Counted:
    """Three times each position, and how often each was computed."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, rows: Sequence[int], advance: Callable[[int], object]) -> dict[str, Tensor]:
        self.seen += rows
        advance(len(rows))
        return {"triple": torch.tensor([[3.0 * row] for row in rows]), "row": torch.tensor(rows)}


def view(compute: Counted, **options: object) -> View:
    return View("test", options, compute)


def test_values_come_in_the_order_asked_for(run: Path) -> None:
    rows = [17, 3, 24, 0, 9, 11]
    found = score(run, view(Counted()), IDS, rows)
    assert found["triple"].tolist() == [[3.0 * row] for row in rows]
    assert found["row"].tolist() == rows


def test_images_apart_are_computed_with_the_others_and_not_returned(run: Path) -> None:
    rows, first, second = [17, 3, 24, 0, 9, 11], Counted(), Counted()
    found = score(run, view(first), IDS, rows, apart={IDS[3], IDS[9]})
    assert found["row"].tolist() == [17, 24, 0, 11]
    assert sorted(first.seen) == sorted(rows)
    assert score(run, view(second), IDS, rows)["row"].tolist() == rows
    assert second.seen == [], "shards do not depend on who is apart"


def test_nothing_is_computed_twice(run: Path) -> None:
    first, second, other = Counted(), Counted(), Counted()
    score(run, view(first), IDS, range(25))
    assert sorted(first.seen) == list(range(25))
    turned = score(run, view(second), IDS, range(24, -1, -1))
    assert second.seen == []
    assert turned["row"].tolist() == list(range(24, -1, -1))
    score(run, view(other, n_passes=2), IDS, range(25))
    assert len(other.seen) == 25, "other options are another view"


def test_other_weights_are_another_view(run: Path) -> None:
    score(run, view(Counted()), IDS, range(25))
    (run / "model" / "weights.safetensors").write_bytes(b"other")
    again = Counted()
    score(run, view(again), IDS, range(25))
    assert len(again.seen) == 25


def test_a_pool_that_changed_is_computed_where_it_changed(run: Path) -> None:
    score(run, view(Counted()), IDS, range(24))
    again = Counted()
    found = score(run, view(again), IDS, range(25))
    assert 24 in again.seen
    assert len(again.seen) < 12, "its neighbors by id, and no others"
    assert found["row"].tolist() == list(range(25))


def test_a_damaged_shard_is_computed_again(run: Path) -> None:
    score(run, view(Counted()), IDS, range(25))
    file = sorted((run / "scores").rglob("*.npz"))[0]
    file.write_bytes(file.read_bytes()[:50])
    again = Counted()
    found = score(run, view(again), IDS, range(25))
    assert 0 < len(again.seen) < 12
    assert found["row"].tolist() == list(range(25))


def test_a_shard_that_another_process_holds_is_waited_for(run: Path) -> None:
    whole = Counted()
    score(run, view(whole), IDS, range(25))
    file = sorted((run / "scores").rglob("*.npz"))[0]
    file.unlink()
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom eke.files import held\n"
        "with held(Path(sys.argv[1])) as mine:\n    print(mine, flush=True)\n    time.sleep(1)\n"
    )
    lock = file.with_suffix(".lock")
    again = Counted()
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "True\n"
        with held(lock) as mine:
            assert not mine
        score(run, view(again), IDS, range(25))
    assert 0 < len(again.seen) < 12, "computed here once the other one is gone"


def test_without_images_there_is_nothing(run: Path) -> None:
    assert score(run, view(Counted()), IDS, []) == {}


WORKER = """
import sys
from pathlib import Path
import torch
from eke.data.images import content_id
from eke.tasks import scoring
scoring.SHARD = 4
ids = [content_id(bytes([i])) for i in range(60)]
done = []
def compute(rows, advance):
    done.extend(rows)
    generator = torch.Generator().manual_seed(sum(rows))  # of the shard, as dropout is
    return {"drawn": torch.rand(len(rows), 3, generator=generator)}
found = scoring.score(Path(sys.argv[1]), scoring.View("test", {}, compute), ids, range(60))
torch.save((found["drawn"], done), sys.argv[2])
"""


@pytest.mark.slow
def test_one_two_or_seven_processes_find_the_same_and_share_the_work(tmp_path: Path) -> None:
    found = {}
    for n in (1, 2, 7):
        home = tmp_path / str(n)
        (home / "model").mkdir(parents=True)
        (home / "model" / "weights.safetensors").write_bytes(b"weights")
        files = [home / f"{i}.pt" for i in range(n)]
        workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(home), str(file)]) for file in files]
        assert [worker.wait() for worker in workers] == [0] * n
        results = [torch.load(file, weights_only=True) for file in files]
        assert all(torch.equal(values, results[0][0]) for values, _ in results)
        assert sorted(row for _, rows in results for row in rows) == list(range(60)), "each image by one of them"
        found[n] = results[0][0]
    assert torch.equal(found[1], found[2])
    assert torch.equal(found[1], found[7])
