"""Each domain's gradient, kept apart: one row per domain over this rank's shards.

Memory: D * N * 4 bytes per rank, N being the rank's share of the parameters; nothing else is
held. Surgery works inside this buffer: partial Gramians of the rows, one all-reduce of
M * D * D float64, equal weights on every rank, the combination written into row 0.

Two things change that. On steps that measure reliability every domain has two rows, one per half
of its prompts. Rows of another type or on another device than the optimizer's (`bfloat16`, `cpu`)
are combined into one fp32 row of the optimizer's: D * N * 2 + N * 4 bytes instead of D * N * 4.

Where DeepSpeed adds gradients up in fp32, it is made to add to the domain's row itself. Under
ZeRO 3 it keeps a row's worth of gradient in any case: where the rows are of another kind, that is
the row of the combination.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

from mgsrl.errors import InvariantError
from mgsrl.learner.layout import ShardLayout
from mgsrl.surgery.gramian import BLOCK, combine_, combine_into, gramian

T = TypeVar("T")


class DomainGradients:
    """The `[D, N]` buffer of one rank (`[2 D, N]` with halves: all first ones, then the second).

    Args:
        layout: this rank's shards.
        module_of: parameter name -> module name.
        modules: the module names in model order, equal on all ranks.
        device: where collectives run.
        home: where the optimizer wants the combined gradient (the CPU under optimizer offload).
        storage: where the rows are kept.
        dtype: type of the rows.
    """

    def __init__(
        self,
        layout: ShardLayout,
        module_of: dict[str, str],
        modules: Sequence[str],
        device: torch.device,
        home: torch.device,
        storage: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.layout = layout
        self.modules = tuple(modules)
        self.domains: tuple[str, ...] = ()
        self._device = device
        self._home = home
        self._columns = _module_columns(layout, module_of, self.modules)
        self._buffer_RN = torch.zeros(0, layout.num_columns, device=storage, dtype=dtype)
        self._combined_N: torch.Tensor | None = None
        self._num_halves = 1
        self._filled: set[int] = set()
        self._rows_are_updates = (dtype, storage) == (torch.float32, home)
        self._adds_up = layout.adds_up and (self._rows_are_updates or layout.keeps_row)
        self._scratch_N: torch.Tensor | None = None
        self.release()  # of what DeepSpeed has made for itself
        if self._adds_up and not self._rows_are_updates:
            self._scratch_N = torch.zeros(layout.num_columns, device=home)
        if storage.type == "cpu":
            gramian([(0, torch.zeros(1, 1, dtype=dtype))], 1)  # compiled now, not in a step

    def start(self, domains: Sequence[str], halves: bool = False) -> None:
        """Begin an update over `domains` (equal on all ranks), with a row per half or one each."""
        self.domains = tuple(domains)
        self._num_halves = 2 if halves else 1
        self._combined_N = None
        rows = len(self.domains) * self._num_halves
        if rows != len(self._buffer_RN):
            self.release()  # before allocating
            self._buffer_RN = self._buffer_RN.new_zeros(rows, self.layout.num_columns)
        self._filled.clear()

    def release(self) -> None:
        """Free the rows until the next `start`; what they hold is spent."""
        if self._adds_up:
            self.layout.add_in(torch.empty(0, device=self._home))  # DeepSpeed holds one of them
        self._buffer_RN, self._combined_N = self._buffer_RN.new_zeros(0, 0), None

    def restart(self) -> None:
        """Begin another update over the same rows."""
        self.start(self.domains, self._num_halves == 2)

    def expect(self, domain: str, half: int = 0) -> None:
        """The backward that comes next is of `domain`; every one is announced."""
        if not self._adds_up:
            return
        row = self._row(domain, half)
        target_N = self._buffer_RN[row] if self._scratch_N is None else self._scratch_N
        if self._scratch_N is not None or row not in self._filled:
            target_N.zero_()
        self.layout.add_in(target_N)

    def add(self, domain: str, half: int = 0) -> None:
        """Add the gradient of the backward that just ran, and clear it in DeepSpeed."""
        row = self._row(domain, half)
        row_N = self._buffer_RN[row]
        first = row not in self._filled
        self._filled.add(row)
        if self._adds_up and self._scratch_N is None:
            self.layout.clear_gradients()  # it is in the row already
            return
        for column, length, gradient in self.layout.gradients():
            target = row_N[column:][:length]
            if gradient is None:
                if first:
                    target.zero_()
            elif first:
                target.copy_(gradient)
            else:
                target.add_(gradient.to(target.device))
        self.layout.clear_gradients()

    def add_nothing(self, domain: str) -> None:
        """A domain whose gradient is zero, without a backward."""
        row = self.domains.index(domain)
        self._buffer_RN[row].zero_()
        self._filled.add(row)

    def _row(self, domain: str, half: int) -> int:
        return half * len(self.domains) + self.domains.index(domain)

    def gramian(self) -> torch.Tensor:
        """float64 [M, R, R] over all ranks: inner products of the rows per module."""
        num_domains, num_rows = len(self.domains), len(self._buffer_RN)
        missing = {self.domains[row % num_domains] for row in range(num_rows)} - {
            self.domains[row % num_domains] for row in self._filled
        }
        if missing:
            raise InvariantError(f"no gradient was accumulated for {sorted(missing)}")
        for row in set(range(num_rows)) - self._filled:  # a domain too small for two halves
            self._buffer_RN[row].zero_()
        pieces = self._share(self._pieces())
        shape = (len(self.modules), num_rows, num_rows)
        gram_MRR = torch.zeros(shape, dtype=torch.float64, device=self._device)
        if pieces and num_rows:  # a tiny model on many ranks leaves some without a shard
            gram_MRR += gramian(pieces, len(self.modules)).to(self._device)
        dist.all_reduce(gram_MRR)
        return gram_MRR.cpu()

    def combine(self, weights_MD: torch.Tensor) -> None:
        """Make the combined gradient; the rows are spent."""
        weights_MR = weights_MD.repeat(1, self._num_halves)
        if self._rows_are_updates:
            if self._columns:
                combine_(self._pieces(), weights_MR)
            self._combined_N = self._buffer_RN[0]
        else:
            combined_N = self._scratch_N if self._scratch_N is not None else self.new_row()
            self._combined_N = self.mix(weights_MR, combined_N)
        self._filled.clear()

    def new_row(self) -> torch.Tensor:
        """fp32 `[N]` where the optimizer is, content undefined."""
        return torch.empty(self.layout.num_columns, device=self._home)

    def mix(self, weights_MR: torch.Tensor, row_N: torch.Tensor) -> torch.Tensor:
        """Write a combination of the rows, which stay as they are, into `row_N` (`new_row`)."""
        row_N.zero_()  # the padding between shards is stepped, too
        if self._columns:
            combine_into(self._pieces(), weights_MR, [row_N[a:b] for _, a, b in self._columns])
        return row_N

    def along(self, row_N: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Over all ranks: inner products of the rows with `row_N`, float64 [R], and its norm."""
        num_rows = len(self._buffer_RN)
        sums = torch.zeros(num_rows + 1, dtype=torch.float64, device=self._device)
        for _, a, b in self._share(self._columns):
            for start in range(a, b, BLOCK):
                part = slice(start, min(start + BLOCK, b))
                rows = self._buffer_RN[:, part].double()
                step = row_N[part].to(rows)
                sums += torch.cat([rows @ step, (step @ step)[None]]).to(self._device)
        dist.all_reduce(sums)
        return sums[:num_rows].cpu(), sums[num_rows].sqrt().item()

    def _share(self, pieces: Sequence[T]) -> Sequence[T]:
        """What this rank computes of sums over `pieces`: where all ranks hold all, its share."""
        return (
            pieces[dist.get_rank() :: dist.get_world_size()] if self.layout.replicated else pieces
        )

    def combined(self) -> torch.Tensor:
        """fp32 `[N]` where the optimizer is, after `combine`."""
        if self._combined_N is None:
            raise InvariantError("combined should follow combine")
        return self._combined_N

    def _pieces(self) -> list[tuple[int, torch.Tensor]]:
        return [(module, self._buffer_RN[:, a:b]) for module, a, b in self._columns]


def _module_columns(
    layout: ShardLayout, module_of: dict[str, str], modules: Sequence[str]
) -> list[tuple[int, int, int]]:
    """(module index, first column, end column), neighbours of one module merged.

    Between two shards there is at most padding, which is zero and may be included.
    """
    index = {module: i for i, module in enumerate(modules)}
    columns: list[tuple[int, int, int]] = []
    for shard in layout.shards:
        module = index[module_of[shard.name]]
        end = shard.column + shard.numel
        if columns and columns[-1][0] == module:
            columns[-1] = (module, columns[-1][1], end)
        else:
            columns.append((module, shard.column, end))
    return columns
