"""A checkpoint's fp32 master weights as a plain Hugging Face folder, without any actor.

The shards of all ranks are put together tensor by tensor; nothing but safetensors and JSON is
read. Adapters are merged into the weights of `policy.path`. The result loads with
`AutoModelForCausalLM.from_pretrained` and in any engine.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mgsrl.config import PolicyConfig
from mgsrl.config.compose import config_from_yaml
from mgsrl.errors import ConfigError, MissingPathError, shortened
from mgsrl.learner.policy import load_policy, load_tokenizer, resolve_policy
from mgsrl.obs.outputs import output_folder, replaced_folder
from mgsrl.training.checkpoint import (
    Checkpoint,
    best_checkpoint,
    checkpoint_steps,
    load_checkpoint,
    newest_checkpoint,
)

GENERATION_CONFIG = "generation_config.json"


def export_model(source: Path, output: Path, *, best: bool = False, force: bool = False) -> Path:
    """Write model, configuration and tokenizer to `output`.

    Args:
        source: a run folder (its newest checkpoint) or one checkpoint.
        output: a folder that does not exist yet.
        best: of a run folder, its best checkpoint.
        force: `output` may be a model folder, which is replaced once the new one is whole.

    Raises:
        MissingPathError: no (best) checkpoint in `source`.
        ConfigError: `output` exists, or cannot be written.
        CheckpointError: the checkpoint is damaged.
    """
    checkpoint = checkpoint_of(source, best=best)
    output = output_folder(
        output,
        "OUTPUT",
        inputs=[source, checkpoint.path, policy_of(checkpoint).path],
        force=force,
        is_ours=is_model_folder,
        kind="a model folder",
    )
    with replaced_folder(output) as draft:
        write_trained(checkpoint, draft)
    return output


def checkpoint_of(source: Path, *, best: bool = False, verb: str = "export") -> Checkpoint:
    """Of a run folder its newest (or best) checkpoint, or `source` itself; verified.

    Args:
        verb: what is to be done with it, for messages.

    Raises:
        MissingPathError, CheckpointError: as of `export_model`.
    """
    if best:
        return load_checkpoint(best_checkpoint(source / "checkpoints"))
    if (source / "manifest.json").is_file():
        return load_checkpoint(source)
    found = newest_checkpoint(source / "checkpoints", print)
    if found is None:
        raise MissingPathError(
            f"There is nothing to {verb}.",
            expected="a run folder with a checkpoint, or a checkpoint",
            found=f"{source} ({_beside(source)})",
            todo="name a folder such as runs/pocket-mgs-seed0",
        )
    return found


def policy_of(checkpoint: Checkpoint) -> PolicyConfig:
    """The policy that the run of `checkpoint` began with."""
    return config_from_yaml(checkpoint.config_file).policy


def write_trained(checkpoint: Checkpoint, folder: Path) -> None:
    """The model of a checkpoint, in float32, into a folder that is made."""
    import torch

    from mgsrl.learner.checkpoint import read_weights
    from mgsrl.learner.lora import merge_adapters

    policy = policy_of(checkpoint)
    model = load_policy(policy, torch.float32)
    read_weights(checkpoint.path / "learner", model)
    merge_adapters(model)
    write_model(model, load_tokenizer(policy), resolve_policy(policy.path), folder)


def write_model(model: Any, tokenizer: Any, path: str, folder: Path) -> None:
    """Weights, configuration and tokenizer, and the generation defaults of `path` (folder or hub
    id) byte by byte: transformers refuses to write some that it reads, and they are not ours."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / GENERATION_CONFIG).unlink(missing_ok=True)
    own = _generation_config(path)
    if own is not None:
        shutil.copyfile(own, folder / GENERATION_CONFIG)


def check_export(policy: PolicyConfig, tokenizer: Any) -> None:
    """Try what an export writes besides weights, so that it does not fail after the training.

    Raises:
        ConfigError: configuration or tokenizer cannot be written.
    """
    from transformers import AutoConfig

    path = resolve_policy(policy.path)
    try:
        with TemporaryDirectory() as folder:
            config = AutoConfig.from_pretrained(path, trust_remote_code=policy.trust_remote_code)
            config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            _generation_config(path)
    # Any exception: what fails here would fail after hours, whatever it is.
    except Exception as error:
        raise ConfigError(
            "What is trained could not be exported.",
            expected="a configuration and a tokenizer that can be saved again",
            found=f"policy.path={policy.path}: {shortened(repr(error))}",
            todo="mend config.json or the tokenizer's files of policy.path",
        ) from error


def _generation_config(path: str) -> str | None:
    """The file, on this machine; None where the model has none."""
    from transformers.utils import cached_file

    return cached_file(path, GENERATION_CONFIG, _raise_exceptions_for_missing_entries=False)


def is_model_folder(folder: Path) -> bool:
    """Whether all that `folder` holds is one plain model: files alone, weights among them."""
    files = list(folder.iterdir())
    weights = any(file.suffix == ".safetensors" for file in files)
    return weights and (folder / "config.json").is_file() and all(f.is_file() for f in files)


def _beside(source: Path) -> str:
    """What is where no checkpoint was found."""
    checkpoints = source.parent if source.parent.name == "checkpoints" else source / "checkpoints"
    steps = ", ".join(f"step_{step}" for step in checkpoint_steps(checkpoints))
    if steps:
        return f"in {checkpoints}: {steps}"
    return "no checkpoint in it" if source.is_dir() else "no such folder"
