"""docs/metrics.md describes every metric that is logged, and none that is not.

`tests/training/test_end_to_end.py` asks the same of a real run.
"""

import torch

from mgsrl.obs.metrics import MAX_SCALARS
from mgsrl.obs.timers import RARE_STAGES
from mgsrl.surgery.reliability import measure_reliability, reliability_scalars
from mgsrl.surgery.report import surgery_report
from mgsrl.surgery.step_probe import step_probe_scalars
from mgsrl.types import StepProbe
from tests.obs.glossary import GLOSSARY, documented, undocumented
from tests.obs.test_metrics import scalars_of

DOMAINS = ("math", "chat", "if")
OF_THE_FILE = {"timestamp"}
"""`metrics.jsonl` has it beside the scalars."""
OF_TRACKERS = {f"evaluate/{name}/{d}" for name in ("reward", "forgetting") for d in DOMAINS}
"""`training/evaluation.py` hands them to the trackers; metrics.jsonl has none of them."""
OF_CURRICULA = {f"mixture/share/{d}" for d in DOMAINS}
"""`training/adaptive.py` adds them, under a curriculum that adapts."""
OF_ALGORITHMS = {
    f"{name}/{d}" for name in ("drawn", "teacher_kl", "importance_masked") for d in DOMAINS
}
"""Of `algo.refill`, `algo.teacher` and `algo.importance_mask`."""


def surgery_scalars() -> set[str]:
    """All that surgery can log."""
    kinds = ["attention", "mlp"] * 3
    modules = [f"layers.{n // 2}.{kind}" for n, kind in enumerate(kinds)]
    generator = torch.Generator().manual_seed(0)
    halves = torch.randn(6, 2 * 3, 20, dtype=torch.float64, generator=generator)
    whole = halves[:, :3] + halves[:, 3:]
    eye = torch.eye(3, dtype=torch.float64).expand(6, 3, 3)
    report = surgery_report(DOMAINS, modules, whole @ whole.mT, torch.ones(6, 3), eye)
    reliability = measure_reliability(halves @ halves.mT, [(4, 4)] * 3, kinds)
    nothing_SD = torch.zeros(5, 3, dtype=torch.float64)
    probe = step_probe_scalars(StepProbe(DOMAINS, nothing_SD, nothing_SD, nothing_SD[:, 0]))
    return {*report.scalars, *reliability_scalars(DOMAINS, reliability), *probe}


def test_every_metric_is_in_the_glossary_and_the_other_way_round():
    rare = {f"time/{stage}" for stage in RARE_STAGES}
    logged = {*scalars_of(DOMAINS), *surgery_scalars(), *rare}
    logged |= {*OF_TRACKERS, *OF_THE_FILE, *OF_CURRICULA, *OF_ALGORITHMS}
    assert undocumented(logged) == set()
    unknown = [
        name
        for name, pattern in documented().items()
        if not any(pattern.fullmatch(metric) for metric in logged)
    ]
    assert unknown == []


def test_the_page_knows_how_many_a_step_logs_at_most():
    assert f"at most about {MAX_SCALARS} scalars" in GLOSSARY.read_text(encoding="utf-8")
