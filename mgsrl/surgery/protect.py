"""`surgery.protect`: one domain is guarded against forgetting, the others give way to it.

The projection of A-GEM (arXiv 1812.00420): where `<g_d, g_p> < 0` for the protected domain p,

    p_d = g_d - (<g_d, g_p> / <g_p, g_p>) g_p        (equation 11)

A-GEM's reference gradient is of stored examples of former tasks; here it is that of a domain which
is trained along. The protected gradient stays as it is, and the others do not give way to each
other. It is a choice of pairs, so every method that takes `may_project_MDD` can do it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def protecting_pairs(domains: Sequence[str], protected: str) -> Tensor:
    """bool [D, D]: whether the gradient of d may be projected on that of e; on the protected one's
    alone, so nowhere in a step without it."""
    is_protected_D = torch.tensor([domain == protected for domain in domains], dtype=torch.bool)
    return ~is_protected_D.unsqueeze(-1) & is_protected_D
