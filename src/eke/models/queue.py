"""A first-in-first-out memory of the last rows that training has seen."""

from typing import cast

import torch
from torch import Tensor, nn

from eke.errors import ConfigError


class Queue(nn.Module):
    """Holds the last `size` rows of several tensors that belong together, such as embeddings and probabilities.

    Its state is buffers alone: a ring, and the number of rows ever pushed, a tensor, so that nothing here reads
    the device. Push the rows of the GLOBAL batch (`eke.collectives.gather`), so that all processes hold the
    same. `queue["name"]` is the buffer itself: where a row was never pushed it holds zeros (see `filled`), and
    the next `push` overwrites it in place, so a backward pass that reads it must come before that.

    Args:
        size: Q, rows it holds.
        option: the option that sets the size, for messages ("method.memory_size").
        widths: name and number of columns of each tensor.
    """

    n_pushed: Tensor

    def __init__(self, size: int, option: str, **widths: int) -> None:
        super().__init__()
        self.size, self.option = size, option
        for name, width in widths.items():
            self.register_buffer(name, torch.zeros(size, width))
        self.register_buffer("n_pushed", torch.tensor(0))

    def __getitem__(self, name: str) -> Tensor:
        """Return the rows (Q, width) of one of the tensors."""
        return cast("Tensor", self._buffers[name])

    @torch.no_grad()
    def push(self, **rows: Tensor) -> Tensor:
        """Write `rows` (n, width), the same n of each tensor, over the oldest ones.

        Returns:
            (n,) int64 places in the queue where they now are.

        Raises:
            ConfigError: more rows at once than the queue holds.
        """
        newest = next(iter(rows.values()))
        if len(newest) > self.size:
            raise ConfigError(
                f"{self.option} = {self.size} is less than the {len(newest)} rows that one step adds. Set it to "
                f"{len(newest)} or more, or take smaller batches (batch.labeled, batch.mu)."
            )
        places = (self.n_pushed + torch.arange(len(newest), device=newest.device)) % self.size
        for name, values in rows.items():
            self[name].index_copy_(0, places, values.to(self[name].dtype))
        self.n_pushed += len(newest)
        return places

    @property
    def n_filled(self) -> Tensor:
        """Number of places that hold a row, scalar int64."""
        return self.n_pushed.clamp(max=self.size)

    @property
    def filled(self) -> Tensor:
        """Tell of each place whether it holds a row: (Q,) bool."""
        return torch.arange(self.size, device=self.n_pushed.device) < self.n_pushed

    @property
    def full(self) -> Tensor:
        """Tell whether every place holds a row: scalar bool."""
        return self.n_pushed >= self.size
