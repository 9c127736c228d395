"""What Tab offers in a real bash."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
eval "$(register-python-argcomplete mgsrl)"
COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9
read -ra COMP_WORDS <<< "$1"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_python_argcomplete mgsrl
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(line: str, folder: Path) -> list[str]:
    done = subprocess.run(
        ["bash", "-c", SCRIPT, "bash", line],
        cwd=folder,
        env={"PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [word.strip() for word in done.stdout.split("\n") if word.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with an experiment of their own, and a `mgsrl` that is this tree's."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    path = tmp_path_factory.mktemp("completion")
    (path / "configs" / "experiment").mkdir(parents=True)
    (path / "configs" / "experiment" / "mine.yaml").write_text("seed: 1\n")
    (path / "bin").mkdir()
    root = Path(__file__).resolve().parents[1]
    program = path / "bin" / "mgsrl"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
        "from mgsrl.cli import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("line", "some", "others"),
    [
        ("mgsrl tr", {"train"}, {"data"}),
        ("mgsrl data ins", {"inspect"}, {"train"}),
        ("mgsrl train --pri", {"--print-config"}, {"--help"}),
        ("mgsrl train algo.kl", {"algo.kl_coef=", "algo.kl_estimator="}, {"algo.clip_low="}),
        ("mgsrl train domains.chat.reward.k", {"domains.chat.reward.kind="}, set()),
        ("mgsrl doctor +experiment=", {"qwen_mgs", "mine"}, {"mixed"}),
        ("mgsrl train policy.trust_remote_code=", {"true", "false"}, {"null"}),
        ("mgsrl merge a b c --method t", {"task_arithmetic", "ties"}, {"linear"}),
        ("mgsrl compare conf", {"configs/"}, {"bin/"}),
        ("mgsrl compare axes.algo.kl", {"axes.algo.kl_coef="}, {"algo.kl_coef="}),
        ("mgsrl train nonsense=1 algo.kl", set(), {"algo.kl_coef="}),
    ],
)
def test_tab(folder: Path, line: str, some: set[str], others: set[str]) -> None:
    words = set(offered(line, folder))
    assert some <= words
    assert not others & words
