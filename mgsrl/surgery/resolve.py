"""From the rows' Gramian to the weights of one update: what a step of surgery decides.

Pure tensors, the same on every rank: the learner brings the Gramian (already summed over ranks)
and applies the weights.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mgsrl.config.surgery import SurgeryConfig
from mgsrl.errors import NoWeightsError
from mgsrl.surgery.memory import PairMemory
from mgsrl.surgery.methods import Decision
from mgsrl.surgery.modules import module_place
from mgsrl.surgery.protect import protecting_pairs
from mgsrl.surgery.reliability import measure_reliability, reliability_scalars, whole_gramian
from mgsrl.surgery.report import surgery_report
from mgsrl.surgery.weights import surgery_decision
from mgsrl.types import Reliability, SurgeryReport


def resolve(
    gram_MRR: Tensor,
    domains: Sequence[str],
    modules: Sequence[str],
    config: SurgeryConfig,
    seed: int,
    half_sizes: Sequence[tuple[int, int]] = (),
    memory: PairMemory | None = None,
) -> SurgeryReport:
    """Weights for every module and domain, and what led to them.

    Args:
        gram_MRR: float64 [M, R, R]; R is D, or 2 D with `half_sizes`: all first halves, then all
            second ones.
        domains, modules: names, in the order of the tensors' dimensions.
        seed: of this step's projection orders.
        half_sizes: prompts in the two halves, by domain; empty on steps without them.
        memory: of a method with memory, what the report before had for these domains
            (`SurgeryMemory.of`); None before the first update.

    Returns:
        With `problem` set, and weights of zero, when there is no update to make: the Gramian is
        not finite or the method found no finite weights. Then the step is to be skipped. Under
        `measure_only` such a method costs only its own record, `projected_MD` and its scalars.
        With `memory` for the next update where the method has one and found weights.
    """
    gram_MDD = whole_gramian(gram_MRR) if half_sizes else gram_MRR
    no_weights_MD = torch.zeros(gram_MDD.shape[:2], dtype=torch.float64)
    if not gram_MDD.numel() or not torch.isfinite(gram_MRR).all():
        problem = "a gradient is not finite" if gram_MDD.numel() else "there is no gradient"
        return SurgeryReport(
            tuple(domains), tuple(modules), gram_MDD, no_weights_MD, {}, problem=problem
        )
    found = reliability_of(gram_MRR, modules, half_sizes, config) if half_sizes else None
    decided = None
    try:
        decided = _decision(gram_MDD, domains, config, seed, found, memory)
    except NoWeightsError as error:
        if not config.measure_only:
            report = surgery_report(domains, modules, gram_MDD, no_weights_MD)
            return replace(report, problem=str(error))
    if decided is None or config.measure_only:
        weights_MD = torch.ones_like(no_weights_MD)
    else:
        weights_MD = decided.coefficients_MDD.sum(1)
    coefficients_MDD, after = decided or (None, None)
    report = surgery_report(domains, modules, gram_MDD, weights_MD, coefficients_MDD)
    report = replace(report, memory=after)
    if found is None:
        return report
    scalars = {**report.scalars, **reliability_scalars(domains, found)}
    return replace(report, scalars=scalars, reliability=found)


def reliability_of(
    gram_MRR: Tensor,
    modules: Sequence[str],
    half_sizes: Sequence[tuple[int, int]],
    config: SurgeryConfig,
) -> Reliability:
    """See `measure_reliability`; arguments as those of `resolve`."""
    kinds = [module_place(module)[0] for module in modules]
    return measure_reliability(gram_MRR, half_sizes, kinds, config.reliability.level)


def update_weights(
    gram_MDD: Tensor,
    domains: Sequence[str],
    config: SurgeryConfig,
    seed: int,
    found: Reliability | None,
    memory: PairMemory | None,
) -> Tensor:
    """[M, D] of the update from the Gramian, all 1 under `measure_only`; nothing is remembered.

    Raises:
        NoWeightsError: the method found no finite weights.
    """
    if config.measure_only:
        return torch.ones(gram_MDD.shape[:2], dtype=torch.float64)
    decided = _decision(gram_MDD, domains, config, seed, found, memory)
    return decided.coefficients_MDD.sum(1)


def _decision(
    gram_MDD: Tensor,
    domains: Sequence[str],
    config: SurgeryConfig,
    seed: int,
    found: Reliability | None,
    memory: PairMemory | None,
) -> Decision:
    method = config.method
    if config.measure_only and method == "none":
        method = "pcgrad"  # of the plain sum there is nothing to record
    gate_MDD = None
    if config.gate == "reliable":
        assert found is not None, "a gated step measures its reliability"
        gate_MDD = found.conflict_MDD
    if config.protect:
        pairs_MDD = protecting_pairs(domains, config.protect).expand(gram_MDD.shape)
        gate_MDD = pairs_MDD if gate_MDD is None else gate_MDD & pairs_MDD
    return surgery_decision(gram_MDD, method, config.order, seed, gate_MDD, memory, config)
