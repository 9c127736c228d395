"""The wheel works from another folder: configurations and bundled models are inside."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built wheel, unpacked as pip would into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = f"import hatchling.build; hatchling.build.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 10 * 2**20
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_everything_is_packaged(unpacked: Path) -> None:
    for name in (
        "py.typed",
        "configs/config.yaml",
        "configs/experiment/pocket_mgs.yaml",
        "assets/pocket_policy/model.safetensors",
        "assets/pocket_reward_model/model.safetensors",
        "report/templates/report.html.j2",
        "constraints/punkt_english.txt",
    ):
        assert (unpacked / "mgsrl" / name).is_file(), name
    assert not list(unpacked.rglob("tests"))


def test_it_runs_from_another_folder(unpacked: Path, tmp_path: Path) -> None:
    """Up to the actors: configuration, model, tokenizer, reward model and data are found."""
    code = (
        "import mgsrl, sys; assert mgsrl.__file__.startswith(sys.argv[1]), mgsrl.__file__\n"
        "from mgsrl.config.compose import compose_config\n"
        "from mgsrl.training.plan import plan\n"
        "ready = plan(compose_config([]))\n"
        "print(ready.model_path, {k: len(v) for k, v in ready.prompts.items()})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(unpacked)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert str(unpacked) in done.stdout
