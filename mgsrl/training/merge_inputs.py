"""What is merged: runs and model folders, the base that they began with, and whether they fit.

Left out: comparing whole configurations. Fine-tuned models differ from their base in much that
says nothing of their weights (stop tokens, longest sequence); compared are the fields that do.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgsrl.config import PolicyConfig
from mgsrl.config.merging import MergeSettings
from mgsrl.config.model_path import POCKET_POLICY, find_model
from mgsrl.errors import ConfigError, DataError, MissingPathError, one_line
from mgsrl.learner.policy import resolve_policy
from mgsrl.learner.shard_file import DTYPES
from mgsrl.training.checkpoint import Checkpoint
from mgsrl.training.export import checkpoint_of, policy_of
from mgsrl.training.fingerprint import fingerprint
from mgsrl.training.manifest import FILE as MANIFEST
from mgsrl.training.tensor_files import TensorFiles

OF_A_RUN = ("checkpoints", "config.yaml", "run.json", MANIFEST)
"""What tells a run folder or checkpoint from a model folder."""
FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py"]
"""What is fetched of a hub id."""
MEANING = (
    *("model_type", "architectures", "tie_word_embeddings", "hidden_act", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
)
"""Fields of `config.json` without which equal weights are different models."""
PROBE = "What is 2 + 3? It's  5, caf\u00e9 \u2713\n\tdef f(x): return [x**2]"
"""A text that tokenizers with one vocabulary may still cut differently."""


@dataclass(frozen=True)
class Input:
    """One model, as it was named."""

    shown: str
    checkpoint: Checkpoint | None = None
    """Of a run; such a model has no folder until it is exported."""
    folder: Path | None = None
    """Of a plain model."""

    @property
    def paths(self) -> list[Path | str]:
        """What is read of it."""
        own: list[Path | str] = [os.path.expanduser(self.shown)]
        if self.checkpoint is not None:
            own += [self.checkpoint.path, policy_of(self.checkpoint).path]
        if self.folder is not None:
            own.append(self.folder)
        return own

    @property
    def policy(self) -> PolicyConfig | None:
        """Of a run."""
        return None if self.checkpoint is None else policy_of(self.checkpoint)


def find_input(named: str, key: str) -> Input:
    """The run, checkpoint or model that `named` is; a checkpoint is verified.

    Raises:
        MissingPathError: there is nothing of that kind, or the run has no checkpoint.
        CheckpointError: the checkpoint is damaged.
    """
    path = Path(os.path.expanduser(named))
    if any((path / name).exists() for name in OF_A_RUN):
        return Input(named, checkpoint=checkpoint_of(path, verb="merge"))
    found = find_model(named, key, POCKET_POLICY, "a run folder, a checkpoint, ")
    return Input(named, folder=_on_disk(found, named, key))


def find_base(inputs: Sequence[Input], base: str | None, settings: MergeSettings) -> Input | None:
    """The base: `base`, or what the runs among `inputs` began with; None where none is needed.

    Raises:
        ConfigError: the runs began with different policies, or with one that is another now; or
            none is named where one is needed.
        MissingPathError: it is not there.
    """
    if base is not None:
        return find_input(base, "--base")
    runs = [each for each in inputs if each.checkpoint is not None]
    if runs:
        return _common_start(runs)
    if settings.needs_base:
        raise ConfigError(
            f"--method {settings.method} needs the base of the models.",
            expected="--base MODEL: the model that all of them were trained from",
            found="plain model folders, which do not say",
            todo="add --base MODEL, or take --method linear",
        )
    return None


def _common_start(runs: Sequence[Input]) -> Input:
    """What all `runs` began with, by content where their checkpoints tell it."""
    starts = [_start(each) for each in runs]
    path, digest = starts[0]
    for run, (other, known) in zip(runs, starts, strict=True):
        same = known == digest if known and digest else other == path
        if not same:
            raise ConfigError(
                "The runs began with different policies.",
                expected="one policy.path for all: what they learned is the difference from it",
                found=f"{runs[0].shown}: {path}; {run.shown}: {other}",
                todo="merge runs of one policy, or name the base with --base MODEL",
            )
    folder = _on_disk(path, path, "policy.path")
    now = (fingerprint(str(folder)) or {}).get("weights")
    if digest and now != digest:
        raise ConfigError(
            "The policy that the runs began with is another one now.",
            expected=f"{path} with weights {digest[:16]}, as the checkpoints say",
            found=str(now)[:16],
            todo="bring the model back, or name the base with --base MODEL",
        )
    return Input(path, folder=folder)


def _start(run: Input) -> tuple[str, str | None]:
    """Where a run's first policy is, and the digest of its weights if that is known."""
    assert run.checkpoint is not None
    saved = run.checkpoint.state.get("policy")
    digest = saved.get("weights") if isinstance(saved, Mapping) else None
    return resolve_policy(policy_of(run.checkpoint).path), digest


def _on_disk(found: str, shown: str, key: str) -> Path:
    """The folder; a hub id is fetched, or taken from the hub's cache."""
    if os.path.isabs(found):
        return Path(found)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(found, allow_patterns=FILES, ignore_patterns="*/*"))
    # Any exception: of the network, of the hub, of the disk.
    except Exception as error:
        raise MissingPathError(
            f"The model of {key} cannot be fetched.",
            expected="a hub id that this machine can reach",
            found=f"{shown!r}: {one_line(error)}",
            todo=f"download the model and give {key} its folder",
        ) from error


def check_architectures(folders: Mapping[str, Path]) -> None:
    """Raise `ConfigError` when the configurations describe models of different kinds.

    Args:
        folders: what messages call a model -> its folder; the first is compared with all.
    """
    configs = {shown: read_config(folder) for shown, folder in folders.items()}
    first, expected = next(iter(configs.items()))
    for shown, config in configs.items():
        for name in MEANING:
            mine, other = _field(expected, name), _field(config, name)
            if mine is not None and other is not None and mine != other:
                raise ConfigError(
                    "Models of different architectures cannot be merged.",
                    expected=f"{name} {mine!r} in config.json, as {first} has it",
                    found=f"{shown}: {other!r}",
                    todo="merge models that were trained from one base",
                )


def check_tokenizers(
    folders: Mapping[str, Path], *, base: str | None, trust_remote_code: bool
) -> list[str]:
    """Raise `ConfigError` when the same text is not the same tokens to all.

    Args:
        folders: as of `check_architectures`.
        base: the one of them that is only the base: its chat template does not matter.

    Returns:
        What differs otherwise, in words.
    """
    from transformers import AutoTokenizer

    known: dict[str, Any] = {}
    for shown, folder in folders.items():
        try:
            known[shown] = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code
            )
        # Any exception: the files are the user's, and transformers raises what it meets.
        except Exception as error:
            raise MissingPathError(
                f"The tokenizer of {shown} cannot be loaded.",
                expected="the files of a tokenizer beside the weights",
                found=one_line(error),
                todo="put them there",
            ) from error
    first, tokenizer = next(iter(known.items()))
    for shown, other in known.items():
        same = tokenizer.get_vocab() == other.get_vocab()
        if not same or tokenizer(PROBE)["input_ids"] != other(PROBE)["input_ids"]:
            what = "cuts a text into other tokens" if same else "has another vocabulary"
            raise ConfigError(
                "Models with different tokenizers cannot be merged.",
                expected=f"the tokenizer of {first}",
                found=f"that of {shown} {what}",
                todo="merge models that were trained from one base",
            )
    return [
        f"{shown} has another chat template than {first}; the merged model has that of {first}"
        for shown, other in known.items()
        if shown != base and other.chat_template != tokenizer.chat_template
    ]


def common_tensors(models: Mapping[str, TensorFiles], base: TensorFiles | None) -> list[str]:
    """The names that all have, equal in shape; what only the base has is left out.

    Raises:
        ConfigError: models differ in names or shapes, the base lacks a name, or weights are
            quantised.
    """
    first, reference = next(iter(models.items()))
    names = set(reference.facts)
    for shown, model in models.items():
        if odd := sorted(names ^ set(model.facts)):
            raise _other_weights(f"those of {first}", f"{shown} differs in {_some(odd)}")
    if base is not None and (odd := sorted(names - set(base.facts))):
        raise _other_weights(f"those of {first} in the base too", f"the base has no {_some(odd)}")
    everyone = {**models, **({} if base is None else {"the base": base})}
    for name in sorted(names):
        for shown, model in everyone.items():
            mine, other = reference.facts[name], model.facts[name]
            if other.shape != mine.shape:
                expected = f"{name} of shape {list(mine.shape)}, as in {first}"
                raise _other_weights(expected, f"{shown}: {list(other.shape)}")
            if other.dtype not in DTYPES.values():
                raise _other_weights(
                    f"weights of {', '.join(DTYPES.values())}; quantised ones have no mean",
                    f"{shown}: {name} of {other.dtype}",
                )
    return sorted(names)


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json`.

    Raises:
        DataError: it is no JSON object.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return config
        found = f"a {type(config).__name__}"
    except (OSError, ValueError, RecursionError) as error:
        found = one_line(error)
    raise DataError(
        f"{folder / 'config.json'} cannot be read.",
        expected="a JSON object",
        found=found,
        todo="restore the file from a copy, or download it again",
    )


def _field(config: Mapping[str, Any], name: str) -> Any:
    """A field, also of the text part of a multi-modal model."""
    own = config.get("text_config")
    inner = own.get(name) if isinstance(own, Mapping) else None
    return config.get(name) if config.get(name) is not None else inner


def _other_weights(expected: str, found: str) -> ConfigError:
    return ConfigError(
        "The models do not have the same weights.",
        expected=expected,
        found=found,
        todo="merge models that were trained from one base",
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
