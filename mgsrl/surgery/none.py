"""`none`: no surgery. The update is the sum of the domains' gradients, which is Mixed RL."""

import torch
from torch import Tensor


def none(gram_MDD: Tensor) -> Tensor:
    """Identity coefficients [M, D, D]: every domain keeps its gradient."""
    return torch.eye(gram_MDD.shape[-1], dtype=gram_MDD.dtype).expand(gram_MDD.shape).clone()
