"""Each domain's gradient, kept apart: one fp32 row per domain over this rank's shards.

Memory: D * N * 4 bytes per rank, N being the rank's share of the parameters; nothing else is
held. Surgery works inside this buffer: partial Gramians of the rows, one all-reduce of
M * D * D float64, equal weights on every rank, the combination written into row 0.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from mgsrl.errors import InvariantError
from mgsrl.learner.layout import ShardLayout
from mgsrl.surgery.gramian import combine_, gramian


class DomainGradients:
    """The `[D, N]` buffer of one rank.

    Args:
        layout: this rank's shards.
        module_of: parameter name -> module name.
        modules: the module names in model order, equal on all ranks.
        device: where collectives run.
        storage: where the rows are kept (the CPU under optimizer offload).
    """

    def __init__(
        self,
        layout: ShardLayout,
        module_of: dict[str, str],
        modules: Sequence[str],
        device: torch.device,
        storage: torch.device,
    ) -> None:
        self.layout = layout
        self.modules = tuple(modules)
        self.domains: tuple[str, ...] = ()
        self._device = device
        self._storage = storage
        self._columns = _module_columns(layout, module_of, self.modules)
        self._buffer_DN = torch.zeros(0, layout.num_columns, device=storage)
        self._filled: set[str] = set()

    def start(self, domains: Sequence[str]) -> None:
        """Begin an update over `domains` (equal on all ranks)."""
        self.domains = tuple(domains)
        if len(self.domains) != len(self._buffer_DN):
            self._buffer_DN = torch.zeros(0, 0, device=self._storage)  # free before allocating
            self._buffer_DN = torch.zeros(
                len(self.domains), self.layout.num_columns, device=self._storage
            )
        self._filled.clear()

    def add(self, domain: str) -> None:
        """Add the gradient of the backward that just ran, and clear it in DeepSpeed."""
        row_N = self._buffer_DN[self.domains.index(domain)]
        first = domain not in self._filled
        self._filled.add(domain)
        for column, length, gradient in self.layout.gradients():
            target = row_N[column:][:length]
            if gradient is None:
                if first:
                    target.zero_()
            elif first:
                target.copy_(gradient)
            else:
                target.add_(gradient)
        self.layout.clear_gradients()

    def gramian(self) -> torch.Tensor:
        """float64 [M, D, D] over all ranks: inner products of the domains per module."""
        missing = set(self.domains) - self._filled
        if missing:
            raise InvariantError(f"no gradient was accumulated for {sorted(missing)}")
        pieces = self._pieces()
        if self.layout.replicated:  # every rank holds all: each one takes its share of the work
            pieces = pieces[dist.get_rank() :: dist.get_world_size()]
        shape = (len(self.modules), len(self.domains), len(self.domains))
        gram_MDD = torch.zeros(shape, dtype=torch.float64, device=self._device)
        if pieces and self.domains:  # a tiny model on many ranks leaves some without a shard
            gram_MDD += gramian(pieces, len(self.modules)).to(self._device)
        dist.all_reduce(gram_MDD)
        return gram_MDD.cpu()

    def combine(self, weights_MD: torch.Tensor) -> None:
        """Write the combined gradient into row 0; the rows are spent."""
        if self._columns:
            combine_(self._pieces(), weights_MD)
        self._filled.clear()

    def combined(self) -> torch.Tensor:
        """`[N]` the combined gradient (a view)."""
        return self._buffer_DN[0]

    def _pieces(self) -> list[tuple[int, torch.Tensor]]:
        return [(module, self._buffer_DN[:, a:b]) for module, a, b in self._columns]


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
