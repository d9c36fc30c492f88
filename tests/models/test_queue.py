import io

import pytest
import torch

from eke.errors import ConfigError
from eke.models.queue import Queue


def rows(first: int, n: int) -> torch.Tensor:
    """Return (n, 2) with the numbers first, first + 1 ... in both columns."""
    return torch.arange(first, first + n, dtype=torch.float32)[:, None].expand(n, 2)


def make(size: int) -> Queue:
    return Queue(size, "method.memory_size", embedding=2, probs=1)


def push(queue: Queue, first: int, n: int) -> torch.Tensor:
    return queue.push(embedding=rows(first, n), probs=-rows(first, n)[:, :1])


@pytest.mark.parametrize(("size", "n"), [(7, 3), (6, 3), (5, 5), (4, 1)])
def test_it_holds_the_last_rows_whatever_the_sizes(size: int, n: int) -> None:
    queue, pushed = make(size), []
    for step in range(9):
        places = push(queue, 1 + step * n, n)
        pushed += range(1 + step * n, 1 + (step + 1) * n)
        held = queue["embedding"][:, 0]
        expected = pushed[-size:]
        assert sorted(held[held > 0].tolist()) == expected
        assert held[places].tolist() == pushed[-n:]
        assert torch.equal(queue["probs"][:, 0], -held)
        assert queue.n_filled.item() == len(expected)
        assert queue.filled.equal(held > 0)
        assert queue.full.item() == (len(expected) == size)


def test_the_oldest_rows_go_first() -> None:
    queue = make(5)
    push(queue, 1, 4)
    assert push(queue, 5, 3).tolist() == [4, 0, 1]
    assert queue["embedding"][:, 0].tolist() == [6, 7, 3, 4, 5]


def test_more_rows_than_it_holds_are_refused_with_both_numbers_and_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"method\.memory_size = 3 .* 4 rows .*Set it to 4 or more"):
        push(make(3), 0, 4)


def test_it_is_buffers_only_and_goes_on_from_its_state() -> None:
    queue = make(5)
    push(queue, 1, 4)
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    file.seek(0)
    other = make(5)
    other.load_state_dict(torch.load(file, weights_only=True))
    push(queue, 5, 3)
    push(other, 5, 3)
    assert not list(queue.parameters())
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(queue.buffers(), other.buffers(), strict=True))


def test_rows_of_another_precision_are_taken_and_carry_no_gradient() -> None:
    queue = make(4)
    queue.push(embedding=rows(1, 2).double().requires_grad_(), probs=torch.ones(2, 1, dtype=torch.bfloat16))
    assert queue["embedding"].dtype == queue["probs"].dtype == torch.float32
    assert not queue["embedding"].requires_grad


def test_it_depends_on_no_value() -> None:
    """On the meta device reading a value raises."""
    queue = make(4).to("meta")
    places = queue.push(embedding=rows(1, 3).to("meta"), probs=rows(1, 3)[:, :1].to("meta"))
    assert places.is_meta
    assert queue.filled.shape == (4,)
    assert queue.full.is_meta
