import io
import re

from mgsrl.obs.console import Console

SCALARS = {
    "reward/math": 0.45,
    "reward/chat": 0.31,
    "kl/math": 0.002,
    "surgery/conflict_rate": 0.12,
    "live_groups/math": 1.0,
    "live_groups/chat": 0.75,
    "cut_at_limit/math": 0.0,
    "cut_at_limit/chat": 0.06,
    "loss/math": 0.01,
    "loss/chat": 0.02,
    "grad_norm": 0.712,
    "learning_rate": 2e-4,
    "clip_fraction": 0.0,
    "time/total": 4.71,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(file, enabled=True):
    with Console(enabled, 30, file=file) as console:
        with console.stage("starting rollout workers (vLLM takes about half a minute)..."):
            pass
        for step in (1, 2):
            with console.stage("rollout", step=step):
                pass
            with console.stage("reward", step=step):
                pass
            console.step_line(step, SCALARS)
        console.note("report: runs/[x]/report.html")
    return file.getvalue()


def test_plain_log_has_one_line_per_startup_stage_and_step_and_no_control_characters():
    lines = run(io.StringIO()).splitlines()
    assert len(lines) == 4
    assert re.fullmatch(
        r"\[0:00\] starting rollout workers \(vLLM takes about half a minute\)\.\.\.", lines[0]
    )
    assert re.fullmatch(
        r"\[0:00\] step  1/30 \| reward math 0\.450 chat 0\.310 \| live 88% cut 3% clip 0% \| "
        r"loss 0\.015 grad 0\.71 lr 2\.0e-04 \| conflicts 12% kl 0\.0020 \| 4\.7 s \| 0:00 left",
        lines[1],
    )
    assert lines[3] == "report: runs/[x]/report.html"
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", "".join(lines))


def test_terminal_shows_the_stage_and_keeps_the_step_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    text = run(Terminal())
    assert "starting rollout workers" in text
    assert "step 2/30 | reward" in text
    assert "2/30" in text
    assert "0.450" in text
    assert "\x1b[" in text


def test_a_switched_off_console_still_passes_on_notes():
    assert run(io.StringIO(), enabled=False) == "report: runs/[x]/report.html\n"


def test_a_stage_that_raises_leaves_the_terminal_usable(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    try:
        with Console(True, 3, file=file) as console, console.stage("starting"):
            raise KeyError
    except KeyError:
        pass
    assert file.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is visible again


def test_skipped_and_partial_scalars_are_shown():
    file = io.StringIO()
    Console(True, 3, file=file).step_line(1, {"skipped": 1.0, "reward/math": float("nan")})
    assert "| SKIPPED" in file.getvalue()
    Console(True, 3, file=file).step_line(1, {"skipped": 0.25})
    assert "25% of the updates SKIPPED" in file.getvalue()
