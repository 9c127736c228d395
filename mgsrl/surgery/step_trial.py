"""Steps of any PyTorch optimizer, tried on whole parameters and taken back.

For trainers that hold the whole model in one process; the learner has shards, and makes AdamW's
step itself (`learner/step_probe.py`).
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class StepTrial:
    """Inside `with`, steps can be made; each is taken back, and what the block changed besides
    (gradients, generators of random numbers) is as before afterwards.

    Args:
        parameters: those that the optimizer steps.
        losses: [D] each gives a scalar from the parameters as they are.
        seed: of what the losses draw, the same in every call.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        losses: Sequence[Callable[[], Tensor]],
        seed: int,
    ) -> None:
        self._parameters, self._optimizer = parameters, optimizer
        self._losses, self._seed = losses, seed
        devices = {p.device for p in parameters if p.device.type == "cuda"}
        self._random = torch.random.fork_rng(devices=list(devices))

    def __enter__(self) -> "StepTrial":
        self._random.__enter__()
        self._gradients = [p.grad for p in self._parameters]
        self._weights = [p.detach().clone() for p in self._parameters]
        self._state = {
            p: {name: _copy(value) for name, value in state.items()}
            for p, state in self._optimizer.state.items()
        }
        self._groups = [
            {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}
            for group in self._optimizer.param_groups
        ]
        self._slopes = [self._slope(loss) for loss in self._losses]
        self._before_D = self._measure()
        return self

    def __exit__(self, *error: object) -> None:
        self._take_back()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        self._random.__exit__(None, None, None)

    def make(self, gradient: Sequence[Tensor]) -> tuple[Tensor, Tensor, float]:
        """Step with a gradient, flat by parameter, measure, take it back.

        Returns:
            float64 [D] changes of the losses, [D] the same to first order, the step's norm.
        """
        for parameter, part in zip(self._parameters, gradient, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter, copy=True)
        self._optimizer.step()
        steps = [
            (p.detach().double() - kept.double()).flatten()
            for p, kept in zip(self._parameters, self._weights, strict=True)
        ]
        predicted = [
            sum(float(own @ step) for own, step in zip(slope, steps, strict=True))
            for slope in self._slopes
        ]
        norm = sum(float(step @ step) for step in steps) ** 0.5
        change_D = self._measure() - self._before_D
        self._take_back()
        return change_D, torch.tensor(predicted, dtype=torch.float64), norm

    def _slope(self, loss: Callable[[], Tensor]) -> list[Tensor]:
        """The loss's gradient, flat by parameter."""
        torch.manual_seed(self._seed)
        found = torch.autograd.grad(
            loss(), self._parameters, allow_unused=True, materialize_grads=True
        )
        return [gradient.detach().double().flatten() for gradient in found]

    @torch.no_grad()
    def _measure(self) -> Tensor:
        values = []
        for loss in self._losses:
            torch.manual_seed(self._seed)
            values.append(float(loss()))
        return torch.tensor(values, dtype=torch.float64)

    @torch.no_grad()
    def _take_back(self) -> None:
        for weights, kept in zip(self._parameters, self._weights, strict=True):
            weights.copy_(kept)
        state = self._optimizer.state
        for parameter in list(state):
            if parameter not in self._state:
                del state[parameter]
                continue
            own, kept_state = state[parameter], self._state[parameter]
            for name in own.keys() - kept_state.keys():
                del own[name]
            for name, value in kept_state.items():
                if isinstance(value, Tensor):
                    own[name].copy_(value)  # others may hold views of it
                else:
                    own[name] = copy.deepcopy(value)
        for group, kept_group in zip(self._optimizer.param_groups, self._groups, strict=True):
            for name in group.keys() - kept_group.keys() - {"params"}:
                del group[name]
            group.update(copy.deepcopy(kept_group))


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
