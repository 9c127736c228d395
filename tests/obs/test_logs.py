import math
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from mgsrl.errors import DataError
from mgsrl.files.jsonl import read_rows, replacing, rewrite
from mgsrl.obs import evaluation_log, rollout_log, surgery_log
from mgsrl.obs.evaluation_log import (
    EvalResult,
    append_evaluations,
    best_text,
    read_evaluations,
)
from mgsrl.obs.rewind import rewind_logs, torn_logs
from mgsrl.obs.rollout_log import read_rollouts, stored_steps, write_rollouts
from mgsrl.obs.surgery_log import read_surgery, write_surgery
from mgsrl.types import Reliability, StepProbe
from tests.obs.records import group, surgery_report


def result(step, domain="math", mean=0.5):
    return EvalResult(step, domain, mean, 0.1, 8, 8, 20.0, 1.0, 0.0)


def test_rollouts_come_back_as_written(tmp_path):
    groups = {d: [group(d, i) for i in range(3)] for d in ("math", "chat")}
    path = write_rollouts(tmp_path, 7, groups, groups_per_domain=2)
    assert path == tmp_path / "rollouts" / "step_000007.jsonl"
    rows = read_rollouts(tmp_path, 7)
    assert len(rows) == 2 * 2 * 2
    first = rows[0]
    assert first["domain"] == "math"
    assert first["messages"] == [{"role": "user", "content": "What is 1 + 1?"}]
    assert first["response"] == "<think>\n1</think><response>0</response>"
    assert (first["reward"], first["advantage"], first["finish_reason"]) == (1.0, 1.0, "stop")
    assert first["weight_version"] == 4
    assert first["details"] == {"extracted": "2"}
    assert list(stored_steps(tmp_path)) == [7]


def test_no_samples_no_file(tmp_path):
    assert write_rollouts(tmp_path, 1, {"math": [group()]}, groups_per_domain=0) is None
    assert stored_steps(tmp_path) == {}
    assert read_rollouts(tmp_path, 1) == []


def test_reliability_has_its_columns(tmp_path):
    report = surgery_report()
    modules, domains = report.weights_MD.shape
    nan = math.nan
    found = Reliability(
        reliability_MD=torch.tensor([[0.5, nan, -0.1]] * modules),
        corrected_cosine_MDD=torch.full((modules, domains, domains), nan),
        z_MDD=torch.full((modules, domains, domains), -2.5),
        conflict_MDD=torch.ones(modules, domains, domains, dtype=torch.bool),
        total_reliability_D=torch.zeros(domains),
        total_corrected_cosine_DD=torch.zeros(domains, domains),
    )
    write_surgery(tmp_path, 1, replace(report, reliability=found))
    write_surgery(tmp_path, 2, report)
    rows = read_surgery(tmp_path).to_pylist()
    own = [r for r in rows if r["step"] == 1 and r["domain_a"] == r["domain_b"]][:3]
    assert [r["reliability"] for r in own] == [0.5, None, pytest.approx(-0.1)]
    assert {(r["z"], r["stands_out"]) for r in own} == {(None, None)}
    pairs = [r for r in rows if r["step"] == 1 and r["domain_a"] != r["domain_b"]]
    assert {(r["z"], r["stands_out"], r["corrected_cosine"]) for r in pairs} == {(-2.5, True, None)}
    assert all(r["z"] is None and r["reliability"] is None for r in rows if r["step"] == 2)


def test_surgery_parts_read_back_as_one_table(tmp_path):
    report = surgery_report()
    for step in (1, 2, 2):
        write_surgery(tmp_path, step, report)
    table = read_surgery(tmp_path)
    assert table.num_rows == 2 * 2 * 6
    rows = table.to_pylist()
    assert sorted({r["step"] for r in rows}) == [1, 2]
    pair = next(r for r in rows if (r["domain_a"], r["domain_b"]) == ("math", "chat"))
    gram = report.gram_MDD[0]
    assert pair["inner"] == gram[0, 1].item()
    assert pair["cosine"] == pytest.approx((gram[0, 1] / (gram[0, 0] * gram[1, 1]).sqrt()).item())
    assert pair["conflict"] == (gram[0, 1].item() < 0)
    assert pair["weight"] is None
    diagonal = next(r for r in rows if r["domain_a"] == r["domain_b"])
    assert (diagonal["cosine"], diagonal["weight"]) == (pytest.approx(1.0), 1.0)
    own = [r["projected_share"] for r in rows[:12] if r["domain_a"] == r["domain_b"]]
    assert own == report.projected_MD.flatten().tolist()
    assert pair["projected_share"] is None


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_gradients_that_are_not_finite_have_no_cosine(tmp_path, value):
    report = surgery_report()
    gram_MDD = report.gram_MDD.clone()
    gram_MDD[0, 0, :] = gram_MDD[0, :, 0] = value
    write_surgery(tmp_path, 1, replace(report, gram_MDD=gram_MDD, kinds=(), projected_MD=None))
    rows = [r for r in read_surgery(tmp_path).to_pylist() if r["module"] == report.modules[0]]
    known = [r["cosine"] is not None for r in rows]
    assert known == ["math" not in (r["domain_a"], r["domain_b"]) for r in rows]
    assert True in known
    assert False in known


def test_kinds_sum_up_their_modules(tmp_path):
    report = surgery_report(modules=("layers.0.mlp", "layers.0.attention", "layers.1.mlp"))
    write_surgery(tmp_path, 7, report)
    table = pq.read_table(tmp_path / "surgery" / "kinds_000007.parquet")
    rows = {(r["kind"], r["domain_a"], r["domain_b"]): r for r in table.to_pylist()}
    assert len(rows) == table.num_rows == 2 * 6
    both = report.gram_MDD[[0, 2]]
    total = both.sum(0)
    pair = rows["mlp", "math", "chat"]
    assert (pair["step"], pair["num_modules"]) == (7, 2)
    assert pair["cosine"] == pytest.approx(
        (total[0, 1] / (total[0, 0] * total[1, 1]).sqrt()).item()
    )
    assert pair["conflict_rate"] == (both[:, 0, 1] < 0).double().mean().item()
    assert pair["projected_share"] is None
    own = rows["mlp", "chat", "chat"]
    removed = (report.projected_MD[[0, 2], 1] * both[:, 1, 1]).sum()
    assert own["projected_share"] == pytest.approx((removed / total[1, 1]).item())
    assert own["conflict_rate"] is None
    attention = rows["attention", "math", "math"]
    assert attention["projected_share"] == pytest.approx(report.projected_MD[1, 0].item())
    assert read_surgery(tmp_path).num_rows == 3 * 6  # the other kind of part is not mixed in


def test_domains_have_their_shares(tmp_path):
    report = surgery_report()
    write_surgery(tmp_path, 1, report, {"math": 30, "chat": 10, "if": 60})
    write_surgery(tmp_path, 2, report)
    rows = read_surgery(tmp_path, table="domains").to_pylist()
    assert [row["step"] for row in rows] == [1] * 3 + [2] * 3
    assert [row["token_share"] for row in rows[:3]] == [0.3, 0.1, 0.6]
    norms = report.gram_MDD.sum(0).diagonal().sqrt()
    assert [row["grad_norm"] for row in rows[3:]] == pytest.approx(norms.tolist())
    assert [row["norm_share"] for row in rows[:3]] == pytest.approx((norms / norms.sum()).tolist())
    assert {(row["tokens"], row["token_share"], row["reliability"]) for row in rows[3:]} == {
        (None, None, None)
    }


def test_probes_are_a_table_of_their_own(tmp_path):
    report = surgery_report(domains=("math", "chat"))
    change = torch.arange(8.0).view(4, 2).double()
    change[:, 1] = math.nan
    probe = StepProbe(("math", "chat"), change, change / 2, torch.ones(4))
    write_surgery(tmp_path, 1, report)
    write_surgery(tmp_path, 2, replace(report, step_probe=probe))
    assert not (tmp_path / "surgery" / "probe_000001.parquet").exists()
    rows = read_surgery(tmp_path, table="probe").to_pylist()
    assert [(r["trial"], r["of"]) for r in rows[::2]] == [
        ("resolved", None), ("own", "math"), ("own", "chat"), ("idle", None)
    ]  # fmt: skip
    assert [r["on"] for r in rows] == ["math", "chat"] * 4
    assert [r["change"] for r in rows] == [0, None, 2, None, 4, None, 6, None]
    assert [r["predicted"] for r in rows[::2]] == [0, 1, 2, 3]
    assert {(r["step"], r["step_norm"]) for r in rows} == {(2, 1.0)}
    rewind_logs(tmp_path, next_step=2, weight_version=-1)
    assert read_surgery(tmp_path, table="probe").num_rows == 0
    assert set(read_surgery(tmp_path, table="domains")["step"].to_pylist()) == {1}


def test_a_step_without_a_resolved_update_has_no_kinds(tmp_path):
    report = replace(surgery_report(), scalars={}, kinds=(), projected_MD=None)
    write_surgery(tmp_path, 1, report)
    assert [p.name for p in (tmp_path / "surgery").iterdir()] == ["step_000001.parquet"]
    assert set(read_surgery(tmp_path)["projected_share"].to_pylist()) == {None}


def test_parts_of_an_older_version_read_with_nulls(tmp_path):
    write_surgery(tmp_path, 2, surgery_report())
    old = pq.read_table(tmp_path / "surgery" / "step_000002.parquet").drop(["projected_share"])
    pq.write_table(old, tmp_path / "surgery" / "step_000001.parquet")
    shares = read_surgery(tmp_path)["projected_share"].to_pylist()
    assert shares[:12] == [None] * 12
    assert shares[12] == 0.0


def test_a_module_without_gradient_has_no_cosine(tmp_path):
    report = surgery_report()
    report.gram_MDD.zero_()
    write_surgery(tmp_path, 1, report)
    assert set(read_surgery(tmp_path)["cosine"].to_pylist()) == {None}


def test_empty_surgery_folder_reads_as_an_empty_table(tmp_path):
    assert read_surgery(tmp_path).num_rows == 0


def test_evaluations_replace_the_same_step_and_domain(tmp_path):
    append_evaluations(tmp_path, [result(0), result(0, "chat")])
    append_evaluations(tmp_path, [result(3, mean=math.nan)])
    append_evaluations(tmp_path, [result(0, mean=0.9)])
    back = read_evaluations(tmp_path)
    assert [(r.step, r.domain) for r in back] == [(0, "chat"), (0, "math"), (3, "math")]
    assert back[1].mean == 0.9
    assert math.isnan(back[2].mean)


def test_an_unfinished_last_line_is_left_out_and_other_damage_is_not(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_rows(path) == [{"step": 1}, {"step": 2}]
    rewrite(path, lambda row: row["step"] < 2)
    assert path.read_text() == '{"step": 1}\n'
    path.write_text('{"st\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl is damaged(.|\n)*line 1"):
        read_rows(path)


def test_rewind_takes_back_every_log(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {s}}}\n' for s in range(1, 6)))
    append_evaluations(tmp_path, [result(0), result(3), result(5)])
    for step in range(1, 6):
        write_rollouts(tmp_path, step, {"math": [group()]}, 1)
        write_surgery(tmp_path, step, surgery_report())
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss/ma')
    (torn,) = torn_logs(tmp_path)
    assert torn.startswith("metrics.jsonl ended within a line")
    assert "20 bytes are dropped" in torn
    rewind_logs(tmp_path, next_step=4, weight_version=3)
    assert not torn_logs(tmp_path)
    assert [r["step"] for r in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert [r.step for r in read_evaluations(tmp_path)] == [0, 3]
    assert list(stored_steps(tmp_path)) == [1, 2, 3]
    assert sorted(set(read_surgery(tmp_path)["step"].to_pylist())) == [1, 2, 3]
    kinds = sorted(p.name for p in (tmp_path / "surgery").glob("kinds_*"))
    assert kinds == [f"kinds_{step:06d}.parquet" for step in (1, 2, 3)]


def test_folder_names_are_the_designs():
    assert (rollout_log.FOLDER, surgery_log.FOLDER) == ("rollouts", "surgery")
    assert evaluation_log.FILE == "evaluations.jsonl"


def test_a_checkpoint_is_the_best_only_when_something_was_learnt():
    gains = {"math": 0.25, "chat": -0.01}
    since = "(since the first evaluation: math +0.250, chat -0.010)"
    assert best_text("step_4", 0.1, gains) == f"best checkpoint: step_4 {since}"
    for score, learnt in ((0.0, True), (-0.2, True), (0.0, False), (0.1, False)):
        text = best_text("step_4", score, gains, learnt)
        assert text.startswith("no checkpoint is better than the policy before training")
        assert ("nothing was learnt" in text) != learnt
        assert text.endswith(f"step_4 {since}")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_a_write_that_is_stopped_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise stop

    with pytest.raises(stop):
        write()
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_damaged_part_is_one_message(tmp_path):
    (tmp_path / "surgery").mkdir()
    (tmp_path / "surgery" / "step_000001.parquet").write_text("x")
    with pytest.raises(DataError, match="step_000001"):
        read_surgery(tmp_path)
