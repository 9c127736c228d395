"""What a surgery method is, found by its name, and what it returns held to the contract.

A method is a function from the Gramian `gram_MDD`, float64 [M, D, D] on the CPU, to either

    weights [M, D]          the update of module m is `sum_d weights[m, d] g[m, d]`
    coefficients [M, D, D]  domain d contributes `p[m, d] = sum_e C[m, d, e] g[m, e]`: projections

It may ask for more by the names of its parameters:

    orders_MDE       int64 [M, D, D - 1], for each module and domain the other domains in the order
                     of projection; under `surgery.order=all` it is called with every order and the
                     mean is taken
    seed             of this step, the same on all ranks, for a generator of its own
    may_project_MDD  bool [M, D, D], whether d may be projected on e, as `surgery.gate` and
                     `surgery.protect` have it, or None
    memory           what it gave for the update before, by names of its own: float64 [M, D, D], 0
                     for pairs of domains that it has not met; empty at first. Such a method returns
                     a pair, its weights or coefficients and the new memory
    settings         the configuration's keys that are its own (`surgery.gradvac`), or None

It changes none of these. One with a memory is a function, too: what keeps it between the updates,
and in checkpoints, is `memory.py`.

A method may have a function `check()` as an attribute, called before a run starts, which raises
`ConfigError` when something that it needs is not installed.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mgsrl.config.surgery import SURGERY_METHODS, SurgeryConfig
from mgsrl.errors import ConfigError, NoWeightsError
from mgsrl.plugins import Part, tried
from mgsrl.surgery.memory import PairMemory

KEY = "surgery.method"
OFFERED = ("orders_MDE", "seed", "may_project_MDD", "memory", "settings")
SurgeryMethod = Callable[..., Tensor | tuple[Tensor, PairMemory]]


class Decision(NamedTuple):
    """What a method made of a Gramian."""

    coefficients_MDD: Tensor
    """float64, `p[m, d] = sum_e C[m, d, e] g[m, e]`."""
    memory: PairMemory | None
    """After this update; None of a method without."""


def surgery_method(method: str | SurgeryMethod) -> Part:
    """The method of that name (`config.surgery.SURGERY_METHODS`, `module:function`,
    `file.py:function`), or the function itself.

    Raises:
        ConfigError: there is none, or it asks for arguments that nobody has.
    """
    return Part.of(SURGERY_METHODS, method, OFFERED, KEY)


def check_method(config: SurgeryConfig, num_domains: int = 3) -> None:
    """Find the method and what it needs, and try one that is not ours; for use at start-up.

    Raises:
        ConfigError: there is none, something is not installed, it cannot be gated, or it failed on
            a Gramian of `num_domains` domains.
    """
    part = surgery_method(config.method)
    for key, value, off in (("gate", config.gate, "off"), ("protect", config.protect, "")):
        if value != off and "may_project_MDD" not in part.takes:
            raise ConfigError(
                f"surgery.{key} decides which conflicts are projected.",
                expected="surgery.method=pcgrad, pcgrad_smoothed or gradvac, or your own with an "
                "argument may_project_MDD",
                found=f"surgery.method={config.method}, surgery.{key}={value}",
                todo="set surgery.method=pcgrad, or leave the other key out",
            )
    if hasattr(part.function, "check"):
        part.function.check()
    if config.method in SURGERY_METHODS.members:
        return
    rows = torch.randn(2, num_domains, 4, generator=torch.Generator().manual_seed(0)).double()
    others = [[e for e in range(num_domains) if e != d] for d in range(num_domains)]
    orders_MDE = torch.tensor([others, others], dtype=torch.int64)
    expected = f"weights or coefficients of {num_domains} domains"
    with tried(KEY, config.method, expected):
        offered: dict[str, object] = {
            "seed": 0,
            "may_project_MDD": None,
            "memory": {},
            "settings": None,
        }
        contributions(part, rows @ rows.mT, orders_MDE=orders_MDE, **offered)


def contributions(part: Part, gram_MDD: Tensor, **offered: object) -> Decision:
    """What the method gives, its weights as coefficients.

    Raises:
        ValueError: another shape than weights or coefficients have, or than a memory has.
        NoWeightsError: something that is not finite.
    """
    try:
        found = part(gram_MDD.clone(), **offered)  # a copy: the step's record needs it as it is
    except NoWeightsError as error:
        raise NoWeightsError(f"{part.name}: {error}") from error
    shape, memory = tuple(gram_MDD.shape), None
    if "memory" in part.takes:
        found, memory = _with_memory(part.name, found, shape)
    if not isinstance(found, Tensor) or tuple(found.shape) not in (shape, shape[:2]):
        what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"{part.name} should give weights {list(shape[:2])} or coefficients {list(shape)}, "
            f"found {what}"
        )
    found = found.detach().to(device="cpu", dtype=torch.float64)
    if not found.sum().isfinite() and not (finite := found.isfinite()).all():
        module = int(torch.nonzero(~finite.flatten(1).all(-1))[0])
        values = found[module].tolist()
        raise NoWeightsError(f"{part.name}: nothing finite for module {module}: {values}")
    return Decision(torch.diag_embed(found) if found.ndim == 2 else found, memory)


def _with_memory(name: str, found: object, shape: tuple[int, ...]) -> tuple[object, PairMemory]:
    """The two things that a method with memory gives."""
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], Mapping):
        raise ValueError(
            f"{name} takes a memory and should give a pair: weights or coefficients, and the new "
            f"memory by name, found {type(found).__name__}"
        )
    memory = {}
    for key, values in found[1].items():
        if not isinstance(values, Tensor) or tuple(values.shape) != shape:
            what = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"{name} should remember {key} as {list(shape)}, found {what}")
        memory[str(key)] = values.detach().to(device="cpu", dtype=torch.float64)
        if not memory[str(key)].isfinite().all():
            raise NoWeightsError(f"{name}: its memory of {key} would not be finite")
    return found[0], memory
