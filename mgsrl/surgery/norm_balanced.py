"""`norm_balanced`: every domain pulls with the same strength, in Gramian space.

GradNorm (arXiv 1711.02257) learns weights that bring the tasks' weighted gradients to the norm

    |w_d g_d| = mean_e |w_e g_e| * r_d^alpha        with  sum_e w_e = D

With `alpha = 0` no training rate `r_d` is left in it: all end equally long, at the harmonic mean of
the `|g_e|`, which a domain without a gradient takes to 0. Equal lengths are the aim here too, in
closed form inside one module; the length is ours, the plain mean: `w_d = mean_e |g_e| / |g_d|`. So
the update is a sum of D directions of equal length, which is about as long as the plain sum: it
needs no other learning rate.

It does not ask what a gradient is made of: of a domain whose groups are all dead in a step the KL's
and the entropy bonus's are left, and they are scaled up to full length (noise likewise).

Left out: `alpha` above 0 (it compares losses, which GRPO's are not made for), GradNorm's second
optimizer, and a cap on the weights.
"""

import torch
from torch import Tensor


def norm_balanced(gram_MDD: Tensor) -> Tensor:
    """Weights [M, D], `mean_e |g_e| / |g_d|`.

    The mean is over the domains that have a gradient in the module; one without has weight 1 (times
    zero) and changes nothing for the others.
    """
    norms_MD = gram_MDD.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    has_MD = norms_MD > 0
    mean_M1 = norms_MD.sum(-1, keepdim=True) / has_MD.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(has_MD, mean_M1 / norms_MD.where(has_MD, 1.0), 1.0)
