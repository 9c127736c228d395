"""What holds for surgery methods, tried on random Gramians and on the odd ones of real runs.

Left out: whether a method is any good, and its speed.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from mgsrl.config.surgery import SurgeryConfig
from mgsrl.surgery.methods import Decision, SurgeryMethod, surgery_method
from mgsrl.surgery.weights import random_orders, surgery_decision
from mgsrl.testing.demand import chosen, demand

ALWAYS = ("finite", "repeatable", "untouched", "single_domain", "identical_domains")
HISTORY = 4
"""Updates that a method with memory has seen when all is tried a second time."""
USUAL = ("zero_domain", "scale", "permutation", "modules")
OPTIONAL = ("plain_sum", "no_conflict", "never_longer")


def check_surgery_method(
    method: str | SurgeryMethod,
    *,
    without: Collection[str] = (),
    also: Collection[str] = (),
    tolerance: float = 1e-6,
    seeds: int = 3,
) -> None:
    """Try a surgery method.

    Args:
        method: its name, as in `surgery.method`, or the function.
        without: usual properties that it does not claim, out of
            `zero_domain` (a domain without gradient in a module changes nothing for the others),
            `scale` (the unit of the gradients changes no weight),
            `permutation` (the order in which domains are listed does not matter, `order=all`),
            `modules` (a module's weights do not depend on the other modules, `order=all`).
        also: properties that it promises besides, out of
            `plain_sum` (without conflict every weight is exactly 1),
            `no_conflict` (the update has a negative inner product with no domain's gradient),
            `never_longer` (no domain contributes more than its gradient's norm).
        tolerance: relative and absolute, of the weights of gradients of unit norm.
        seeds: random Gramians per property.

    A method with memory is tried twice: at its first update (which `also` is about) and after
    updates on gradients that resemble those of the trial.

    Always tried: `finite` float64 weights or coefficients of the right shape, also for opposite,
    identical, zero and very many domains; `repeatable` to the bit, whatever the global random
    state, which stays as it was; `untouched` input; a `single_domain` keeps its gradient; of
    `identical_domains` the update keeps the direction.

    Raises:
        ContractError: a property does not hold.
        ConfigError: the method cannot be found or called.
        ValueError: an unknown property.
    """
    part = surgery_method(method)
    name = f"The surgery method {part.name}"
    names = chosen(ALWAYS, USUAL, OPTIONAL, without, also)
    _try(_Subject(method, name, tolerance), names, seeds)
    if "memory" in part.takes:
        subject = _Subject(method, f"{name}, after {HISTORY} updates,", tolerance, HISTORY)
        _try(subject, [name for name in names if name not in OPTIONAL], seeds)


def _try(subject: "_Subject", names: Collection[str], seeds: int) -> None:
    for name in names:
        for seed in range(seeds):
            _PROPERTIES[name](subject, seed)


@dataclass(frozen=True)
class _Subject:
    method: str | SurgeryMethod
    name: str
    tolerance: float
    history: int = 0

    def weights(self, gradients_MDN: Tensor, orders: str | Tensor = "all", seed: int = 0) -> Tensor:
        return self.decision(gradients_MDN, orders, seed).coefficients_MDD.sum(1)

    def decision(self, gradients_MDN: Tensor, orders: str | Tensor, seed: int = 0) -> Decision:
        """After updates on the same gradients with other signs of their elements: whatever changes
        the domains' order, number or unit changes them there, too."""
        memory = None
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.history):
            signs_N = torch.randn(gradients_MDN.shape[-1], generator=generator).sign()
            flipped = _gram(gradients_MDN * (signs_N - 0.5))
            memory = surgery_decision(flipped, self.method, orders, seed, memory=memory).memory
        return surgery_decision(_gram(gradients_MDN), self.method, orders, seed, memory=memory)

    def demand(self, kept: bool, expected: str, found: object) -> None:
        demand(kept, self.name, expected, found)

    def demand_close(self, found: Tensor, wanted: Tensor, expected: str) -> None:
        close = torch.allclose(found, wanted, rtol=self.tolerance, atol=self.tolerance)
        self.demand(close, expected, f"{found.tolist()} instead of {wanted.tolist()}")


def draw_gradients(seed: int, num_modules: int, num_domains: int, columns: int = 12) -> Tensor:
    """float64 [M, D, N] of norms around 1, each by itself within a factor of 10."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_modules, num_domains, columns)
    gradients = torch.randn(shape, generator=generator, dtype=torch.float64)
    sizes = torch.rand((*shape[:2], 1), generator=generator, dtype=torch.float64)
    return gradients / gradients.norm(dim=-1, keepdim=True) * 10.0 ** (2 * sizes - 1)


def _gram(gradients_MDN: Tensor) -> Tensor:
    return gradients_MDN @ gradients_MDN.mT


def _finite(subject: _Subject, seed: int) -> None:
    opposite = draw_gradients(seed, 2, 1)
    cases = [draw_gradients(seed, 3, num_domains) for num_domains in (1, 2, 3, 8)]
    cases += [torch.zeros(2, 3, 4, dtype=torch.float64), opposite.expand(-1, 3, -1)]
    cases += [torch.cat([opposite, -opposite], dim=1), draw_gradients(seed, 2, 5, columns=2)]
    for gradients in cases:
        weights = subject.weights(gradients, "random", seed)
        shape = tuple(gradients.shape[:2])
        right = weights.dtype == torch.float64 and tuple(weights.shape) == shape
        subject.demand(right, f"float64 weights {list(shape)}", f"{weights.dtype} {weights.shape}")
        subject.demand(bool(torch.isfinite(weights).all()), "finite weights", weights.tolist())


def _repeatable(subject: _Subject, seed: int) -> None:
    gradients = draw_gradients(seed, 3, 4)
    before = torch.get_rng_state()
    first = subject.weights(gradients, "random", seed)
    same_state = torch.equal(before, torch.get_rng_state())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        again = subject.weights(gradients, "random", seed)
    subject.demand(same_state, "the global random state as it was", "another")
    subject.demand(
        torch.equal(first, again), "equal bits on every call and rank", (first - again).tolist()
    )


def _untouched(subject: _Subject, seed: int) -> None:
    gradients = draw_gradients(seed, 2, 3)
    generator = torch.Generator().manual_seed(seed)
    part = surgery_method(subject.method)
    memory = subject.decision(gradients, "random", seed).memory or {}
    given = {"gram": _gram(gradients), "orders": random_orders(2, 3, generator), **memory}
    before = {name: value.clone() for name, value in given.items()}
    part(
        given["gram"],
        orders_MDE=given["orders"],
        seed=seed,
        may_project_MDD=None,
        memory=memory,
        settings=SurgeryConfig().settings(part.name),
    )
    same = all(torch.equal(value, before[name]) for name, value in given.items())
    subject.demand(same, "its input left alone", "written over")


def _single_domain(subject: _Subject, seed: int) -> None:
    weights = subject.weights(draw_gradients(seed, 3, 1))
    subject.demand(bool((weights == 1).all()), "weight 1 for the only domain", weights.tolist())


def _identical_domains(subject: _Subject, seed: int) -> None:
    weights = subject.weights(draw_gradients(seed, 2, 1).expand(-1, 3, -1))
    subject.demand(bool((weights.sum(1) > 0).all()), "weights that add up to more than 0", weights)


def _zero_domain(subject: _Subject, seed: int) -> None:
    gradients = draw_gradients(seed, 3, 3)
    gradients[:, 1] = 0
    found, wanted = subject.weights(gradients), subject.weights(gradients[:, [0, 2]])
    subject.demand_close(found[:, [0, 2]], wanted, "the others' weights as without a zero domain")


def _scale(subject: _Subject, seed: int) -> None:
    gradients = draw_gradients(seed, 3, 3)
    wanted = subject.weights(gradients)
    for scale in (1e-6, 1e4):
        found = subject.weights(gradients * scale)
        subject.demand_close(found, wanted, f"the same weights of gradients times {scale:g}")


def _permutation(subject: _Subject, seed: int) -> None:
    gradients = draw_gradients(seed, 2, 4)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    found, wanted = subject.weights(gradients[:, order]), subject.weights(gradients)[:, order]
    subject.demand_close(found, wanted, "the same weights whatever the domains' order")


def _modules(subject: _Subject, seed: int) -> None:
    gradients = draw_gradients(seed, 3, 3)
    wanted = torch.cat([subject.weights(gradients[m : m + 1]) for m in range(3)])
    subject.demand_close(subject.weights(gradients), wanted, "modules that do not see each other")


def _plain_sum(subject: _Subject, seed: int) -> None:
    for orders in ("random", "all"):
        weights = subject.weights(draw_gradients(seed, 3, 4).abs(), orders, seed)
        subject.demand(bool((weights == 1).all()), "weights 1 without conflict", weights.tolist())


def _no_conflict(subject: _Subject, seed: int) -> None:
    gradients = draw_gradients(seed, 4, 3)
    update_M1N = subject.weights(gradients).unsqueeze(1) @ gradients
    inner_MD = (gradients * update_M1N).sum(-1)
    floor_MD = -10 * subject.tolerance * gradients.norm(dim=-1) * update_M1N.norm(dim=-1)
    subject.demand(bool((inner_MD >= floor_MD).all()), "no negative inner product", inner_MD)


def _never_longer(subject: _Subject, seed: int) -> None:
    gradients = draw_gradients(seed, 4, 4)
    for orders in ("random", "all"):
        found = subject.decision(gradients, orders, seed).coefficients_MDD @ gradients
        ratio = found.norm(dim=-1) / gradients.norm(dim=-1)
        subject.demand(bool((ratio <= 1 + 1e-9).all()), "norms no longer than before", ratio)


_PROPERTIES: dict[str, Callable[[_Subject, int], None]] = {
    "finite": _finite,
    "repeatable": _repeatable,
    "untouched": _untouched,
    "single_domain": _single_domain,
    "identical_domains": _identical_domains,
    "zero_domain": _zero_domain,
    "scale": _scale,
    "permutation": _permutation,
    "modules": _modules,
    "plain_sum": _plain_sum,
    "no_conflict": _no_conflict,
    "never_longer": _never_longer,
}
