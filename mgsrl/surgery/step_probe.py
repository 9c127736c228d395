"""Does a step on one domain harm another? Steps that are tried, measured and taken back.

Every domain's prompts are dealt into two halves, as for `reliability.py`. With `n_a` and `n_b`
prompts in them and gradients `a` and `b`, `a n / n_a` and `b n / n_b` both estimate the domain's
gradient without bias. The steps are made of the first halves, the losses measured on the second:

    resolved   the optimizer's step with what surgery makes of the first halves' gradients
    own, of d  its step with the gradient of domain d alone
    idle       its step with a gradient of zero: what momentum and weight decay do by themselves

Each is the step that the optimizer would take next from where it stands: with its moments, learning
rate, clip and weight decay. Moments hold former gradients of all domains, so every step has the
idle one in it; what the gradient adds is the difference to it (`effects`). SGD's direction would
need no such control, but is no step that the run could take.

A step `s` changes the loss of domain e, its term of the batch's loss, by

    L_e(w + s) - L_e(w) = <b_e n / n_b, s> + s' H_e s / 2 + ...

The first term is the prediction of first order, exact for this half. What the change has beyond it
is curvature. A pair whose gradients are orthogonal can harm each other by it alone (arXiv
2606.02398). Surgery acts on the first term only.

Left out: third and higher orders apart, the curvature by module, other lengths of the steps, and
averages over probes (each stands for itself).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mgsrl.config.surgery import SurgeryConfig
from mgsrl.errors import NoWeightsError
from mgsrl.surgery.memory import PairMemory
from mgsrl.surgery.modules import module_place
from mgsrl.surgery.reliability import measure_reliability
from mgsrl.surgery.resolve import update_weights
from mgsrl.types import Reliability, StepProbe, SurgeryReport


def scales(half_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """float64 [2, D] what makes each half's gradient an estimate of the domain's; NaN for an empty
    half."""
    sizes_2D = torch.tensor(half_sizes, dtype=torch.float64).reshape(-1, 2).T
    return sizes_2D.sum(0) / sizes_2D.where(sizes_2D > 0, math.nan)


def trial_weights(
    gram_MRR: Tensor,
    half_sizes: Mapping[str, tuple[int, int]],
    modules: Sequence[str],
    config: SurgeryConfig,
    seed: int,
    memory: PairMemory | None = None,
) -> Tensor:
    """float64 [S, M, R] the gradients of the S = D + 2 steps as combinations of the rows.

    Args:
        gram_MRR: [M, 2 D, 2 D] finite inner products, all first halves before all second ones.
        half_sizes: domain, in the order of the rows -> prompts in its two halves; the first is
            never empty.
        modules: [M] their names.
        config: of the surgery. Under `gate=reliable` the step's own decisions hold, for which both
            halves are needed.
        seed: of the step's projection orders.
        memory: of a method with memory, as the step will find it.

    Returns:
        Zero for the second halves; NaN for a resolved step that has no finite weights.
    """
    sizes, own = list(half_sizes.values()), slice(0, len(half_sizes))
    first_D = scales(sizes)[0]
    gram_MDD = gram_MRR[:, own, own].double() * first_D * first_D.unsqueeze(-1)
    found = None
    if config.gate == "reliable":
        kinds = [module_place(module)[0] for module in modules]
        found = measure_reliability(gram_MRR, sizes, kinds, config.reliability.level)
    weights_SMD = step_weights(gram_MDD, list(half_sizes), config, seed, found, memory) * first_D
    return torch.cat([weights_SMD, torch.zeros_like(weights_SMD)], -1)


def step_weights(
    gram_MDD: Tensor,
    domains: Sequence[str],
    config: SurgeryConfig,
    seed: int,
    found: Reliability | None = None,
    memory: PairMemory | None = None,
) -> Tensor:
    """float64 [S, M, D] the gradients of the S steps as combinations of the domains'; NaN for a
    resolved step that has no finite weights. `found`: the reliability, where `config` gates."""
    num_modules, num_domains = gram_MDD.shape[:2]
    weights_SMD = torch.zeros(num_domains + 2, num_modules, num_domains, dtype=torch.float64)
    try:
        weights_SMD[0] = update_weights(gram_MDD, domains, config, seed, found, memory)
    except NoWeightsError:
        weights_SMD[0] = math.nan
    weights_SMD[1:-1] = torch.eye(num_domains).unsqueeze(1)
    return weights_SMD


def norms_of(weights_SMR: Tensor, gram_MRR: Tensor) -> list[float]:
    """[S] norms of the steps' gradients, over all modules."""
    square_S = torch.einsum("smr,mrq,smq->s", weights_SMR, gram_MRR.double(), weights_SMR)
    norms: list[float] = square_S.clamp(min=0).sqrt().tolist()
    return norms


def adamw_step_(
    gradient_N: Tensor,
    weights_N: Tensor,
    moments: tuple[Tensor, Tensor] | None,
    num_updates: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Tensor:
    """Turn a gradient (clipped already) into the change that AdamW (arXiv 1711.05101) would make
    to the weights, in place; nothing else is changed.

    Args:
        moments: of the gradient and of its square, before the step; None before the first.
        num_updates: steps made before.
    """
    first, second = betas
    square_N = gradient_N.square().mul_(1 - second)
    gradient_N.mul_(1 - first)
    if moments is not None:
        gradient_N.add_(moments[0], alpha=first)
        square_N.add_(moments[1], alpha=second)
    size_N = square_N.div_(1 - second ** (num_updates + 1)).sqrt_().add_(eps)
    gradient_N.div_(size_N).mul_(-lr / (1 - first ** (num_updates + 1)))
    return gradient_N.add_(weights_N, alpha=-lr * weight_decay)


def clip_factor(norm: float, max_norm: float) -> float:
    """By which DeepSpeed and PyTorch multiply a gradient; `max_norm` 0 does not clip."""
    return min(1.0, max_norm / (norm + 1e-6)) if max_norm else 1.0


def effects(values_SD: Tensor) -> Tensor:
    """[D + 1, D] what the gradients of the resolved and the own steps did: less the idle step."""
    return values_SD[:-1] - values_SD[-1]


def with_probe(report: SurgeryReport, probe: StepProbe | None) -> SurgeryReport:
    """The report with a probe of its step, if there was one."""
    if probe is None:
        return report
    scalars = {**report.scalars, **step_probe_scalars(probe)}
    return replace(report, scalars=scalars, step_probe=probe)


def step_probe_scalars(probe: StepProbe) -> dict[str, float]:
    """The metrics of a probe, from what gradients did (`effects`):

    `surgery/probe/change`, `surgery/probe/predicted`: of the resolved step, over all domains: the
        change of the batch's loss, measured and to first order.
    `surgery/probe/harm`, `surgery/probe/predicted_harm`: share of the ordered pairs of domains
        in which the own step of one raises the other's loss; NaN for a single domain.
    `surgery/probe/curvature`: of the own steps on all domains, the sum of |change - predicted| over
        the sum of |predicted|.
    """
    change_SD, predicted_SD = effects(probe.change_SD), effects(probe.predicted_SD)
    others = ~torch.eye(len(probe.domains), dtype=torch.bool)
    harm, predicted_harm = (
        _share(values_SD[1:][others]) for values_SD in (change_SD, predicted_SD)
    )
    beyond_DD = (change_SD - predicted_SD)[1:].abs()
    return {
        "surgery/probe/change": change_SD[0].nansum().item() if _any(change_SD[0]) else math.nan,
        "surgery/probe/predicted": (
            predicted_SD[0].nansum().item() if _any(predicted_SD[0]) else math.nan
        ),
        "surgery/probe/harm": harm,
        "surgery/probe/predicted_harm": predicted_harm,
        "surgery/probe/curvature": (beyond_DD.nansum() / predicted_SD[1:].abs().nansum()).item(),
    }


def _any(values: Tensor) -> bool:
    return bool(values.isfinite().any())


def _share(values: Tensor) -> float:
    """Of the known ones, those above 0."""
    known = values[values.isfinite()]
    return (known > 0).double().mean().item() if len(known) else math.nan
