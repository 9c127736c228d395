"""Several trained models as one plain Hugging Face folder, without any actor.

Models are read tensor by tensor and written the same way; `algo/merging.py` has the arithmetic. Of
a run the newest checkpoint is exported first, beside the output, for as long as it is read. Types
and files of the weights are the base's; configuration, tokenizer, template and generation defaults
the first model's, which is trained to use them. `merge.json` says what was merged and how.

Left out: merging adapters without their base (a run with adapters is merged as `mgsrl export`
writes it), models of different shapes, and search for weights.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from math import sqrt
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from mgsrl.config import PolicyConfig
from mgsrl.config.merging import MergeSettings, merge_settings
from mgsrl.config.require import one_of
from mgsrl.errors import ConfigError
from mgsrl.files.hashed import FileFacts, facts_of
from mgsrl.files.jsonl import jsonable
from mgsrl.obs.outputs import output_folder, replaced_folder
from mgsrl.obs.run_record import versions
from mgsrl.obs.terminal import counted_progress
from mgsrl.training.export import is_model_folder, write_trained
from mgsrl.training.fingerprint import fingerprint
from mgsrl.training.manifest import FILE as MANIFEST
from mgsrl.training.merge_inputs import (
    Input,
    check_architectures,
    check_tokenizers,
    common_tensors,
    find_base,
    find_input,
    read_config,
)
from mgsrl.training.tensor_files import (
    INDEX,
    SINGLE,
    TORCH_TYPES,
    TensorFacts,
    TensorFiles,
    num_bytes,
    write_tensors,
)

RECORD = "merge.json"
FORMAT = 1
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""Of `--dtype` -> as files spell them."""
BESIDE = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
"""Ends of the files that a model has beside its weights."""
MUCH_ROUNDING = 0.1
"""Of `_Written.rounding`, from which on it is said."""


@dataclass(frozen=True)
class Merged:
    """What came out."""

    folder: Path
    notes: tuple[str, ...]
    """What somebody should know of it, in words."""
    eval_arguments: tuple[str, ...]
    """What `mgsrl eval` takes beside the tasks, with the first run's of the chat template."""


def merge_models(
    models: Sequence[Path | str],
    output: Path | str,
    *,
    method: str,
    weights: Sequence[float] | None = None,
    base: Path | str | None = None,
    density: float | None = None,
    threshold: float | None = None,
    seed: int | None = None,
    dtype: str | None = None,
    force: bool = False,
) -> Merged:
    """Merge trained models; `mgsrl merge` does the same.

    Args:
        models: run folders, checkpoints, model folders or hub ids.
        output: a folder that does not exist yet.
        method: `linear`, `task_arithmetic`, `ties`, `dare` or `ram`; `algo/merging.py` has them.
        weights: one for each model; None: 1 for each.
        base: what the models were trained from; None: what the runs among them began with.
        density: of `ties` and `dare`, the share of changes that is kept; None: 0.2 and 0.1.
        threshold: of `ram`, the largest difference that counts as none; None: 1e-5.
        seed: of `dare`; None: 0.
        dtype: `float32`, `bfloat16` or `float16`; None: the base's types.
        force: `output` may be a model folder, which is replaced once the new one is whole.

    Raises:
        ConfigError: settings, models and base that do not fit, or an output that cannot be written.
        MissingPathError: a model that is not there, or a run without a checkpoint.
        CheckpointError, DataError: damaged files.
    """
    options = {"density": density, "threshold": threshold, "seed": seed}
    if dtype is not None:
        one_of("--dtype", dtype, DTYPES)
    settings = merge_settings(method, len(models), weights, **options)
    inputs = [find_input(str(each), "RUN") for each in models]
    start = find_base(inputs, None if base is None else str(base), settings)
    everything = [*inputs, *([] if start is None else [start])]
    output = output_folder(
        output,
        "OUT",
        inputs=[path for each in everything for path in each.paths],
        force=force,
        is_ours=is_model_folder,
        kind="a model folder",
    )
    plain = {each.shown: each.folder for each in everything if each.folder is not None}
    check_architectures(plain)  # before the exports, which take a while
    with replaced_folder(output) as draft:
        draft.mkdir()
        folders = _plain_folders(everything, draft / "exports")
        notes = _merge(settings, inputs, start, folders, draft, dtype)
        shutil.rmtree(draft / "exports", ignore_errors=True)
    return Merged(output, tuple(notes), eval_arguments(output, inputs[0].policy))


def eval_arguments(folder: Path, policy: PolicyConfig | None) -> tuple[str, ...]:
    """Those with which `mgsrl eval` scores a model as the run with this policy would be."""
    words = ["--model", str(folder)]
    if policy is not None:
        if policy.prompt_template != PolicyConfig.prompt_template:
            words += ["--prompt-template", policy.prompt_template]
        if policy.chat_template_kwargs:
            arguments = yaml.safe_dump(policy.chat_template_kwargs, default_flow_style=True)
            words += ["--chat-template-kwargs", arguments.strip()]
        words += ["--date", policy.date] if policy.date else []
    return tuple(words)


def _plain_folders(inputs: Sequence[Input], exports: Path) -> list[Path]:
    """Where each model lies as plain files; checkpoints are exported into `exports`."""
    folders = []
    waiting = sum(each.checkpoint is not None for each in inputs)
    with counted_progress() as bar:
        task = bar.add_task("exporting runs", total=waiting, visible=waiting > 0)
        for number, each in enumerate(inputs):
            folder = each.folder or exports / str(number)
            if each.checkpoint is not None:
                folder.mkdir(parents=True)
                write_trained(each.checkpoint, folder)
                bar.advance(task)
            folders.append(folder)
    return folders


def _merge(
    settings: MergeSettings,
    inputs: Sequence[Input],
    base: Input | None,
    folders: Sequence[Path],
    draft: Path,
    dtype: str | None,
) -> list[str]:
    """Write the merged model into `draft`.

    Args:
        folders: of `inputs`, and of the base behind them.

    Returns:
        Notes.
    """
    shown = [*_distinct([each.shown for each in inputs]), *(["the base"] if base else [])]
    named = dict(zip(shown, folders, strict=True))
    check_architectures(named)
    trusted = any(each.policy is not None and each.policy.trust_remote_code for each in inputs)
    last = "the base" if base else None
    notes = check_tokenizers(named, base=last, trust_remote_code=trusted)
    with ExitStack() as stack:
        files = {n: stack.enter_context(TensorFiles(f, n)) for n, f in named.items()}
        if any(read_config(folder).get("tie_word_embeddings") is True for folder in folders):
            for each in files.values():  # a copy of the embedding, which not all write
                each.forget([n for n in each.facts if n.split(".")[-2:] == ["lm_head", "weight"]])
        start = files.pop("the base") if base else None
        names = common_tensors(files, start)
        odd = sorted(set(start.facts) - set(names)) if start else []
        if odd:
            notes.append(f"left out: {len(odd)} tensors that only the base has ({odd[0]}, ...)")
        written = _write(settings, list(files.values()), start, names, draft, dtype)
    types = _copy_beside(folders[0], draft, written)
    if (written.rounding or 0.0) > MUCH_ROUNDING:
        notes.append(
            f"rounding to {types} moves the weights {written.rounding:.2g} times as far as merging "
            "moved them from the base; --dtype float32 does not round"
        )
    record = {
        "format": FORMAT,
        "method": settings.method,
        "weights": settings.weights,
        "options": settings.options,
        "models": [_identity(each) for each in inputs],
        "base": _identity(base) if base else None,
        "left_out": odd,
        "dtype": types,
        "rounding": written.rounding,
        "files": {name: asdict(facts) for name, facts in written.facts.items()},
        "versions": {**versions(), "peft": metadata.version("peft")},
    }
    (draft / RECORD).write_text(json.dumps(jsonable(record), indent=1) + "\n")
    return notes


@dataclass(frozen=True)
class _Written:
    """The weights of the merged model."""

    tensors: Mapping[str, TensorFacts]
    facts: Mapping[str, FileFacts]
    """By the file's name."""
    rounding: float | None
    """Norm of what rounding to their types took, over that of the difference from the base; None
    without a base or a difference."""


def _write(
    settings: MergeSettings,
    models: Sequence[TensorFiles],
    base: TensorFiles | None,
    names: Sequence[str],
    draft: Path,
    dtype: str | None,
) -> _Written:
    """All tensors, in the files (and types) of the base, or of the first model without one."""
    from mgsrl.algo.merging import merged_tensor

    layout = base or models[0]
    tensors = {
        name: TensorFacts(DTYPES[dtype] if dtype else known.dtype, known.shape)
        for name, known in ((name, layout.facts[name]) for name in names)
    }
    lost = changed = 0.0
    with counted_progress() as bar:
        task = bar.add_task("merging tensors", total=len(names))

        def merged(name: str) -> Tensor:
            nonlocal lost, changed
            start = base.read(name) if base else None
            tensor = merged_tensor(settings, [each.read(name) for each in models], start, name)
            narrow = tensor.to(TORCH_TYPES[tensors[name].dtype])
            if not narrow.isfinite().all():
                raise _not_finite(name, tensors[name].dtype, settings)
            if start is not None:
                lost += (tensor - narrow).square().sum().item()
                changed += (tensor - start).square().sum().item()
            bar.advance(task)
            return narrow

        facts = {}
        for file in sorted({layout.file_of[name] for name in names}):
            own = {name: tensors[name] for name in names if layout.file_of[name] == file}
            facts[file] = write_tensors(draft / file, own, merged)
    if set(facts) != {SINGLE}:
        index = {
            "metadata": {"total_size": sum(map(num_bytes, tensors.values()))},
            "weight_map": {name: layout.file_of[name] for name in names},
        }
        (draft / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return _Written(tensors, facts, sqrt(lost / changed) if changed else None)


def _copy_beside(source: Path, draft: Path, written: _Written) -> str:
    """All but the weights; the configuration says the type that most of the weights have now.

    Returns:
        That type.
    """
    for file in source.iterdir():
        own = file.name.endswith(".index.json") or file.name == RECORD
        if file.is_file() and file.suffix in BESIDE and not own:
            shutil.copyfile(file, draft / file.name)
    sizes: dict[str, int] = {}
    for facts in written.tensors.values():
        sizes[facts.dtype] = sizes.get(facts.dtype, 0) + num_bytes(facts)
    most = str(TORCH_TYPES[max(sizes, key=lambda each: sizes[each])]).removeprefix("torch.")
    config = read_config(source)
    for part in (config, *(each for each in config.values() if isinstance(each, dict))):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = most
    if "torch_dtype" not in config:
        config["dtype"] = most
    (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return most


def _identity(each: Input) -> dict[str, Any]:
    """What tells a model from any other: digests (SHA-256) beside its place."""
    if each.checkpoint is not None:
        path = each.checkpoint.path
        digest = facts_of(path / MANIFEST).sha256  # which has those of every file, verified
        return {"path": str(path.resolve()), "step": each.checkpoint.step, "manifest": digest}
    return {"path": str(each.folder), **(fingerprint(str(each.folder)) or {})}


def _distinct(names: Sequence[str]) -> list[str]:
    """`names`, numbered where one of them is there twice."""
    if len(set(names)) == len(names):
        return list(names)
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


def _not_finite(name: str, dtype: str, settings: MergeSettings) -> ConfigError:
    return ConfigError(
        "The merged weights are not finite.",
        expected=f"numbers that {dtype} can hold",
        found=f"NaN or infinity in {name}, merged by {settings.method} with the weights "
        + " ".join(f"{weight:g}" for weight in settings.weights),
        todo="take smaller --weights or a wider --dtype, or look into the models",
    )
