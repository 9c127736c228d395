"""Alarm lines from reports of explicit gradients."""

import pytest
import torch

from mgsrl.config.surgery import SurgeryConfig
from mgsrl.surgery.alarms import surgery_alarms
from mgsrl.surgery.report import surgery_report
from mgsrl.surgery.weights import surgery_coefficients
from mgsrl.types import SurgeryReport


def report_of(*gradients: list[float], method: str = "pcgrad") -> SurgeryReport:
    vectors = torch.tensor([gradients], dtype=torch.float64)
    gram = vectors @ vectors.mT
    coefficients = surgery_coefficients(gram, method, "all")
    domains = ("math", "chat", "if")[: len(gradients)]
    return surgery_report(domains, ["all"], gram, coefficients.sum(1), coefficients)


def test_a_dominating_domain_is_named_with_its_share_and_the_step() -> None:
    report = report_of([94.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0])
    assert surgery_alarms(report, 12, SurgeryConfig()) == {
        "dominance/math": "surgery: the gradient of math has 94% of the norm at step 12 "
        "(alarm_dominance 0.9): its domain decides the update; compare reward scales or quotas"
    }
    assert not surgery_alarms(report, 12, SurgeryConfig(alarm_dominance=0.95))


def test_a_domain_that_is_projected_away_is_named() -> None:
    # opposite but for 1 %: both lose nearly everything
    report = report_of([1.0, 0.1], [-1.0, 0.1])
    alarms = surgery_alarms(report, 3, SurgeryConfig())
    assert list(alarms) == ["projected/math", "projected/chat"]
    assert "96% of the gradient of chat was projected away at step 3" in alarms["projected/chat"]
    measured = surgery_alarms(report, 3, SurgeryConfig(measure_only=True))
    assert "would have been projected away" in measured["projected/chat"]
    assert not surgery_alarms(report, 3, SurgeryConfig(alarm_projected=1.0))


def test_weights_far_below_one_are_no_projection() -> None:
    """The mean of three domains keeps 1/9 of each one's squared norm."""
    pytest.importorskip("torchjd")
    report = report_of([1.0, 0], [1.0, 0.1], [1.0, 0.2], method="mean")
    config = SurgeryConfig(method="mean", alarm_projected=0.5)
    assert surgery_alarms(report, 1, config) == {}


def test_one_domain_alone_zero_gradients_and_skipped_steps_raise_no_alarm() -> None:
    assert surgery_alarms(report_of([5.0, 1.0]), 1, SurgeryConfig()) == {}
    assert surgery_alarms(report_of([0.0], [0.0]), 1, SurgeryConfig()) == {}
    nothing = torch.full((1, 2, 2), torch.nan)
    skipped = SurgeryReport(("math", "chat"), ("all",), nothing, torch.zeros(1, 2), {})
    assert surgery_alarms(skipped, 1, SurgeryConfig()) == {}


def test_a_domain_without_gradient_makes_the_other_dominate() -> None:
    assert list(surgery_alarms(report_of([1.0], [0.0]), 1, SurgeryConfig())) == ["dominance/math"]
    never = SurgeryConfig(alarm_dominance=1.0)
    assert surgery_alarms(report_of([1.0], [0.0]), 1, never) == {}
