"""Merging models that were trained from one base: one tensor of each in, the merged one out.

A task vector (arXiv 2212.04089) is what training changed: tau_i = theta_i - theta_base. All methods
but `linear` merge these, and theta = theta_base + tau. With w_i the models' weights:

    linear           theta = sum_i w_i theta_i / sum_i w_i
    task_arithmetic  tau = sum_i w_i tau_i
    ties             tau = mean of those w_i trim(tau_i) whose sign is the elected one
    dare             tau = sum_i w_i drop(tau_i) / density
    ram              tau = w_i tau_i where model i alone changed, the mean where several did

`ties` and `dare` call `peft.utils.merge_utils`, written for adapters, which are tensors like any.
Every tensor is merged by itself, so that no model need fit into memory. The paper of TIES ranks the
changes of a whole model instead of a tensor's.

Left out: RAM+, whose factors need the overlaps of whole models before the first tensor is merged;
DARE before TIES; SLERP and others for two models; search for weights (`mgsrl eval` scores a few).
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mgsrl.config.merging import MergeSettings


def merged_tensor(
    settings: MergeSettings, models: Sequence[Tensor], base: Tensor | None, name: str
) -> Tensor:
    """One tensor of the merged model, in float32 or what the base has of more.

    Args:
        models: the same tensor of every model, all of one shape.
        base: that of the base; `linear` needs none.
        name: of the tensor; what is drawn at random depends on it, and not on the order in which
            tensors are merged.
    """
    if base is None:
        return linear([model.float() for model in models], settings.weights)
    wide = torch.promote_types(base.dtype, torch.float32)
    if settings.method == "linear":
        return linear([model.to(wide) for model in models], settings.weights)
    start = base.to(wide)
    options = dict(settings.options)
    if "seed" in options:
        options["seed"] = _seed_of(name, int(options["seed"]))
    merge = METHODS[settings.method]
    task_vectors = [model.to(wide) - start for model in models]
    return start + merge(task_vectors, settings.weights, **options)


def linear(models: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted mean of the models themselves (Model Soups, arXiv 2203.05482, a uniform soup when
    all weights are equal): theta = sum_i w_i theta_i / sum_i w_i. Knows no base."""
    total = sum(weights)
    return _weighted_sum(models, [weight / total for weight in weights])


def task_arithmetic(task_vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Sum of task vectors (arXiv 2212.04089): tau = sum_i w_i tau_i. The paper's coefficient is
    one for all models; a weight below 0 is its negation, to forget."""
    return _weighted_sum(task_vectors, weights)


def ties(task_vectors: Sequence[Tensor], weights: Sequence[float], density: float) -> Tensor:
    """Trim, elect sign, merge (arXiv 2306.01708, algorithm 1).

    Of each task vector the `density` largest magnitudes stay: tau'_i. Per element the sign of
    sum_i tau'_i is elected; tau = (1 / |A|) sum_{i in A} w_i tau'_i over the set A of models whose
    tau'_i has that sign. With equal weights these are the paper's lambda.
    """
    from peft.utils import merge_utils

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of density 1, which trims nothing, as was asked
        merged: Tensor = merge_utils.ties(
            list(task_vectors), _column(weights, task_vectors), density
        )
    return merged


def dare(
    task_vectors: Sequence[Tensor], weights: Sequence[float], density: float, seed: float
) -> Tensor:
    """Drop and rescale (arXiv 2311.03099), then task arithmetic.

    m_i ~ Bernoulli(density) per element, and tau = sum_i w_i m_i tau_i / density; the paper's drop
    rate p is 1 - density. Its expectation is task arithmetic. The masks are drawn in the order of
    the models, from `seed` alone; torch's own generator is left as it was.
    """
    if density == 1:
        return task_arithmetic(task_vectors, weights)
    from peft.utils import merge_utils

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        merged: Tensor = merge_utils.dare_linear(
            list(task_vectors), _column(weights, task_vectors), density
        )
    return merged


def ram(task_vectors: Sequence[Tensor], weights: Sequence[float], threshold: float) -> Tensor:
    """Reinforced Agent Merging (arXiv 2601.13572), for reinforcement learning's sparse changes.

    Model i changed an element where |tau_i| > `threshold`; n of the models did. tau is 0 where none
    did, w_i tau_i in full where i alone did, and (1 / n) sum_i w_i tau_i over those that did where
    several did. With weights 1 it is the paper's, without RAM+'s factor on what one alone changed.
    """
    total, count = torch.zeros_like(task_vectors[0]), torch.zeros_like(task_vectors[0])
    for vector, weight in zip(task_vectors, weights, strict=True):
        changed = vector.abs() > threshold
        total += torch.where(changed, weight * vector, 0.0)
        count += changed
    return total / count.clamp(min=1)


METHODS: dict[str, Callable[..., Tensor]] = {
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "dare": dare,
    "ram": ram,
}
"""Those on task vectors; `config.merging.METHODS` has their options."""


def _weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor, alpha=weight)
    return total


def _column(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    return torch.tensor(weights, dtype=tensors[0].dtype)


def _seed_of(name: str, seed: int) -> int:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
