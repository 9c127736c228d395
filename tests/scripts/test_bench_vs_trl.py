"""The benchmark against TRL: both sides do the same work in turns, and mistakes are one message."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_vs_trl.py"
if not SCRIPT.is_file():
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)


def run(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
        env={**os.environ, **variables},
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tiny", "--json", "/nowhere/figures.json"), ["--json", "a folder that is there"]),
        (("--model", "/nowhere"), ["--model", "found"]),
        (("--tiny", "--max-prompt-tokens", "3"), ["math", "3 tokens or fewer"]),
        (("--tiny", "--prompts", "{bad}"), ["row 2 is no prompt", "poetry"]),
        (("--tiny", "--trl-batch", "7"), ["divide the 24 samples"]),
        (("--tiny", "--speed"), ["neither an option nor KEY=VALUE: --speed"]),
    ],
)
def test_mistakes_are_one_message(
    options: tuple[str, ...], words: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a"}\n{"prompt": "b", "domain": "poetry"}\n')
    done = run(*(option.format(bad=bad) for option in options))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_without_an_index_the_message_says_how_to_get_trl(tmp_path: Path) -> None:
    done = run("--tiny", "--env", str(tmp_path / "trl"), PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode == 2
    assert "TRL 1.16.0 could not be installed" in done.stderr
    assert "pip install --no-deps --target DIR trl==1.16.0" in done.stderr


@pytest.mark.slow
@pytest.mark.ray_cluster
@pytest.mark.timeout(600)
def test_both_sides_train_the_same_tokens_in_turns(tmp_path: Path) -> None:
    try:
        importlib.metadata.version("trl")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("TRL is not installed, and a test fetches nothing")
    output = tmp_path / "figures.json"
    options = ("--tiny", "--steps", "2", "--warm-up", "1", "--kl", "0.001", "--json", str(output))
    done = run(*options, "rollout.engine=transformers")
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line.partition(":")[0] for line in done.stdout.splitlines() if line.endswith(" s")]
    assert said == ["mgsrl", "trl"] * 2
    found = json.loads(output.read_text())
    ours, trl = found["mgsrl"], found["trl"]
    assert ours["response_tokens_per_step"] == trl["response_tokens_per_step"] == 3 * 8 * 64
    assert found["ratio"] == pytest.approx(trl["median_s"] / ours["median_s"])
    for side in (ours, trl):
        assert len(side["seconds"]) == 2
        assert side["peak_memory_gib"] > 0.3
    assert trl["idle_cpu_s"] < 0.1 * sum(ours["seconds"])  # the one waits while the other trains
    assert set(found["stages"]) >= {"rollout", "backward", "sync"}
