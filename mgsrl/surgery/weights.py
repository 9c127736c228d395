"""From Gramians to weights: the one entry point of all surgery methods.

`methods.py` says what a method is; this file checks the input, makes the projection orders and
averages over them. Everything runs in float64 on the CPU: a few thousand numbers, and every rank
must come to the same bits.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from mgsrl.config.require import one_of
from mgsrl.config.surgery import ORDERS, SurgeryConfig
from mgsrl.plugins import Part
from mgsrl.surgery.memory import PairMemory
from mgsrl.surgery.methods import Decision, SurgeryMethod, contributions, surgery_method

EXACT_DOMAINS = 5
"""`orders="all"` is exact up to this many domains (24 orders per domain)."""
SAMPLED_ORDERS = 256
"""Seeded random orders per module and domain that stand for all of them above that."""
MATRICES_AT_ONCE = 1024
"""Gramians (modules times orders) in one batch of `orders="all"`: for 8 domains half a MB, and what
is computed from them stays in a core's cache."""


def surgery_weights(
    gram_MDD: Tensor,
    method: str | SurgeryMethod = "pcgrad",
    orders: str | Tensor = "random",
    seed: int = 0,
) -> Tensor:
    """Weights of the resolved update: module m moves along `sum_d weights[m, d] g[m, d]`.

    Args:
        gram_MDD: [modules, domains, domains] inner products, any float dtype and device.
        method: a name (`config.surgery.SURGERY_METHODS`, `module:function`, `file.py:function`) or
            a function (`methods.py`). Those that do not project ignore `orders`.
        orders: `"random"`: one order per module and domain from a generator seeded by `seed`
            alone (so every rank draws the same). `"all"`: the mean over all orders, exact for
            5 domains or fewer, over 256 seeded samples above. Or an int64 tensor [M, D, D - 1]:
            for each module and domain the sequence of the other domains.
        seed: seeds the random orders; the caller mixes run seed and step into it.

    Returns:
        float64 [M, D] on the CPU. One domain gets weight 1. A domain that is zero in a module
        changes nothing there.

    Raises:
        ValueError: a NaN or infinite entry (the caller skips that step, or checks
            `torch.isfinite` first), a wrong shape, or `orders` that are not permutations.
        NoWeightsError: the method found no finite weights (skip the step, too).
        ConfigError: unknown method or order.
    """
    return surgery_coefficients(gram_MDD, method, orders, seed).sum(dim=1)


def surgery_coefficients(
    gram_MDD: Tensor,
    method: str | SurgeryMethod = "pcgrad",
    orders: str | Tensor = "random",
    seed: int = 0,
    may_project_MDD: Tensor | None = None,
) -> Tensor:
    """What each domain contributes: `p[m, d] = sum_e C[m, d, e] g[m, e]`, float64 [M, D, D].

    `surgery_weights` is its sum over d. Methods that weigh the gradients instead of projecting
    them have `p[m, d] = weight[m, d] g[m, d]`. Arguments and errors as there; besides,
    `may_project_MDD` (bool, for methods that take it) names the pairs that may be projected, d on
    e: of `surgery.gate=reliable` and `surgery.protect`. A method with memory is at its first update
    (`surgery_decision` goes on).
    """
    return surgery_decision(gram_MDD, method, orders, seed, may_project_MDD).coefficients_MDD


def surgery_decision(
    gram_MDD: Tensor,
    method: str | SurgeryMethod = "pcgrad",
    orders: str | Tensor = "random",
    seed: int = 0,
    may_project_MDD: Tensor | None = None,
    memory: PairMemory | None = None,
    config: SurgeryConfig | None = None,
) -> Decision:
    """The coefficients, and what a method with memory remembers after this update.

    Arguments and errors as of `surgery_coefficients`; besides, `memory`: what the update before
    gave, None for the first (methods without ignore it), and `config`, for the method's own keys.
    """
    gram_MDD, part = checked_gramian(gram_MDD), surgery_method(method)
    if may_project_MDD is not None and (
        "may_project_MDD" not in part.takes or may_project_MDD.shape != gram_MDD.shape
    ):
        raise ValueError(
            f"may_project_MDD should be {list(gram_MDD.shape)} and go with a method that takes it, "
            f"found {list(may_project_MDD.shape)} and {part.name}"
        )
    offered = {
        "seed": seed,
        "may_project_MDD": may_project_MDD,
        "memory": memory or {},
        "settings": (config or SurgeryConfig()).settings(part.name),
    }
    if "orders_MDE" not in part.takes:
        return contributions(part, gram_MDD, **offered)
    num_modules, num_domains, _ = gram_MDD.shape
    if isinstance(orders, Tensor):
        orders_MDE = _checked_orders(orders, num_modules, num_domains)
        return contributions(part, gram_MDD, orders_MDE=orders_MDE, **offered)
    one_of("surgery.order", orders, ORDERS)
    generator = torch.Generator().manual_seed(seed)
    if orders == "random":
        orders_MDE = random_orders(num_modules, num_domains, generator)
        return contributions(part, gram_MDD, orders_MDE=orders_MDE, **offered)
    return _mean_over_orders(part, gram_MDD, generator, offered)


def checked_gramian(gram_MDD: Tensor) -> Tensor:
    """The Gramian as float64 on the CPU; ValueError when its shape or an entry is impossible."""
    if gram_MDD.ndim != 3 or gram_MDD.shape[1] != gram_MDD.shape[2] or gram_MDD.shape[1] == 0:
        raise ValueError(
            "gram_MDD should have shape [modules, domains, domains] with one domain or more, "
            f"found {list(gram_MDD.shape)}"
        )
    gram_MDD = gram_MDD.detach().to(device="cpu", dtype=torch.float64)
    finite_M = torch.isfinite(gram_MDD).all(-1).all(-1)
    if not finite_M.all():
        bad = torch.nonzero(~finite_M).flatten().tolist()
        raise ValueError(f"gram_MDD should be finite, found NaN or inf in modules {bad[:10]}")
    return gram_MDD


def random_orders(num_modules: int, num_domains: int, generator: torch.Generator) -> Tensor:
    """int64 [M, D, D - 1]: for each module and domain a random order of the other domains."""
    others_DE = _skip_self(torch.arange(num_domains - 1).expand(num_domains, -1), num_domains)
    shape = (num_modules, *others_DE.shape)
    keys = torch.rand(shape, generator=generator, dtype=torch.float64).view(torch.int64)
    # The bits of positive floats are ordered as they are. Whom a key stands for takes its last
    # bits, so that sorting the keys (NumPy: half of PyTorch's time for short rows) sorts these.
    mask = (1 << num_domains.bit_length()) - 1
    keys.bitwise_and_(~mask).bitwise_or_(others_DE).numpy().sort(axis=-1)
    return keys.bitwise_and_(mask)


def _skip_self(positions_xDE: Tensor, num_domains: int) -> Tensor:
    """Indices 0..D-2 among "the others" -> domain indices: those from d upwards shift by one."""
    own_D1 = torch.arange(num_domains).unsqueeze(-1)
    return positions_xDE + (positions_xDE >= own_D1).long()


def _mean_over_orders(
    part: Part,
    gram_MDD: Tensor,
    generator: torch.Generator,
    offered: Mapping[str, Any],
) -> Decision:
    """The coefficients' and the memory's mean over orders, many orders to a batch of the method.

    On one thread: matrices this small cost less than waking others for them, hundreds of times
    less on a machine whose cores are busy.
    """
    num_modules, num_domains, _ = gram_MDD.shape
    total_MDD, remembered = torch.zeros_like(gram_MDD), dict[str, Tensor]()
    gate_MDD, past = offered["may_project_MDD"], offered["memory"]
    num_orders = 0
    with _one_thread():
        for orders_KMDE in _batches_of_orders(num_modules, num_domains, generator):
            count = len(orders_KMDE)
            repeated = {
                "may_project_MDD": None if gate_MDD is None else gate_MDD.repeat(count, 1, 1),
                "memory": {name: values.repeat(count, 1, 1) for name, values in past.items()},
            }
            found = contributions(
                part,
                gram_MDD.repeat(count, 1, 1),
                orders_MDE=orders_KMDE.flatten(0, 1),
                **{**offered, **repeated},
            )
            total_MDD += found.coefficients_MDD.unflatten(0, (count, num_modules)).sum(0)
            for name, values in (found.memory or {}).items():
                more_MDD = values.unflatten(0, (count, num_modules)).sum(0)
                remembered[name] = remembered[name] + more_MDD if name in remembered else more_MDD
            num_orders += count
    memory = {name: values / num_orders for name, values in remembered.items()}
    return Decision(total_MDD / num_orders, memory if "memory" in part.takes else None)


def _batches_of_orders(
    num_modules: int, num_domains: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """All orders, or seeded samples of them, as int64 [K, M, D, D - 1] of bounded size."""
    others = num_domains - 1
    at_once = max(1, MATRICES_AT_ONCE // num_modules)
    if num_domains <= EXACT_DOMAINS:
        every = list(permutations(range(others)))
        every_KE = torch.tensor(every, dtype=torch.int64).reshape(len(every), others)
        for positions_KE in every_KE.split(at_once):
            shape = (len(positions_KE), num_modules, num_domains, others)
            yield _skip_self(positions_KE[:, None, None].expand(shape), num_domains)
        return
    for start in range(0, SAMPLED_ORDERS, at_once):
        count = min(at_once, SAMPLED_ORDERS - start)
        orders = random_orders(count * num_modules, num_domains, generator)
        yield orders.unflatten(0, (count, num_modules))


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _checked_orders(orders: Tensor, num_modules: int, num_domains: int) -> Tensor:
    shape = [num_modules, num_domains, num_domains - 1]
    if list(orders.shape) != shape or orders.dtype != torch.int64:
        raise ValueError(
            f"orders should be an int64 tensor [modules, domains, domains - 1] = {shape}, "
            f"found {orders.dtype} {list(orders.shape)}"
        )
    orders = orders.cpu()
    expected = _skip_self(torch.arange(num_domains - 1).expand(shape), num_domains)
    if not torch.equal(orders.sort(dim=-1).values, expected):
        raise ValueError(
            "orders[m, d] should hold every other domain once and never d itself, found "
            f"{orders.tolist() if orders.numel() <= 60 else 'other values'}"
        )
    return orders
