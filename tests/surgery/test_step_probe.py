"""The mathematics of steps that are tried, against closed forms and PyTorch's own AdamW."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mgsrl.config.surgery import StepProbeConfig, SurgeryConfig
from mgsrl.errors import ConfigError, NoWeightsError
from mgsrl.surgery import effective_dimension, resolve
from mgsrl.surgery.step_probe import (
    adamw_step_,
    clip_factor,
    effects,
    scales,
    step_probe_scalars,
    trial_weights,
    with_probe,
)
from mgsrl.types import StepProbe

MODULES = ("layers.0.attention", "layers.0.mlp", "layers.1.attention", "layers.1.mlp")
SIZES = {"math": (4, 4), "chat": (4, 4)}
seeds = st.integers(0, 10**6)


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(
    seed=seeds,
    updates=st.integers(0, 4),
    beta1=st.sampled_from([0.0, 0.5, 0.9]),
    decay=st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=40, deadline=None)
def test_the_step_is_adamws_and_nothing_else_moves(
    seed: int, updates: int, beta1: float, decay: float
) -> None:
    weights = torch.nn.Parameter(randn(seed, 7))
    options = {"lr": 0.03, "betas": (beta1, 0.99), "eps": 1e-6, "weight_decay": decay}
    optimizer = torch.optim.AdamW([weights], **options)
    gradients = randn(seed + 1, updates + 1, 7)
    for gradient in gradients[:-1]:
        weights.grad = gradient
        optimizer.step()
    before, state = weights.detach().clone(), optimizer.state[weights]
    moments = (state["exp_avg"], state["exp_avg_sq"]) if updates else None
    kept = [m.clone() for m in moments or ()]
    found = adamw_step_(gradients[-1].clone(), weights.detach(), moments, updates, **options)
    assert all(torch.equal(m, k) for m, k in zip(moments or (), kept, strict=True))
    assert torch.equal(weights, before)
    weights.grad = gradients[-1]
    optimizer.step()
    torch.testing.assert_close(found, weights - before, rtol=1e-9, atol=1e-12)


@given(norm=st.floats(1e-6, 1e3), limit=st.floats(1e-3, 10))
def test_the_clip_is_pytorchs(norm: float, limit: float) -> None:
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    weight.grad = torch.tensor([norm], dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_([weight], limit)
    assert norm * clip_factor(norm, limit) == pytest.approx(weight.grad.item(), rel=1e-12)
    assert clip_factor(norm, 0.0) == 1.0


@given(seed=seeds, num_domains=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_steps_are_made_of_the_first_halves(seed: int, num_domains: int) -> None:
    """As if the first halves, scaled up, were the whole batch; the second ones change nothing."""
    sizes = {name: (n, n + seed % 2) for n, name in enumerate("abcd"[:num_domains], start=1)}
    scale_D = scales(list(sizes.values()))[0]
    rows_MRN = randn(seed, len(MODULES), 2 * num_domains, 30)
    first_DN = rows_MRN[:, :num_domains] * scale_D.unsqueeze(-1)
    config = SurgeryConfig(order="all")
    expected = resolve(first_DN @ first_DN.mT, list(sizes), MODULES, config, seed)
    weights = trial_weights(rows_MRN @ rows_MRN.mT, sizes, MODULES, config, seed)
    updates = torch.einsum("smr,mrn->smn", weights, rows_MRN)
    resolved = torch.einsum("md,mdn->mn", expected.weights_MD, first_DN)
    torch.testing.assert_close(updates[0], resolved)
    torch.testing.assert_close(updates[1:-1], first_DN.transpose(0, 1))
    assert not updates[-1].any()
    rows_MRN[:, num_domains:] = randn(seed + 1, len(MODULES), num_domains, 30)
    again = trial_weights(rows_MRN @ rows_MRN.mT, sizes, MODULES, config, seed)
    torch.testing.assert_close(again, weights)
    plain = SurgeryConfig(measure_only=True)
    summed = trial_weights(rows_MRN @ rows_MRN.mT, sizes, MODULES, plain, seed)[0]
    torch.testing.assert_close(summed[:, :num_domains], scale_D.expand(len(MODULES), -1))


def test_a_gate_decides_as_it_does_for_the_step() -> None:
    rows_MRN = randn(3, len(MODULES), 4, 30)  # noise alone: no conflict stands out
    gram, sizes = rows_MRN @ rows_MRN.mT, SIZES
    weights = trial_weights(gram, sizes, MODULES, SurgeryConfig(gate="reliable"), 0)[0]
    assert torch.equal(weights[:, :2], torch.full((4, 2), 2.0, dtype=torch.float64))
    ungated = trial_weights(gram, sizes, MODULES, SurgeryConfig(), 0)[0]
    assert not torch.equal(weights, ungated)


def test_a_method_without_weights_leaves_the_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> Tensor:
        raise NoWeightsError("none")

    monkeypatch.setattr("mgsrl.surgery.step_probe.update_weights", fails)
    weights = trial_weights(randn(0, 4, 4, 4), SIZES, MODULES, SurgeryConfig(), 0)
    assert weights[0, :, :2].isnan().all()
    assert weights[1:].isfinite().all()


def quadratic_probe(seed: int, rate: float, *, orthogonal: bool) -> tuple[StepProbe, Tensor]:
    """(a probe by its definition, the curvature in closed form) of L_d = g_d w + w H_d w / 2 from
    w = 0, whose gradient steps are -rate g_d."""
    size = 6
    linear_DN = torch.eye(size, dtype=torch.float64)[:3] if orthogonal else randn(seed, 3, size)
    roots = randn(seed + 1, 3, size, size)
    hessians = roots @ roots.mT
    steps = -rate * torch.cat([linear_DN.sum(0, keepdim=True), linear_DN, torch.zeros(1, size)])
    predicted = steps @ linear_DN.T
    curvature = torch.einsum("sn,dnm,sm->sd", steps, hessians, steps) / 2
    losses = torch.stack([linear_DN @ s + (hessians @ s) @ s / 2 for s in steps])
    return StepProbe(("a", "b", "c"), losses, predicted, steps.norm(dim=1)), curvature


@given(seed=seeds, rate=st.floats(1e-3, 1.0), orthogonal=st.booleans())
@settings(max_examples=30, deadline=None)
def test_what_is_beyond_the_first_order_is_the_curvature(
    seed: int, rate: float, orthogonal: bool
) -> None:
    probe, curvature = quadratic_probe(seed, rate, orthogonal=orthogonal)
    torch.testing.assert_close(probe.change_SD - probe.predicted_SD, curvature)
    scalars = step_probe_scalars(probe)
    own = (curvature[1:-1].sum() / probe.predicted_SD[1:-1].abs().sum()).item()
    assert scalars["surgery/probe/curvature"] == pytest.approx(own)
    assert scalars["surgery/probe/change"] == pytest.approx(probe.change_SD[0].sum().item())
    if orthogonal:  # harm that no inner product tells of
        assert scalars["surgery/probe/harm"] == 1.0
        assert scalars["surgery/probe/predicted_harm"] == 0.0


def test_the_idle_step_is_taken_off_and_unknown_losses_are_left_out() -> None:
    nan = math.nan
    change = torch.tensor([[-2.0, nan], [-3.0, nan], [1.5, nan], [1.0, nan]]).double()
    probe = StepProbe(("a", "b"), change, change / 2, torch.ones(4))
    assert effects(change)[:, 0].tolist() == [-3, -4, 0.5]
    scalars = step_probe_scalars(probe)
    assert scalars == {
        "surgery/probe/change": -3.0,
        "surgery/probe/predicted": -1.5,
        "surgery/probe/harm": 1.0,
        "surgery/probe/predicted_harm": 1.0,
        "surgery/probe/curvature": 1.0,
    }
    lone = StepProbe(("a",), change[:3, 1:], change[:3, 1:], torch.ones(3))
    assert all(math.isnan(value) for value in step_probe_scalars(lone).values())
    report = resolve(torch.eye(2).repeat(4, 1, 1), ["a", "b"], MODULES, SurgeryConfig(), 0)
    assert with_probe(report, None) is report
    assert with_probe(report, probe).scalars.items() >= scalars.items()


@given(seed=seeds, num_domains=st.integers(1, 5), size=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_effective_dimension_is_the_participation_ratio(
    seed: int, num_domains: int, size: int
) -> None:
    rows = randn(seed, 2, num_domains, size)
    gram = rows @ rows.mT
    eigenvalues = torch.linalg.eigvalsh(gram)
    expected = eigenvalues.sum(-1) ** 2 / (eigenvalues**2).sum(-1)
    found = effective_dimension(gram)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(effective_dimension(gram * 7), found)
    assert (found <= min(num_domains, size) + 1e-9).all()
    assert (found >= 1 - 1e-9).all()


def test_effective_dimension_of_simple_cases() -> None:
    assert effective_dimension(torch.eye(3)).item() == 3
    assert effective_dimension(torch.ones(3, 3)).item() == 1
    assert effective_dimension(torch.diag(torch.tensor([1.0, 0.0]))).item() == 1
    assert effective_dimension(torch.zeros(2, 2)).item() == 0


def test_when_steps_are_tried() -> None:
    config = SurgeryConfig(step_probe=StepProbeConfig(every=3))
    assert [step for step in range(1, 8) if config.probes_steps(step)] == [3, 6]
    assert [step for step in range(1, 8) if config.measures_reliability(step)] == [3, 6]
    assert config.ever_measures
    assert not SurgeryConfig().ever_measures
    with pytest.raises(ConfigError, match=r"surgery\.step_probe\.every"):
        SurgeryConfig(step_probe=StepProbeConfig(every=-1)).validate()
