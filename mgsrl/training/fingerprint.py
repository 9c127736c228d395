"""Which models a run began with, so that it is not resumed on others under the same paths.

A checkpoint holds the trained parameters; the reference of the KL term, frozen parameters and the
base of adapters are read from `policy.path` again, and reward models from theirs. The fingerprint
is over content: SHA-256 of every tensor with its name, type and shape, whatever files they are
spread over, the model's `config.json` without what only describes it, and the files of its
tokenizer with template and stop tokens. All of the weights are read, several tensors at once: 1.8
GB/s on a core with SHA instructions, hence 8 s of one core for 7 B parameters in bf16 (14 GB), less
on several; the actors that read the same files next find them in memory. Of a model behind a server
the name is all that is known.

Left out: hub ids whose weights are not on this machine yet (asked again once they are), and models
that a reward of one's own loads without naming them (`BaseReward.model_path`).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from mgsrl.cluster.preflight import usable_cores
from mgsrl.config import DomainConfig
from mgsrl.config.model_path import POCKET_REWARD_MODEL, resolve_model_path
from mgsrl.config.resume import names
from mgsrl.errors import CheckpointError
from mgsrl.rewards.factory import rewards_of

TOKENIZER = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "chat_template.json"),
    *("chat_template.jinja", "generation_config.json"),
)
"""Files that decide which tokens a model reads and where it stops."""
CHUNK = 1 << 24
MAX_THREADS = 8
LONGEST_HEADER = 100 << 20
"""Bytes; what the safetensors library itself accepts."""
WHAT = {"weights": "weights", "config": "config.json", "tokenizer": "tokenizer or template"}
"""The parts of a fingerprint that are compared, in words."""
DESCRIPTIVE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")
"""Fields of `config.json` that change with how a model was saved."""


@dataclass
class ModelIdentity:
    """The model behind a key of the configuration."""

    key: str
    path: str
    """A folder or a hub id."""
    served: str | None = None
    """The model's name at a server, which has no `path` here."""
    todo: str = "rewards of two models do not compare"
    """Why another one would not do."""
    _known: dict[str, Any] | None = None

    def fingerprint(self) -> dict[str, Any] | None:
        """`weights`, `config`, `tokenizer` (hex digests) and `num_parameters` (0 where the files
        do not tell), or of a served one `name`; None while the weights are not on this machine."""
        if self._known is None:
            known = {"name": self.served} if self.served is not None else fingerprint(self.path)
            self._known = known
        return self._known

    def check(self, saved: Mapping[str, Any] | None) -> None:
        """Compare with what a checkpoint says, if it does and the weights are here.

        Raises:
            CheckpointError: these are other weights.
        """
        now = self.fingerprint()
        if saved is None or now is None:
            return
        for part in (*WHAT, "name"):
            if part in saved and now.get(part) != saved[part]:
                raise CheckpointError(
                    f"{self.key} holds another model than the run began with: other "
                    f"{WHAT.get(part, part)}.",
                    expected=f"{self.path or self.key} with {part} {str(saved[part])[:16]}",
                    found=str(now.get(part))[:16],
                    todo=f"bring the model back ({self.todo}), name it in resume.allow, or start "
                    "anew (resume=never)",
                )


@dataclass
class Models:
    """All models that a run reads from elsewhere."""

    policy: ModelIdentity
    rewards: Sequence[ModelIdentity] = ()
    allow: Sequence[str] = ()
    """`resume.allow`: keys whose models may be others."""

    @classmethod
    def of(
        cls,
        policy_path: str,
        domains: Mapping[str, DomainConfig],
        allow: Sequence[str] = (),
        teachers: Mapping[str, str] = MappingProxyType({}),
    ) -> Self:
        """The policy in a folder or behind a hub id, what the domains' rewards load or ask, and the
        `teachers` by their keys."""
        policy = ModelIdentity(
            "policy.path",
            policy_path,
            todo="the reference of the KL term and frozen weights come from it",
        )
        rewards = [
            ModelIdentity(key, path, todo="another teaches another thing")
            for key, path in teachers.items()
        ]
        for domain, config in domains.items():
            for reward in rewards_of(config.reward, f"domains.{domain}.reward"):
                if reward.model_path:
                    key = f"{reward.key}.path"
                    path = resolve_model_path(reward.model_path, key, POCKET_REWARD_MODEL)
                    rewards.append(ModelIdentity(key, path))
                elif isinstance(served := getattr(reward.config, "model", None), str):
                    rewards.append(ModelIdentity(f"{reward.key}.model", "", served))
        return cls(policy, rewards, allow)

    def state(self) -> dict[str, Any]:
        """Of all of them, JSON-able; part of a checkpoint."""
        rewards = {model.key: model.fingerprint() for model in self.rewards}
        return {"policy": self.policy.fingerprint(), "reward_models": rewards}

    def check(self, state: Mapping[str, Any]) -> list[str]:
        """Compare with the state that a checkpoint holds.

        Returns:
            What was not compared, in words.

        Raises:
            CheckpointError: these are other models.
        """
        rewards = state.get("reward_models")
        saved = {**(rewards or {}), self.policy.key: state.get("policy")}
        for model in (self.policy, *self.rewards):
            if not names(self.allow, model.key):
                model.check(saved.get(model.key))
        unknown = ["policy"] if state.get("policy") is None else []
        unknown += ["reward models"] if rewards is None and self.rewards else []
        return [
            f"the checkpoint does not say which {x} it began with: not compared" for x in unknown
        ]


def fingerprint(path: str) -> dict[str, Any] | None:
    """See `ModelIdentity.fingerprint`."""
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
    tokenizer = [f"{name} {_described(folder / name)}" for name in TOKENIZER]
    return {
        "weights": _combined([*lines, *([base["weights"]] if base else [])]),
        "config": _combined([_described(config), *([base["config"]] if base else [])]),
        "tokenizer": _combined([*tokenizer, *([base["tokenizer"]] if base else [])]),
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


def _described(file: Path) -> str:
    """The content of a small file; of JSON without what only describes how it was saved."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # not there, or loading it will say so
    if file.suffix != ".json":
        return text
    try:
        fields = json.loads(text)
        return json.dumps(
            {name: value for name, value in fields.items() if name not in DESCRIPTIVE},
            sort_keys=True,
        )
    except (ValueError, AttributeError, RecursionError):
        return ""  # loading it will say so


def _combined(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
