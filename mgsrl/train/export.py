"""A checkpoint's fp32 master weights as a plain Hugging Face folder, without any actor.

The shards of all ranks are put together tensor by tensor; nothing but safetensors and JSON is
read. Adapters are merged into the weights of `policy.path`. The result loads with
`AutoModelForCausalLM.from_pretrained` and in any engine.
"""

from pathlib import Path
from typing import Any

from mgsrl.config.compose import config_from_yaml
from mgsrl.errors import MissingPathError, explain
from mgsrl.obs.outputs import output_folder, replaced_folder
from mgsrl.train.checkpoint import best_checkpoint, load_checkpoint, newest_checkpoint


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
    import torch

    from mgsrl.learner.checkpoint import read_weights
    from mgsrl.learner.lora import merge_adapters
    from mgsrl.learner.policy import load_policy, load_tokenizer

    if best:
        checkpoint = load_checkpoint(best_checkpoint(source / "checkpoints"))
    elif (source / "manifest.json").is_file():
        checkpoint = load_checkpoint(source)
    else:
        found = newest_checkpoint(source / "checkpoints", print)
        if found is None:
            raise MissingPathError(
                explain(
                    "There is nothing to export.",
                    expected="a run folder with a checkpoint, or a checkpoint",
                    found=str(source),
                    todo="name a folder such as runs/pocket-mgs-seed0",
                )
            )
        checkpoint = found
    policy = config_from_yaml(checkpoint.config_file).policy
    output = output_folder(
        output,
        "OUTPUT",
        inputs=[source, checkpoint.path, policy.path],
        force=force,
        is_ours=is_model_folder,
        kind="a model folder",
    )
    model: Any = load_policy(policy, torch.float32)
    read_weights(checkpoint.path / "learner", model)
    merge_adapters(model)
    with replaced_folder(output) as draft:
        model.save_pretrained(draft)
        load_tokenizer(policy).save_pretrained(draft)
    return output


def is_model_folder(folder: Path) -> bool:
    """Whether all that `folder` holds is one plain model: files alone, weights among them."""
    files = list(folder.iterdir())
    weights = any(file.suffix == ".safetensors" for file in files)
    return weights and (folder / "config.json").is_file() and all(f.is_file() for f in files)
