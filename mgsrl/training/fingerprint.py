"""Which weights a run began with, so that it is not resumed on others under the same path.

A checkpoint holds the trained parameters; the reference of the KL term, frozen parameters and the
base of adapters are read from `policy.path` again. The fingerprint is over content: SHA-256 of
every tensor with its name, type and shape, whatever files they are spread over, and the model's
`config.json` without what only describes it. All of the weights are read, several tensors at once:
1.8 GB/s on a core with SHA instructions, hence 8 s of one core for 7 B parameters in bf16 (14 GB),
less on several; the learners that read the same files next find them in memory.

Left out: hub ids whose weights are not on this machine yet (asked again once they are), and the
reward models (their scores are not part of the state).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgsrl.cluster.preflight import usable_cores
from mgsrl.errors import CheckpointError

CHUNK = 1 << 24
MAX_THREADS = 8
LONGEST_HEADER = 100 << 20
"""Bytes; what the safetensors library itself accepts."""
DESCRIPTIVE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")
"""Fields of `config.json` that change with how a model was saved."""


@dataclass
class PolicyIdentity:
    """The policy behind `policy.path`."""

    path: str
    """A folder or a hub id."""
    _known: dict[str, Any] | None = None

    def fingerprint(self) -> dict[str, Any] | None:
        """`weights`, `config` (hex digests) and `num_parameters` (0 where the files do not tell);
        None while the weights are not on this machine."""
        if self._known is None:
            self._known = fingerprint(self.path)
        return self._known

    def check(self, saved: Mapping[str, Any] | None) -> str | None:
        """Compare with what a checkpoint says.

        Returns:
            Why nothing was compared, if so.

        Raises:
            CheckpointError: these are other weights.
        """
        if saved is None:
            return "the checkpoint does not say which policy it began with: not compared"
        now = self.fingerprint()
        if now is None:
            return None  # not here yet
        other = [part for part in ("weights", "config") if now[part] != saved.get(part)]
        if other:
            what = {"weights": "weights", "config": "config.json"}[other[0]]
            raise CheckpointError(
                f"policy.path holds another model than the run began with: other {what}.",
                expected=f"{self.path} with {other[0]} {str(saved.get(other[0]))[:16]}...",
                found=f"{now[other[0]][:16]}...",
                todo="bring the model back (the reference of the KL term and frozen weights "
                "come from it), or start anew (resume=never)",
            )
        return None


def fingerprint(path: str) -> dict[str, Any] | None:
    """See `PolicyIdentity.fingerprint`."""
    folder = _folder(path)
    if folder is None:
        return None
    adapter = folder / "adapter_config.json"  # transformers loads it with the base that it names
    files = _weight_files(folder, adapter.is_file())
    if not files:
        return None
    base = None
    if adapter.is_file():
        base = fingerprint(str(json.loads(adapter.read_text()).get("base_model_name_or_path")))
    with ThreadPoolExecutor(min(MAX_THREADS, usable_cores())) as threads:
        parts = [part for file in files for part in _parts(file)]
        lines = list(threads.map(_digest, parts))
    config = folder / "config.json"
    return {
        "weights": _combined([*lines, *([base["weights"]] if base else [])]),
        "config": _combined([_described(config), *([base["config"]] if base else [])]),
        "num_parameters": sum(part.numel for part in parts),
    }


@dataclass(frozen=True)
class _Part:
    """A stretch of a file that is hashed by itself: one tensor, or a file of another format."""

    file: Path
    label: str
    start: int
    end: int
    numel: int


def _folder(path: str) -> Path | None:
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(path, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _weight_files(folder: Path, is_adapter: bool) -> list[Path]:
    """In the order in which transformers looks for them."""
    adapters = ("adapter_model.safetensors", "adapter_model.bin")
    models = ("model.safetensors", "model-*-of-*.safetensors", "*.safetensors", "*.bin")
    for pattern in adapters if is_adapter else models:
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def _parts(file: Path) -> Iterator[_Part]:
    size = file.stat().st_size
    whole = _Part(file, file.name, 0, size, 0)
    if file.suffix != ".safetensors":
        yield whole
        return
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = opened.read(length) if length <= min(size, LONGEST_HEADER) else b""
    try:
        tensors = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
        parts = [_tensor(file, 8 + length, name, facts) for name, facts in tensors.items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        parts = [whole]  # damaged: loading it will say so
    yield from parts


def _tensor(file: Path, offset: int, name: str, facts: Mapping[str, Any]) -> _Part:
    numel = 1
    for size in facts["shape"]:
        numel *= int(size)
    start, end = (offset + int(position) for position in facts["data_offsets"])
    return _Part(file, f"{name} {facts['dtype']} {facts['shape']}", start, end, numel)


def _digest(part: _Part) -> str:
    digest = hashlib.sha256()
    with part.file.open("rb") as file:
        file.seek(part.start)
        left = part.end - part.start
        while left > 0 and (chunk := file.read(min(left, CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
    return f"{part.label} {digest.hexdigest()}"


def _described(config: Path) -> str:
    try:
        fields = json.loads(config.read_text(encoding="utf-8"))
        fields = {name: value for name, value in fields.items() if name not in DESCRIPTIVE}
    except (OSError, ValueError, AttributeError):
        return ""  # loading it will say so
    return json.dumps(fields, sort_keys=True)


def _combined(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
