"""What a surgery method is, found by its name, and what it returns held to the contract.

A method is a function from the Gramian `gram_MDD`, float64 [M, D, D] on the CPU, to either

    weights [M, D]          the update of module m is `sum_d weights[m, d] g[m, d]`
    coefficients [M, D, D]  domain d contributes `p[m, d] = sum_e C[m, d, e] g[m, e]`: projections

It may ask for more by the names of its parameters:

    orders_MDE       int64 [M, D, D - 1], for each module and domain the other domains in the order
                     of projection; under `surgery.order=all` it is called with every order and the
                     mean is taken
    seed             of this step, the same on all ranks, for a generator of its own
    may_project_MDD  bool [M, D, D], the pairs that `surgery.gate` lets it project, or None

and it may have a function `check()` as an attribute, called before a run starts, which raises
`ConfigError` when something that it needs is not installed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mgsrl.config.surgery import SURGERY_METHODS, SurgeryConfig
from mgsrl.errors import ConfigError, NoWeightsError
from mgsrl.plugins import Part, tried

KEY = "surgery.method"
OFFERED = ("orders_MDE", "seed", "may_project_MDD")
SurgeryMethod = Callable[..., Tensor]


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
    if config.gate != "off" and "may_project_MDD" not in part.takes:
        raise ConfigError(
            "surgery.gate decides which conflicts are projected.",
            expected="surgery.method=pcgrad, or your own with an argument may_project_MDD",
            found=f"surgery.method={config.method}, surgery.gate={config.gate}",
            todo="set surgery.method=pcgrad, or surgery.gate=off",
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
        contributions(part, rows @ rows.mT, orders_MDE=orders_MDE, seed=0, may_project_MDD=None)


def contributions(part: Part, gram_MDD: Tensor, **offered: object) -> Tensor:
    """What the method gives, as float64 coefficients [M, D, D].

    Raises:
        ValueError: another shape than weights or coefficients have.
        NoWeightsError: something that is not finite.
    """
    try:
        found = part(gram_MDD.clone(), **offered)  # a copy: the step's record needs it as it is
    except NoWeightsError as error:
        raise NoWeightsError(f"{part.name}: {error}") from error
    shape = tuple(gram_MDD.shape)
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
    return torch.diag_embed(found) if found.ndim == 2 else found
