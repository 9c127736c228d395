"""The surgery report: every scalar against the same quantity on explicit gradients."""

import pytest
import torch

from mgsrl.surgery.report import cosines, surgery_report
from mgsrl.surgery.weights import surgery_coefficients
from tests.surgery.test_weights import draw_gradients, gram

DOMAINS = ("math", "chat", "if")
MODULES = ("embeddings", "layers.0.mlp", "layers.0.norms", "layers.1.mlp")


def test_every_scalar_equals_its_definition_on_explicit_gradients() -> None:
    gradients = draw_gradients(2, 4, 3)
    gramian = gram(gradients)
    coefficients = surgery_coefficients(gramian, seed=3)
    report = surgery_report(DOMAINS, MODULES, gramian, coefficients.sum(1), coefficients)
    flat = gradients.transpose(0, 1).flatten(1)
    projected = (coefficients @ gradients).transpose(0, 1).flatten(1)
    expected = {
        "surgery/cosine/math-chat": torch.cosine_similarity(flat[0], flat[1], dim=0).item(),
        "surgery/cosine/math-if": torch.cosine_similarity(flat[0], flat[2], dim=0).item(),
        "surgery/cosine/chat-if": torch.cosine_similarity(flat[1], flat[2], dim=0).item(),
    }
    pairs = [(0, 1), (0, 2), (1, 2)]
    conflicts = [bool(torch.dot(g[a], g[b]) < 0) for g in gradients for a, b in pairs]
    expected["surgery/conflict_rate"] = sum(conflicts) / len(conflicts)
    by_kind = {"embeddings": conflicts[:3], "norms": conflicts[6:9]}
    by_kind["mlp"] = conflicts[3:6] + conflicts[9:]
    for kind, own in by_kind.items():
        expected[f"surgery/conflict_rate/{kind}"] = sum(own) / len(own)
    for d, domain in enumerate(DOMAINS):
        expected[f"grad_norm/{domain}"] = flat[d].norm().item()
        kept = (projected[d].norm() / flat[d].norm()) ** 2
        expected[f"surgery/projected_share/{domain}"] = 1 - kept.item()
    eigenvalues = torch.linalg.eigvalsh(flat @ flat.T)
    dimension = (eigenvalues.sum() ** 2 / (eigenvalues**2).sum()).item()
    expected["surgery/effective_dimension"] = dimension
    assert dict(report.scalars) == pytest.approx(expected, abs=1e-9)
    assert report.dimensions.keys() == by_kind.keys()
    assert all(1 <= value <= len(DOMAINS) for value in report.dimensions.values())
    assert 0 < expected["surgery/conflict_rate"] < 1
    assert report.kinds == ("embeddings", "mlp", "norms", "mlp")
    lost_MD = 1 - ((coefficients @ gradients).norm(dim=-1) / gradients.norm(dim=-1)) ** 2
    torch.testing.assert_close(report.projected_MD, lost_MD.double(), atol=1e-9, rtol=0)


def test_without_coefficients_there_is_no_projected_share() -> None:
    gramian = gram(draw_gradients(2, 4, 3))
    report = surgery_report(DOMAINS, MODULES, gramian, torch.ones(4, 3))
    assert not any("projected" in name for name in report.scalars)
    assert report.projected_MD is None
    assert len(report.scalars) == 1 + 3 + 3 + 3 + 1


@pytest.mark.parametrize("method", ["norm_balanced", "mean"])
def test_what_weights_take_away_is_not_projected(method: str) -> None:
    if method == "mean":
        pytest.importorskip("torchjd")
    gramian = gram(draw_gradients(2, 4, 3))
    coefficients = surgery_coefficients(gramian, method)
    assert (coefficients.sum(1) < 1).any()
    report = surgery_report(DOMAINS, MODULES, gramian, coefficients.sum(1), coefficients)
    assert not any("projected" in name for name in report.scalars)
    assert report.projected_MD is None


@pytest.mark.parametrize("num_domains", [1, 3])
def test_zero_gradients_report_zeros_not_nan(num_domains: int) -> None:
    domains = DOMAINS[:num_domains]
    gramian = torch.zeros(4, num_domains, num_domains)
    coefficients = surgery_coefficients(gramian)
    report = surgery_report(domains, MODULES, gramian, coefficients.sum(1), coefficients)
    assert set(report.scalars.values()) == {0.0}
    assert ("surgery/conflict_rate" in report.scalars) == (num_domains > 1)


def test_no_surgery_projects_nothing() -> None:
    gramian = gram(draw_gradients(2, 4, 3))
    coefficients = surgery_coefficients(gramian, "none")
    report = surgery_report(DOMAINS, MODULES, gramian, coefficients.sum(1), coefficients)
    shares = [v for k, v in report.scalars.items() if "projected" in k]
    assert shares == pytest.approx([0.0] * 3, abs=1e-12)
    assert len(shares) == 3


def test_cosines_stay_inside_one_and_are_defined_for_zero() -> None:
    cosine = cosines(torch.tensor([[1.0, 1.0 + 1e-7, 0.0], [1.0 + 1e-7, 1.0, 0.0], [0.0] * 3]))
    assert cosine.max() <= 1.0
    assert torch.equal(cosine[2], torch.zeros(3))


def test_shapes_that_do_not_fit_the_names_are_refused() -> None:
    with pytest.raises(ValueError, match="weights_MD should be"):
        surgery_report(DOMAINS, MODULES, torch.zeros(4, 3, 3), torch.zeros(3, 4))
