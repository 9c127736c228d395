"""What a step of surgery decides, from the rows' Gramian."""

import pytest
import torch

from mgsrl.config.surgery import ReliabilityConfig, SurgeryConfig
from mgsrl.errors import ConfigError
from mgsrl.surgery import resolve, surgery_coefficients, surgery_weights
from mgsrl.surgery.torchjd_adapter import TorchJD
from tests.surgery.test_reliability import half_gradients

DOMAINS = ("math", "chat")
SIZES = [(4, 4), (4, 4)]


def halves_gramian(signal_to_noise: float = 1.0, num_modules: int = 24) -> torch.Tensor:
    halves_MRn = half_gradients(signal_to_noise, -0.5, num_modules=num_modules)
    return halves_MRn @ halves_MRn.transpose(1, 2)


def names(num_modules: int = 24) -> list[str]:
    return [f"layers.{m}.mlp" for m in range(num_modules)]


def test_halves_change_no_weight() -> None:
    gram_MRR = halves_gramian()
    gram_MDD = sum(gram_MRR[:, a : a + 2, b : b + 2] for a in (0, 2) for b in (0, 2))
    split = resolve(gram_MRR, DOMAINS, names(), SurgeryConfig(), 3, SIZES)
    whole = resolve(gram_MDD, DOMAINS, names(), SurgeryConfig(), 3)
    torch.testing.assert_close(split.weights_MD, whole.weights_MD)
    torch.testing.assert_close(whole.weights_MD, surgery_weights(gram_MDD, seed=3))
    assert whole.reliability is None
    assert set(split.scalars) - set(whole.scalars) == {
        "surgery/reliability/math",
        "surgery/reliability/chat",
        "surgery/corrected_cosine/math-chat",
        "surgery/reliable_conflict_rate",
    }


def test_gate_takes_part_in_the_weights() -> None:
    gram_MRR = halves_gramian()
    free = resolve(gram_MRR, DOMAINS, names(), SurgeryConfig(), 0, SIZES)
    gated = resolve(gram_MRR, DOMAINS, names(), SurgeryConfig(gate="reliable"), 0, SIZES)
    assert gated.reliability is not None
    stands_out_M = gated.reliability.conflict_MDD[:, 0, 1]
    assert 0 < stands_out_M.sum() < 24
    assert torch.equal(gated.weights_MD[stands_out_M], free.weights_MD[stands_out_M])
    assert torch.equal(
        gated.weights_MD[~stands_out_M], torch.ones_like(gated.weights_MD[~stands_out_M])
    )
    shares = [report.scalars["surgery/projected_share/math"] for report in (gated, free)]
    assert 0 < shares[0] < shares[1]


@pytest.mark.parametrize("method", ["pcgrad", "none"])
def test_measuring_only_leaves_the_plain_sum(method: str) -> None:
    gram_MRR = halves_gramian()
    report = resolve(
        gram_MRR, DOMAINS, names(), SurgeryConfig(method=method, measure_only=True), 0, SIZES
    )
    usual = resolve(gram_MRR, DOMAINS, names(), SurgeryConfig(), 0, SIZES)
    assert torch.equal(report.weights_MD, torch.ones(24, 2, dtype=torch.float64))
    assert report.scalars == usual.scalars
    assert report.scalars["surgery/projected_share/math"] > 0


def test_measuring_only_needs_no_weights_of_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver that fails must not cost a step that it has no say in."""

    def no_solution(gram: torch.Tensor) -> torch.Tensor:
        return gram[0] * float("nan")

    monkeypatch.setattr(TorchJD, "maker", lambda self: lambda num_domains: no_solution)
    skipped = resolve(halves_gramian(), DOMAINS, names(), SurgeryConfig(method="mgda"), 0, SIZES)
    assert skipped.problem is not None
    assert not skipped.weights_MD.any()
    config = SurgeryConfig(method="mgda", measure_only=True)
    report = resolve(halves_gramian(), DOMAINS, names(), config, 0, SIZES)
    assert report.problem is None
    assert torch.equal(report.weights_MD, torch.ones(24, 2, dtype=torch.float64))
    assert report.projected_MD is None
    assert report.reliability is not None


def test_halves_that_cancel_have_no_negative_norm() -> None:
    halves_Rn = torch.tensor([[0.1, 0.3], [1.0, 0.0], [-0.1, -0.3], [1.0, 0.0]]).double()
    gram_MRR = (halves_Rn @ halves_Rn.T)[None]
    gram_MRR[0, 0, 0] -= 1e-9  # as sums in another order round
    report = resolve(gram_MRR, DOMAINS, names(1), SurgeryConfig(), 0, SIZES)
    assert report.gram_MDD[0, 0, 0] == 0
    assert report.scalars["surgery/cosine/math-chat"] == 0.0


def test_a_gate_that_nothing_passes_is_the_plain_sum() -> None:
    config = SurgeryConfig(gate="reliable", reliability=ReliabilityConfig(level=1e-6))
    report = resolve(halves_gramian(0.01, 1), DOMAINS, names(1), config, 0, SIZES)
    assert report.weights_MD.tolist() == [[1.0, 1.0]]
    assert report.scalars["surgery/projected_share/math"] == 0.0


def test_non_finite_gradients_are_a_problem_not_an_update() -> None:
    gram_MRR = halves_gramian()
    gram_MRR[3, 1, 1] = float("inf")
    report = resolve(gram_MRR, DOMAINS, names(), SurgeryConfig(), 0, SIZES)
    assert report.problem == "a gradient is not finite"
    assert not report.weights_MD.any()


def test_three_domains_and_an_allowed_pair() -> None:
    """Only the named pair is projected, whichever way the others point."""
    gradients = torch.tensor([[1.0, 0.0], [-0.6, 0.8], [-0.6, -0.8]], dtype=torch.float64)
    gram_MDD = (gradients @ gradients.T)[None]
    allowed = torch.zeros(1, 3, 3, dtype=torch.bool)
    allowed[0, 0, 1] = allowed[0, 1, 0] = True
    found = surgery_coefficients(gram_MDD, may_project_MDD=allowed)[0]
    expected = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SurgeryConfig(gate="on"), ("surgery.gate", "reliable")),
        (SurgeryConfig(buffer_dtype="bf16"), ("surgery.buffer_dtype", "bfloat16")),
        (SurgeryConfig(buffer_device="gpu"), ("surgery.buffer_device", "same")),
        (SurgeryConfig(reliability=ReliabilityConfig(every=-1)), ("surgery.reliability.every",)),
        (SurgeryConfig(reliability=ReliabilityConfig(level=0.7)), ("surgery.reliability.level",)),
    ],
)
def test_mistakes_name_the_key(config: SurgeryConfig, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.validate()
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (SurgeryConfig(), []),
        (SurgeryConfig(reliability=ReliabilityConfig(every=3)), [3, 6]),
        (SurgeryConfig(gate="reliable"), [1, 2, 3, 4, 5, 6]),
    ],
)
def test_steps_that_measure(config: SurgeryConfig, steps: list[int]) -> None:
    assert [step for step in range(1, 7) if config.measures_reliability(step)] == steps
