"""Where the models are that domains are distilled from, and whether the policy can use them."""

from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mgsrl.config.algo import AlgoConfig
from mgsrl.config.model_path import POCKET_POLICY, find_model
from mgsrl.errors import ConfigError
from mgsrl.files.hashed import facts_of
from mgsrl.training import manifest
from mgsrl.training.checkpoint import Checkpoint, newest_checkpoint
from mgsrl.training.export import is_model_folder, write_trained
from mgsrl.training.lock import writable

EXPORTED = "exported"
"""Folder of a run for its models as plain folders, by checkpoint."""


def teacher_paths(
    algos: Mapping[str, AlgoConfig],
    own: Collection[str],
    tokenizer: Any,
    trust_remote_code: bool = False,
) -> dict[str, tuple[str, str]]:
    """Of every `algo.teacher` as it is written, the first key that names it and its model.

    A run folder is answered with its newest checkpoint as a plain model, which is written into it
    (`exported/step_N-DIGEST`) unless it is there already.

    Args:
        algos: by domain.
        own: the domains that name a teacher of their own.
        tokenizer: the policy's.
        trust_remote_code: `policy.trust_remote_code`; teachers are loaded as the policy is.

    Raises:
        MissingPathError: there is no model.
        ConfigError: a teacher that reads other tokens than the policy, or cannot be written.
    """
    found = {}
    for name, algo in algos.items():
        if algo.teacher and algo.teacher not in found:
            key = f"domains.{name}.algo.teacher" if name in own else "algo.teacher"
            path = _plain_model(algo.teacher, key)
            _check_tokens(path, key, tokenizer, trust_remote_code)
            found[algo.teacher] = (key, path)
    return found


def _plain_model(path: str, key: str) -> str:
    run = Path(path).expanduser()
    if not (run / "checkpoints").is_dir():
        return find_model(path, key, POCKET_POLICY, "a run folder, ")
    checkpoint = newest_checkpoint(run / "checkpoints", print)
    if checkpoint is None:
        raise ConfigError(
            f"{key} is a run that has saved no checkpoint.",
            expected="a run folder with one, a model folder or a hub id",
            found=path,
            todo="let the run go on until it has saved (checkpoint.every)",
        )
    with writable(key):
        return str(_exported(checkpoint, run / EXPORTED).resolve())


def _exported(checkpoint: Checkpoint, folder: Path) -> Path:
    """The checkpoint's model in `folder`, by its manifest: a run that goes on from an earlier
    checkpoint comes to the same step with other weights.

    Runs that begin together each write a draft of their own; the first that is whole stays.
    """
    digest = facts_of(checkpoint.path / manifest.FILE).sha256[:12]
    model = folder / f"{checkpoint.path.name}-{digest}"
    if model.is_dir() and is_model_folder(model):
        return model
    folder.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix=f".{model.name}.", dir=folder) as aside:
        write_trained(checkpoint, draft := Path(aside) / "model")
        try:
            draft.rename(model)
        except OSError:
            if not (model.is_dir() and is_model_folder(model)):
                raise
    return model


def _check_tokens(path: str, key: str, tokenizer: Any, trust_remote_code: bool) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code).get_vocab()
    ours = tokenizer.get_vocab()
    if theirs != ours:
        other = len({*theirs.items()} ^ {*ours.items()})
        raise ConfigError(
            f"{key} reads other tokens than the policy: its probabilities are of other things.",
            expected="a teacher with the policy's tokenizer",
            found=f"{path}: {len(theirs)} tokens, {len(ours)} in the policy's, {other} entries "
            "in one of them only",
            todo="take a model of the policy's family, or leave the teacher out",
        )
