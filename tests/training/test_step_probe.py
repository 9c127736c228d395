"""A run that tries steps is, but for what it says of them, the run that does not; to the bit."""

from pathlib import Path

import pytest

import mgsrl
from tests.obs.glossary import undocumented
from tests.training.runs import metrics, train, trained

pytestmark = [pytest.mark.slow, pytest.mark.ray_cluster, pytest.mark.timeout(600)]


def test_a_run_with_probes_learns_the_same(tmp_path: Path) -> None:
    """Both keep the gradients of two halves on every second step."""
    common = ("train.num_steps=2", "evaluate.every=0", "seed=3")
    for name in ("reliability", "step_probe"):
        train(tmp_path / name, *common, f"surgery.{name}.every=2", pictures=name == "step_probe")
    plain, probed = metrics(tmp_path / "reliability"), metrics(tmp_path / "step_probe")
    assert probed[0] == plain[0]
    new = {name for name in probed[1] if name not in plain[1]}
    assert len(new) == 5
    assert all(name.startswith("surgery/probe/") for name in new)
    assert {name: probed[1][name] for name in plain[1]} == plain[1]
    assert trained(tmp_path / "step_probe", 2) == trained(tmp_path / "reliability", 2)

    run = mgsrl.load_run(tmp_path / "step_probe")
    assert run.metrics["time/probe"].notna().tolist() == [False, True]
    assert undocumented(set(run.metrics)) == set()
    table = run.step_probes
    assert set(table["step"]) == {2}
    assert len(table) == 5 * 3
    assert table["step_norm"].gt(0).all()
    assert table["change"].notna().any()
    assert len(run.shares) == 2 * 3
    assert run.shares.groupby("step")["token_share"].sum().tolist() == pytest.approx([1, 1])
    report = (tmp_path / "step_probe" / "report.html").read_text(encoding="utf-8")
    assert "What a step on one domain does" in report
