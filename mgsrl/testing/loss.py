"""What holds for policy losses inside the shared loss, tried on random micro-batches in float64."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mgsrl.algo.losses import (
    LossOutput,
    PolicyLoss,
    grpo_loss,
    only_advantages_teach,
    policy_loss,
)
from mgsrl.config.algo import AGGREGATIONS, AlgoConfig
from mgsrl.testing.demand import chosen, demand
from mgsrl.types import BatchTotals, MicroBatch, RowLayout

ALWAYS = ("finite", "masked", "zero_mask", "split", "padding", "sums", "silent")
USUAL = ("gradient", "first_update")
TOLERANCE = 1e-9
STEP = 1e-6
"""Of finite differences."""


def check_loss(
    loss: str | PolicyLoss,
    config: AlgoConfig | None = None,
    *,
    without: Collection[str] = (),
    seeds: int = 3,
) -> None:
    """Try a policy loss with every aggregation.

    Args:
        loss: its name, as in `algo.loss`, or the function.
        config: what it reads; the defaults without one.
        without: usual properties that it does not claim, out of
            `gradient` (autograd's is that of finite differences; not with detached factors, CISPO),
            `first_update` (with log-ratios of 0 it is the policy gradient, `-A grad log p`).
        seeds: random batches per property and aggregation.

    Always tried: `finite` values, a bool of the same shape beside them; tokens outside the mask
    have no influence, even NaN (`masked`); with a `zero_mask` loss and gradient are exactly 0 and
    the graph is connected; any `split` into micro-batches adds up to the whole, and `padding`
    changes nothing; the `sums` for the metrics are detached; one that says so (`silent_at_zero`) is
    `silent` where the advantage is 0.

    Raises:
        ContractError: a property does not hold.
        ConfigError: the loss cannot be found or called.
        ValueError: an unknown property.
    """
    config = replace(config or AlgoConfig(), kl_coef=0.0, entropy_coef=0.0)
    for aggregation in AGGREGATIONS:
        subject = _Subject(loss, policy_loss(loss).name, replace(config, aggregation=aggregation))
        for name in chosen(ALWAYS, USUAL, (), without, ()):
            for seed in range(seeds):
                _PROPERTIES[name](subject, _draw(seed))


@dataclass(frozen=True)
class _Batch:
    logp_BL: Tensor
    old_BL: Tensor
    rollout_BL: Tensor
    mask_BL: Tensor
    advantages_B: Tensor

    def rows(self, rows: slice) -> "_Batch":
        return _Batch(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def with_logps(self, change: Callable[[Tensor], Tensor]) -> "_Batch":
        return _Batch(
            change(self.logp_BL),
            change(self.old_BL),
            change(self.rollout_BL),
            self.mask_BL,
            self.advantages_B,
        )


def _draw(seed: int, num_sequences: int = 6, length: int = 5) -> _Batch:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    shape = (num_sequences, length)
    lengths = torch.randint(1, length + 1, (num_sequences, 1), generator=generator)
    mask_BL = (torch.arange(length) < lengths).double()
    logp_BL = -noise(*shape).abs() - 0.1
    old_BL, rollout_BL = logp_BL + 0.3 * noise(*shape), logp_BL + 0.3 * noise(*shape)
    return _Batch(logp_BL, old_BL, rollout_BL, mask_BL, noise(num_sequences))


@dataclass(frozen=True)
class _Subject:
    loss: str | PolicyLoss
    name: str
    config: AlgoConfig

    def run(self, batch: _Batch, totals: BatchTotals) -> tuple[LossOutput, Tensor]:
        """The output, and its gradient with respect to the log-probabilities."""
        logp_BL = batch.logp_BL.clone().requires_grad_()
        micro_batch = MicroBatch(
            "math",
            torch.zeros(0, dtype=torch.int64),
            RowLayout((), (), ()),
            batch.mask_BL,
            batch.rollout_BL,
            batch.advantages_B,
            1.0,
        )
        output = grpo_loss(
            logp_BL,
            micro_batch,
            totals,
            self.config,
            policy_loss(self.loss),
            old_logprobs_BL=batch.old_BL,
        )
        self.demand(output.loss.requires_grad, "a loss that depends on the policy", "a constant")
        output.loss.backward()
        assert logp_BL.grad is not None
        return output, logp_BL.grad

    def value(self, batch: _Batch) -> tuple[Tensor, Tensor]:
        output, gradient_BL = self.run(batch, _totals(batch))
        return output.loss.detach(), gradient_BL

    def demand(self, kept: bool, expected: str, found: object) -> None:
        what = f"The policy loss {self.name} ({self.config.aggregation})"
        demand(kept, what, expected, found)

    def demand_close(self, found: Tensor, wanted: Tensor, expected: str, rtol: float = 0.0) -> None:
        close = torch.allclose(found, wanted, rtol=rtol, atol=max(rtol, TOLERANCE))
        self.demand(close, expected, f"{found.tolist()} instead of {wanted.tolist()}")


def _totals(batch: _Batch) -> BatchTotals:
    return BatchTotals(int(batch.mask_BL.sum()), len(batch.mask_BL), batch.mask_BL.shape[1])


def _finite(subject: _Subject, batch: _Batch) -> None:
    far = [batch.with_logps(lambda x, by=by: x * by) for by in (1.0, 1e4)]  # type: ignore[misc]
    for each in far:
        loss, gradient_BL = subject.value(each)
        right = bool(torch.isfinite(loss)) and bool(torch.isfinite(gradient_BL).all())
        subject.demand(right, "finite numbers, of unlikely tokens too", f"{loss}, {gradient_BL}")


def _masked(subject: _Subject, batch: _Batch) -> None:
    totals, outside_BL = _totals(batch), batch.mask_BL == 0
    clean, gradient_BL = subject.run(batch, totals)
    for garbage in (float("nan"), float("inf"), -1e30):
        dirty = batch.with_logps(lambda x, g=garbage: x.masked_fill(outside_BL, g))  # type: ignore[misc]
        found, dirty_BL = subject.run(dirty, totals)
        same = bool(found.loss == clean.loss) and torch.equal(dirty_BL, gradient_BL)
        same = same and found.sums == clean.sums
        expected = f"no influence of masked tokens, here {garbage}"
        subject.demand(same, expected, f"{found} instead of {clean}")
    subject.demand(not gradient_BL[outside_BL].any(), "no gradient of masked tokens", gradient_BL)


def _zero_mask(subject: _Subject, batch: _Batch) -> None:
    empty = replace(batch, mask_BL=torch.zeros_like(batch.mask_BL))
    for totals in (BatchTotals(100, 10, 16), BatchTotals(0, 0, 16)):
        output, gradient_BL = subject.run(empty, totals)
        nothing = output.loss == 0 and not gradient_BL.any()
        nothing = nothing and not any(value.item() for value in output.sums.values())
        found = f"{output.loss.item()}, {output.sums}"
        subject.demand(bool(nothing), "exactly 0 of an empty micro-batch", found)


def _split(subject: _Subject, batch: _Batch) -> None:
    totals = _totals(batch)
    whole, gradient_BL = subject.run(batch, totals)
    parts = [subject.run(batch.rows(slice(a, a + 2)), totals) for a in (0, 2, 4)]
    added = torch.stack([output.loss for output, _ in parts]).sum()
    subject.demand_close(added, whole.loss, "micro-batches that add up to the batch")
    found_BL = torch.cat([part_BL for _, part_BL in parts])
    subject.demand_close(found_BL, gradient_BL, "the gradient of the whole batch")


def _padding(subject: _Subject, batch: _Batch) -> None:
    totals = _totals(batch)
    whole, gradient_BL = subject.run(batch, totals)
    longer = replace(
        batch.with_logps(lambda x: torch.nn.functional.pad(x, (0, 3))),
        mask_BL=torch.nn.functional.pad(batch.mask_BL, (0, 3)),
    )
    padded, padded_BL = subject.run(longer, totals)
    subject.demand_close(padded.loss, whole.loss, "a loss that padding does not change")
    subject.demand_close(padded_BL[:, :-3], gradient_BL, "a gradient that padding does not change")


def _sums(subject: _Subject, batch: _Batch) -> None:
    output, _ = subject.run(batch, _totals(batch))
    attached = [name for name, value in output.sums.items() if value.requires_grad]
    subject.demand(not attached, "detached sums", attached)
    clipped, tokens = output.sums["clipped"].item(), output.sums["num_tokens"].item()
    subject.demand(0 <= clipped <= tokens, "a bool per token of where a clip removed it", clipped)


def _silent(subject: _Subject, batch: _Batch) -> None:
    if only_advantages_teach(subject.config, policy_loss(subject.loss)):
        zero = replace(batch, advantages_B=torch.zeros_like(batch.advantages_B))
        output, gradient_BL = subject.run(zero, _totals(zero))
        nothing = not any((output.loss, gradient_BL.any(), output.sums["clipped"]))
        subject.demand(nothing, "exactly 0 without an advantage", f"{output}, {gradient_BL}")


def _gradient(subject: _Subject, batch: _Batch) -> None:
    _, gradient_BL = subject.value(batch)
    numeric_BL = torch.zeros_like(gradient_BL)
    for row, column in torch.nonzero(batch.mask_BL).tolist():
        sides = []
        for step in (STEP, -STEP):
            logp_BL = batch.logp_BL.clone()
            logp_BL[row, column] += step
            sides.append(subject.value(replace(batch, logp_BL=logp_BL))[0])
        numeric_BL[row, column] = (sides[0] - sides[1]) / (2 * STEP)
    subject.demand_close(gradient_BL, numeric_BL, "the gradient of finite differences", rtol=1e-6)


def _first_update(subject: _Subject, batch: _Batch) -> None:
    batch = replace(batch, old_BL=batch.logp_BL, rollout_BL=batch.logp_BL)
    totals, mask_BL = _totals(batch), batch.mask_BL
    share_BL = {
        "token_mean": mask_BL / totals.num_tokens,
        "sequence_mean": mask_BL / mask_BL.sum(-1, keepdim=True) / totals.num_sequences,
        "sequence_sum_norm": mask_BL / (totals.max_response_length * totals.num_sequences),
    }[subject.config.aggregation]
    _, gradient_BL = subject.run(batch, totals)
    wanted_BL = -batch.advantages_B[:, None] * share_BL
    subject.demand_close(gradient_BL, wanted_BL, "the policy gradient in the first update")


_PROPERTIES: dict[str, Callable[[_Subject, _Batch], None]] = {
    "finite": _finite,
    "masked": _masked,
    "zero_mask": _zero_mask,
    "split": _split,
    "padding": _padding,
    "sums": _sums,
    "silent": _silent,
    "gradient": _gradient,
    "first_update": _first_update,
}
