"""`pcgrad_smoothed`: PCGrad of the conflicts that last; one step's noise is none.

With small batches the cosine of two unrelated gradients is negative on every other step. Over steps
the noise of independent prompts averages out. Per module and pair of domains this keeps the running
averages, with `1 - beta` for the past and corrected for their start at 0 (as AdamW's moments),

    c = average of the cosines        q = average of their squares        n = updates so far

and projects a pair, where it conflicts now, only when its average conflict stands out of the noise:

    c / sqrt(q s) < -z(1 - level)        s = beta / (2 - beta) * (1 + (1-beta)^n) / (1 - (1-beta)^n)

`s` is the sum of the squared weights in the average: `q s` is the variance of `c` where the cosines
scatter around 0 and no step depends on another. Of a true cosine `q` holds the square as well,
which makes the test more careful. At `level=0.05` nothing is projected before the third update;
`level=0.5` looks at the sign of the average alone, and with `beta=1` besides it is PCGrad (of two
domains; of more, without the pairs of which only an earlier projection made a conflict).

It needs the Gramian alone; `surgery.gate=reliable` needs the gradients of two halves of the batch.
What it costs is time: a conflict that comes up is seen after some updates, not in its first.
`docs/surgery.md` compares the two. Left out: that several updates on one batch share their noise.
"""

from statistics import NormalDist

import torch
from torch import Tensor

from mgsrl.config.surgery import SmoothingConfig
from mgsrl.surgery.memory import PairMemory
from mgsrl.surgery.pcgrad import pcgrad
from mgsrl.surgery.report import cosines


def pcgrad_smoothed(
    gram_MDD: Tensor,
    orders_MDE: Tensor,
    memory: PairMemory,
    settings: SmoothingConfig,
    may_project_MDD: Tensor | None = None,
) -> tuple[Tensor, PairMemory]:
    """Coefficients of the projected gradients, and the averages after this update.

    Args:
        gram_MDD, orders_MDE, may_project_MDD: as of `pcgrad`.
        memory: `cosine` and `square`, averages that begin with 0, and `count` of updates.
        settings: `beta` and `level`.

    Returns:
        float64 [M, D, D], and the new memory. A pair of which one gradient is zero in a module
        keeps its averages there.
    """
    after = averaged(gram_MDD, memory, settings.beta)
    lasting_MDD = standing_out(after, settings.beta) < -NormalDist().inv_cdf(1 - settings.level)
    if may_project_MDD is not None:
        lasting_MDD &= may_project_MDD
    return pcgrad(gram_MDD, orders_MDE, lasting_MDD), after


def averaged(gram_MDD: Tensor, memory: PairMemory, beta: float) -> PairMemory:
    """The averages with this update in them."""
    cosine_MDD = cosines(gram_MDD)
    has_MD = gram_MDD.diagonal(dim1=-2, dim2=-1) > 0
    known_MDD = has_MD.unsqueeze(-1) & has_MD.unsqueeze(-2)
    new = {"cosine": cosine_MDD, "square": cosine_MDD**2}
    after = {"count": memory.get("count", torch.zeros_like(gram_MDD)) + known_MDD}
    for name, now_MDD in new.items():
        past_MDD = memory.get(name, torch.zeros_like(gram_MDD))
        after[name] = torch.where(known_MDD, (1 - beta) * past_MDD + beta * now_MDD, past_MDD)
    return after


def standing_out(memory: PairMemory, beta: float) -> Tensor:
    """[M, D, D] the average cosine over its standard error; 0 for pairs that never met."""
    past_MDD = (1 - beta) ** memory["count"]
    share_MDD = 1 - past_MDD
    weights_MDD = beta / (2 - beta) * (1 + past_MDD) / share_MDD
    error_MDD = (memory["square"] / share_MDD * weights_MDD).sqrt()
    z_MDD = memory["cosine"] / share_MDD / error_MDD
    return z_MDD.where(error_MDD > 0, 0.0)
