"""A plain module as a source of weights, and a model that training seems to have moved."""

from collections.abc import Iterator
from pathlib import Path

import torch


class ModuleSource:
    """Weights of a plain module, one layer at a time; counts how many groups are alive."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.groups = 0

    def iter_groups(self) -> Iterator[tuple[list[str], list[torch.Tensor]]]:
        by_layer: dict[str, list[tuple[str, torch.Tensor]]] = {}
        for name, value in self.module.named_parameters():
            index = next((part for part in name.split(".") if part.isdigit()), name)
            by_layer.setdefault(index, []).append((name, value))
        for group in by_layer.values():
            self.groups += 1
            yield [name for name, _ in group], [value for _, value in group]


def perturbed(path: Path, *, scale: float = 0.05, seed: int = 3) -> torch.nn.Module:
    """The model of `path` with seeded noise on every parameter: what training does to it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(scale * torch.randn(value.shape, generator=generator))
    return model
