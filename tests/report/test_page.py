import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgsrl.errors import MissingPathError
from mgsrl.obs.evaluation_log import EvalResult, append_evaluations
from mgsrl.obs.run_record import finish_run_record
from mgsrl.report.curves import smooth
from mgsrl.report.interference import cells_over_time, effects_of
from mgsrl.report.load import read_run_data
from mgsrl.report.page import build_report
from mgsrl.report.samples import show_tags
from mgsrl.report.style import log_axis, panels
from mgsrl.report.tables import changes, seconds_text, stage_rows
from tests.report.synthetic import DOMAINS, make_run


class Links(HTMLParser):
    """Collects whatever would make a browser fetch something."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data") and not (value or "").startswith("#"):
                self.found.append((tag, name, (value or "")[:60]))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "pocket-mgs-seed0", steps=12)


@pytest.fixture(scope="module")
def html(run_dir):
    return build_report(run_dir).read_text()


def test_report_is_one_file_without_links(run_dir, html):
    links = Links()
    links.feed(html)
    assert all(value.startswith("data:") for _, _, value in links.found), links.found
    assert "@import" not in html
    assert "url(http" not in html
    assert len(html) < 1_500_000
    assert [p.name for p in run_dir.glob("*report*")] == ["report.html"]  # no temporary left


def test_report_shows_every_section(html):
    for title in (
        "Held-out reward, before and after",
        "What was run",
        "Reward over training",
        "What the updates were made of",
        "Lengths, KL, entropy and engine agreement",
        "Gradient conflict between domains",
        "Where the gradients agree and conflict",
        "Time per step",
        "Generations, early and late",
    ):
        assert title in html
    assert html.count("<svg") == 10
    assert "They are not evidence that resolving" in html
    assert "DeepSpeed ZeRO-2" in html
    assert "rollout_workers: 1 × (engine vllm, device cpu)" in html


def test_generations_are_escaped_and_their_tags_visible(html):
    assert "<b>done</b>" not in html
    assert "&lt;b&gt;done&lt;/b&gt;" in html
    assert '<span class="tag">&lt;response&gt;</span>' in html
    assert "Use the word &lt;salt&gt; &amp; at most" in html
    assert str(show_tags("<script><think>")) == (
        '&lt;script&gt;<span class="tag">&lt;think&gt;</span>'
    )


def test_same_run_same_report(run_dir, html):
    assert build_report(run_dir).read_text() == html


def test_figures_follow_the_pages_colour_and_width(html):
    heads = re.findall(r"<svg[^>]*>", html)
    assert all("viewBox" in head and " width=" not in head for head in heads)
    assert all("aria-label=" in head for head in heads)
    assert "currentColor" in html
    assert "#010203" not in html


def test_changes_measure_the_rise_in_standard_errors(run_dir):
    found = {c.domain: c for c in changes(read_run_data(run_dir))}
    assert list(found) == list(DOMAINS)
    math_change = found["math"]
    assert math_change.standard_error == pytest.approx(math.hypot(0.026, 0.026))
    ratio = math_change.difference / math_change.standard_error
    assert math_change.verdict == f"rise, {ratio:.1f} s.e."


@pytest.mark.parametrize(
    ("after", "error", "verdict"),
    [
        (0.52, 0.03, "within 1 s.e."),
        (0.5, 0.03, "no change"),
        (0.3, 0.03, "fall, 4.7 s.e."),
        (0.9, math.nan, "no s.e."),
        (math.nan, 0.03, "unknown"),
    ],
)
def test_verdicts(tmp_path, after, error, verdict):
    before = EvalResult(0, "math", 0.5, 0.03, 8, 8, 20.0, 1.0, 0.0)
    append_evaluations(tmp_path, [before, EvalResult(9, "math", after, error, 8, 8, 20, 1, 0)])
    assert changes(read_run_data(tmp_path))[0].verdict == verdict


def test_stage_table_sums_to_the_step_without_the_warm_up(run_dir):
    rows = stage_rows(read_run_data(run_dir))
    assert rows[-1][0] == "total"
    assert sum(seconds for _, seconds, _ in rows[:-1]) == pytest.approx(rows[-1][1])
    assert rows[-1][1] < 6.0  # the warm-up step alone takes 11 s


def test_replaced_workers_and_skipped_steps_are_counted(tmp_path):
    run_dir = make_run(tmp_path / "run", steps=3)
    path = run_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= {"restarts/rollout": 2, "restarts/reward": 0}
    rows[1] |= {"skipped": 0.25}
    rows[2] |= {"restarts/rollout": 1, "restarts/reward": 0, "skipped": 1.0}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    missing = read_run_data(run_dir).missing
    assert "3 rollout workers died and were replaced." in missing
    assert not any("reward workers" in line for line in missing)
    assert any(line.startswith("1 steps were skipped") for line in missing)
    assert any(line.startswith("Of 1 steps some updates") for line in missing)


def test_a_killed_run_says_what_is_missing(tmp_path):
    run = make_run(tmp_path / "run", steps=4, finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "rew')
    html = build_report(run).read_text()
    assert "No evaluation after training, only before it." in html
    assert "or was killed" in html
    assert "4 of 30 steps are logged." in html
    assert "not evaluated again" in html


KEPT = ["config.yaml", "run.json", "metrics.jsonl", "evaluations.jsonl"]


@pytest.mark.parametrize("kept", KEPT)
def test_one_piece_alone_makes_a_report(tmp_path, run_dir, kept):
    shutil.copy(run_dir / kept, tmp_path)
    html = build_report(tmp_path).read_text()
    assert "Not in this report" in html
    assert html.count("cannot be read") == 0


def test_damaged_files_are_named_and_the_rest_is_shown(tmp_path, run_dir):
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    for name in KEPT:
        (run / name).write_text("{ not: [ valid\n" * 3)
    (run / "surgery" / "step_000002.parquet").write_bytes(b"PAR1 no")
    html = build_report(run).read_text()
    for name in [*KEPT, "surgery/"]:
        assert f"{name} cannot be read" in html
    assert "<h2>" in html


def test_a_failed_run_shows_its_error_escaped(tmp_path, run_dir):
    shutil.copy(run_dir / "run.json", tmp_path)
    finish_run_record(tmp_path, status="failed", last_step=3, error="worker <3> died")
    assert "worker &lt;3&gt; died" in build_report(tmp_path).read_text()


def test_one_domain_has_no_conflicts_to_show(tmp_path):
    html = build_report(make_run(tmp_path / "run", steps=3, domains=("math",))).read_text()
    assert "there is nothing to resolve" in html
    assert "Where the gradients agree" not in html


def test_reliability_has_a_panel_where_it_was_measured(tmp_path):
    run_dir = make_run(tmp_path / "run", steps=4, domains=("math", "chat"))
    assert "Reliability of the gradients" not in build_report(run_dir).read_text()
    path = run_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[1::2]:
        row |= {"surgery/reliability/math": 0.4, "surgery/reliability/chat": None}
        row["surgery/reliable_conflict_rate"] = 0.1
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = build_report(run_dir).read_text()
    assert "Reliability of the gradients" in html
    assert "stands out of the noise" in html


def test_the_instrument_has_its_figures(tmp_path, html):
    titles = (
        "By depth, kind of module and time",
        "Who has the update",
        "What a step on one domain",
    )
    assert [title in html for title in titles] == [True, True, False]
    run_dir = make_run(tmp_path / "run", steps=4, domains=("math", "chat"), probe_every=2)
    page = build_report(run_dir).read_text()
    assert all(title in page for title in titles)
    for text in ("stands out", "Share of the tokens", "Beyond it: curvature", "chat alone"):
        assert f">{text}<" in page, text
    run = read_run_data(run_dir)
    cells = cells_over_time(run.surgery, "cosine", same_domain=False)
    rows = [r for r in run.surgery.to_pylist() if (r["module"], r["step"]) == ("lm_head", 3)]
    (pair,) = (r["cosine"] for r in rows if r["domain_a"] != r["domain_b"])
    assert cells["lm_head", 3] == (pair, 1)
    found = {(e.step, e.trial, e.on): e for e in effects_of(run.probes)}
    assert len(found) == 2 * 3 * 2
    probes = {(r["step"], r["of"] or r["trial"], r["on"]): r for r in run.probes.to_pylist()}
    effect = found[4, "chat", "math"]
    own, idle = (probes[4, trial, "math"] for trial in ("chat", "idle"))
    assert effect.measured == own["change"] - idle["change"]
    assert effect.predicted == own["predicted"] - idle["predicted"]


def test_the_shares_of_a_curriculum_are_drawn(tmp_path, html):
    assert "Who had the prompts" not in html
    run_dir = make_run(tmp_path / "run", steps=4, adaptive=True)
    page = build_report(run_dir).read_text()
    assert "Who had the prompts" in page
    assert ">Shares of a step<" in page


def test_what_a_mask_leaves_out_is_drawn(tmp_path, html):
    assert ">Effective sample size<" not in html
    page = build_report(make_run(tmp_path / "run", steps=4, masked=True)).read_text()
    assert all(f">{title}<" in page for title in ("Effective sample size", "Masked"))


def test_only_evaluations(tmp_path):
    append_evaluations(tmp_path, [EvalResult(0, "math", -3.5, 0.1, 8, 8, 20.0, 1.0, 0.0)])
    append_evaluations(tmp_path, [EvalResult(5, "math", 2.5, math.nan, 1, 1, 20.0, 1.0, 0.0)])
    html = build_report(tmp_path).read_text()
    assert "No training step was logged." in html
    assert "−3.500" in html


def test_not_a_run_folder(tmp_path):
    with pytest.raises(MissingPathError, match="This is not a run folder"):
        build_report(tmp_path)
    with pytest.raises(MissingPathError, match="no folder"):
        build_report(tmp_path / "nowhere")


def test_metric_values_of_null_are_gaps(tmp_path):
    rows = [{"step": 1, "reward/math": None}, {"step": 2, "reward/math": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    run = read_run_data(tmp_path)
    assert math.isnan(run.series("reward/math")[0])
    assert run.series("reward/math")[1] == 0.5
    build_report(tmp_path)


def test_a_run_that_learns_nothing_says_why(tmp_path, html):
    assert "What kept it from learning" not in html
    run = make_run(tmp_path / "run", steps=2)
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    cut = {f"cut_at_limit/{d}": 1.0 for d in DOMAINS}
    rows = [row | {f"live_groups/{d}": 0.0 for d in DOMAINS} | cut for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "checkpoints").mkdir()
    best = {"path": "step_2", "scores": {"math": 0.5}, "improvements": {"math": 0.1}, "score": 0.3}
    (run / "checkpoints" / "best.json").write_text(json.dumps(best))
    html = build_report(run).read_text()
    assert "What kept it from learning" in html
    assert (
        "steps 1–2: the run learns nothing from its rewards: nearly every response is cut" in html
    )
    assert "none is better than before training; nearest: step_2" in html


def test_a_run_without_a_reference_has_no_kl_curve(tmp_path):
    run = make_run(tmp_path / "run", steps=3)
    assert "not measured" not in build_report(run).read_text()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: None if k.startswith("kl/") else v for k, v in row.items()} for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = build_report(run).read_text()
    assert html.count("not measured") == 1  # and the other panels are all there
    assert "KL to the reference" in html


@given(
    st.lists(st.one_of(st.floats(-5, 5), st.just(math.nan)), min_size=1, max_size=40),
    st.integers(1, 12),
    st.data(),
)
def test_smoothing_is_the_mean_of_the_last_steps_whatever_comes_later(values, window, data):
    steps = sorted(
        data.draw(st.sets(st.integers(1, 80), min_size=len(values), max_size=len(values)))
    )
    smoothed = smooth(steps, values, window)
    for i, (step, mean) in enumerate(zip(steps, smoothed, strict=True)):
        near = [v for s, v in zip(steps, values) if step - window < s <= step and v == v]
        assert mean == pytest.approx(sum(near) / len(near) if near else math.nan, nan_ok=True)
        cut = smooth(steps[: i + 1], values[: i + 1], window)[-1]
        assert cut == mean or (math.isnan(cut) and math.isnan(mean))


def test_seconds_read_like_people_say_them():
    assert [seconds_text(s) for s in (4.2, 61, 3725)] == ["4 s", "1 min 01 s", "1 h 02 min"]


@pytest.mark.parametrize("values", [[2e-7, 3e-6], [0.4, 0.6], [1e-9, 1e3]])
def test_a_logarithmic_axis_has_plain_numbers(values: list[float]) -> None:
    """Also between powers of ten, where few of these are in sight."""
    figure, (axis,) = panels(1)
    axis.plot([1, 2], values)
    log_axis(axis)
    figure.savefig(io.BytesIO())
    ticks = axis.get_yticklabels(which="both")
    labels = [label.get_text() for label in ticks if label.get_text()]
    assert labels
    for label in labels:
        assert float(label) > 0
