"""What a method with memory remembers from update to update, kept by the names of the domains.

The mathematics stays pure: a method gets its memory and gives a new one (`methods.py`). A memory is
a mapping of names of the method's own to float64 [M, D, D], zero for a pair of domains that it has
not met. This file keeps it between the updates, of which each may have other domains.

It is made of Gramians, which all ranks have alike, so it is the same on every rank and does not
depend on their number. A checkpoint holds it (`learner/checkpoint.py`).

Left out: forgetting with time while a domain is absent; its pairs wait as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

PairMemory = Mapping[str, Tensor]
"""name -> float64 [M, D, D], for every module and ordered pair of domains; empty at first."""


class SurgeryMemory:
    """The memory of a run.

    Args:
        method: whose it is.
        modules: [M] their names. Another method or other modules begin with nothing; a new domain
            begins with nothing, and leaves what there is of the others.
    """

    def __init__(self, method: str, modules: Sequence[str]) -> None:
        self._method = method.rpartition("/")[2]  # a user's file may move
        self._modules = list(modules)
        self._domains: list[str] = []
        self._values: dict[str, Tensor] = {}

    def of(self, domains: Sequence[str]) -> dict[str, Tensor]:
        """What is remembered of the pairs of `domains`, in their order."""
        known = [domain for domain in domains if domain in self._domains]
        here = torch.tensor([list(domains).index(domain) for domain in known], dtype=torch.int64)
        there = torch.tensor([self._domains.index(domain) for domain in known], dtype=torch.int64)
        found = {}
        for name, values in self._values.items():
            found[name] = values.new_zeros(len(self._modules), len(domains), len(domains))
            found[name][:, here[:, None], here] = values[:, there[:, None], there]
        return found

    def keep(self, domains: Sequence[str], memory: PairMemory | None) -> None:
        """Take what a method gave for an update over `domains`; None where it gave nothing. Pairs
        of other domains stay as they are."""
        if memory is None:
            return
        every = [*self._domains, *(domain for domain in domains if domain not in self._domains)]
        size = (len(self._modules), len(every), len(every))
        grown = {name: values.new_zeros(size) for name, values in memory.items()}
        grown |= self.of(every)
        places = torch.tensor([every.index(domain) for domain in domains], dtype=torch.int64)
        for name, values in memory.items():
            grown[name][:, places[:, None], places] = values
        self._domains, self._values = every, grown

    def state_dict(self) -> dict[str, Any]:
        """All of it: names, and tensors under `values`, which is empty while there is nothing."""
        return {
            "method": self._method,
            "modules": list(self._modules),
            "domains": list(self._domains),
            "values": {name: values.clone() for name, values in self._values.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; with nothing where `state` is another method's, of other modules
        or empty."""
        ours = (self._method, self._modules) == (state.get("method"), state.get("modules"))
        self._domains = list(state["domains"]) if ours else []
        self._values = {n: v.clone() for n, v in state["values"].items()} if ours else {}
