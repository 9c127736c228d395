"""`mgsrl merge`: folders and runs in, one plain model out; or one message and nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from mgsrl.cli import main
from mgsrl.config.compose import compose_config
from mgsrl.training.fingerprint import fingerprint
from mgsrl.training.merge import eval_arguments, merge_models
from mgsrl.training.tensor_files import TensorFacts, write_tensors
from tests.checkpoints import save_run
from tests.conftest import build_tiny_model

Tensors = dict[str, Tensor]


def weights(folder: Path) -> Tensors:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def changed(base: Path, folder: Path, edit: Callable[[Tensors], Tensors]) -> Path:
    """A copy of `base` with other weights."""
    shutil.copytree(base, folder)
    save_file(edit(weights(base)), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def noisy(seed: int, scale: float = 0.01) -> Callable[[Tensors], Tensors]:
    generator = torch.Generator().manual_seed(seed)

    def edit(tensors: Tensors) -> Tensors:
        return {
            n: t + scale * torch.randn(t.shape, generator=generator) for n, t in tensors.items()
        }

    return edit


@pytest.fixture
def pair(tiny_model: Path, tmp_path: Path) -> tuple[Path, Path]:
    first, second = (changed(tiny_model, tmp_path / f"m{n}", noisy(n)) for n in (1, 2))
    return first, second


@pytest.fixture(scope="module")
def as_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Path, str], Path]:
    """A run folder as `mgsrl train` leaves it, of a policy and what became of it."""

    def make(policy: Path, trained: Path, name: str) -> Path:
        return save_run(tmp_path_factory.mktemp("runs") / name, policy, weights(trained))

    return make


def test_the_command_line(
    tiny_model: Path, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "deep" / "out"
    command = ["merge", *map(str, pair), str(out), "--method", "task_arithmetic"]
    command += ["--weights", "0.75", "-0.5", "--base", str(tiny_model)]
    assert main(command) == 0
    assert f"mgsrl eval --model {out}" in capsys.readouterr().out
    base, first, second = (weights(folder) for folder in (tiny_model, *pair))
    merged = AutoModelForCausalLM.from_pretrained(out)
    for name, value in base.items():
        expected = value + 0.75 * (first[name] - value) - 0.5 * (second[name] - value)
        assert_close(merged.get_parameter(name).data, expected)
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert [entry.name for entry in out.parent.iterdir()] == ["out"]
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert main([*command[:3], str(pair[0]), *command[4:], "--force"]) == 2
    assert "which is read" in capsys.readouterr().err


def test_the_record_says_what_was_merged(
    tiny_model: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    from mgsrl.files.hashed import facts_of

    out = merge_models(pair, tmp_path / "out", method="ties", base=tiny_model).folder
    record = json.loads((out / "merge.json").read_text())
    assert (record["method"], record["options"]) == ("ties", {"density": 0.2})
    assert record["weights"] == [1.0, 1.0]
    known = [fingerprint(str(folder)) for folder in (*pair, tiny_model)]
    for entry, facts in zip([*record["models"], record["base"]], known, strict=True):
        assert facts is not None
        assert entry["weights"] == facts["weights"]
    assert known[0] != known[1]
    written = record["files"]["model.safetensors"]
    assert written["sha256"] == facts_of(out / "model.safetensors").sha256
    assert {"python", "torch", "peft"} <= set(record["versions"])


def test_runs_bring_their_base(
    tiny_model: Path,
    pair: tuple[Path, Path],
    as_run: Callable[[Path, Path, str], Path],
    tmp_path: Path,
) -> None:
    """As if their models had been plain folders; and no base but that of the runs is taken."""
    runs = [as_run(tiny_model, model, model.name) for model in pair]
    merged = merge_models(runs, tmp_path / "runs", method="ram")
    plain = merge_models(pair, tmp_path / "plain", method="ram", base=tiny_model)
    assert (merged.folder / "model.safetensors").read_bytes() == (
        plain.folder / "model.safetensors"
    ).read_bytes()
    assert not (merged.folder / "exports").exists()
    record = json.loads((merged.folder / "merge.json").read_text())
    assert [entry["step"] for entry in record["models"]] == [3, 3]
    assert record["base"]["path"] == str(tiny_model)
    assert merged.eval_arguments[-2:] == ("--date", "2026-11-26")


def test_a_base_that_is_another_now_is_refused(
    tiny_model: Path,
    pair: tuple[Path, Path],
    as_run: Callable[[Path, Path, str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    policy = Path(shutil.copytree(tiny_model, tmp_path / "policy"))
    mine, other = as_run(policy, pair[0], "mine"), as_run(tiny_model, pair[1], "other")
    same = ["merge", str(mine), str(other), str(tmp_path / "same"), "--method", "ties"]
    assert main(same) == 0  # two places of one model
    away = as_run(pair[0], pair[1], "away")
    assert main(["merge", str(mine), str(away), str(tmp_path / "out"), "--method", "linear"]) == 2
    assert "different policies" in capsys.readouterr().err
    shutil.copyfile(pair[0] / "model.safetensors", policy / "model.safetensors")
    assert main(["merge", str(mine), str(tmp_path / "out"), "--method", "ties"]) == 2
    assert "is another one now" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_types_and_files_are_the_base_s(
    tiny_model: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """A base in bfloat16 and two files, models in float32 and one."""
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    tensors = {name: value.bfloat16() for name, value in weights(tiny_model).items()}
    (base / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:5]}
    parts["model-00002-of-00002.safetensors"] = names[5:]
    for file, own in parts.items():
        save_file({n: tensors[n] for n in own}, base / file, metadata={"format": "pt"})
    weight_map = {name: file for file, own in parts.items() for name in own}
    index = {"metadata": {}, "weight_map": weight_map}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    out = merge_models(pair, tmp_path / "out", method="linear", base=base).folder
    assert {file.name for file in out.glob("*.safetensors")} == set(parts)
    first, second = weights(pair[0]), weights(pair[1])
    for name, value in weights(out).items():
        assert torch.equal(value, ((first[name] + second[name]) / 2).bfloat16())
    written = json.loads((out / "model.safetensors.index.json").read_text())
    assert written["weight_map"] == weight_map
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16
    wide = merge_models(pair, tmp_path / "wide", method="linear", base=base, dtype="float32").folder
    assert {value.dtype for value in weights(wide).values()} == {torch.float32}


@pytest.mark.parametrize(("scale", "told"), [(0.1, False), (1e-4, True)])
def test_what_rounding_takes_is_said(
    scale: float, told: bool, tiny_model: Path, tmp_path: Path
) -> None:
    """bfloat16 has steps of about 0.4 %: a change of the weights by less is gone."""
    base = changed(
        tiny_model, tmp_path / "base", lambda t: {name: x.bfloat16() for name, x in t.items()}
    )
    start = weights(base)
    trained = changed(
        base, tmp_path / "m", lambda _: noisy(1, scale)({n: x.float() for n, x in start.items()})
    )
    merged = merge_models([trained], tmp_path / "out", method="linear", base=base)
    assert any("rounding to bfloat16" in note for note in merged.notes) == told
    wide = merge_models([trained], tmp_path / "w", method="linear", base=base, dtype="float32")
    assert json.loads((wide.folder / "merge.json").read_text())["rounding"] < 1e-3
    out = weights(merged.folder)
    lost = sum((out[n].float() - x).square().sum() for n, x in weights(trained).items())
    moved = sum((x - start[n].float()).square().sum() for n, x in weights(trained).items())
    record = json.loads((merged.folder / "merge.json").read_text())
    assert record["rounding"] == pytest.approx((lost / moved).sqrt().item(), rel=1e-3)


def test_a_written_file_is_the_library_s(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "a": torch.tensor(3.5, dtype=torch.bfloat16),
        "c": torch.zeros(0, 2, dtype=torch.float16),
    }
    kinds = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
    facts = {n: TensorFacts(kinds[t.dtype], tuple(t.shape)) for n, t in tensors.items()}
    write_tensors(tmp_path / "ours", facts, tensors.__getitem__)
    read = load_file(tmp_path / "ours")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_the_copy_of_a_tied_embedding_is_no_tensor_of_its_own(
    tiny_model: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    def with_head(tensors: Tensors) -> Tensors:
        return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}

    config = json.loads((tiny_model / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    base = changed(tiny_model, tmp_path / "base", with_head)
    out = merge_models(pair, tmp_path / "out", method="ties", base=base).folder
    assert weights(out).keys() == weights(tiny_model).keys()


def test_what_only_the_base_has_is_left_out_aloud(
    tiny_model: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base = changed(tiny_model, tmp_path / "base", lambda t: {**t, "mtp.weight": torch.ones(2)})
    merged = merge_models(pair, tmp_path / "out", method="ties", base=base)
    assert any("1 tensors that only the base has (mtp.weight" in note for note in merged.notes)
    assert json.loads((merged.folder / "merge.json").read_text())["left_out"] == ["mtp.weight"]


def test_another_chat_template_is_said(
    tiny_model: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """That of the first model counts, and that of the base never does."""
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    for folder in (base, pair[1]):
        (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    merged = merge_models(pair, tmp_path / "out", method="ties", base=base)
    assert len(merged.notes) == 1
    assert "chat template" in merged.notes[0]
    first = (pair[0] / "chat_template.jinja").read_text()
    assert (merged.folder / "chat_template.jinja").read_text() == first


def test_a_merged_model_is_scored_as_its_run() -> None:
    policy = compose_config(["policy.chat_template_kwargs={enable_thinking: false}"]).policy
    words = " ".join(eval_arguments(Path("out"), policy))
    assert "--chat-template-kwargs {enable_thinking: false}" in words
    assert eval_arguments(Path("out"), None) == ("--model", "out")
    prompted = compose_config(["policy.prompt_template=prompted"]).policy
    assert "--prompt-template prompted" in " ".join(eval_arguments(Path("out"), prompted))


def test_it_is_scored_at_once_where_tasks_are_named(
    tiny_model: Path, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, scored = tmp_path / "out", []
    monkeypatch.setattr("mgsrl.commands.eval.run", scored.append)
    command = ["merge", *map(str, pair), str(out), "--method", "linear", "--tasks"]
    assert main([*command, "gsm9k"]) == 2
    assert not out.exists()
    assert main([*command, "gsm8k"]) == 0
    assert [(each.model, each.tasks, each.engine) for each in scored] == [
        (str(out), "gsm8k", "vllm")
    ]


# ---------------------------------------------------------------- mistakes


def _edited_config(base: Path, folder: Path, **fields: object) -> Path:
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    return folder


def _without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def _other_shape(tensors: Tensors) -> Tensors:
    return {**tensors, "model.norm.weight": torch.ones(3)}


def _quantised(tensors: Tensors) -> Tensors:
    return {**tensors, "model.norm.weight": tensors["model.norm.weight"].to(torch.int8)}


def _huge(tensors: Tensors) -> Tensors:
    return {**tensors, "model.norm.weight": torch.full_like(tensors["model.norm.weight"], 1e30)}


def _other_tokenizer(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocab = tokenizer["model"]["vocab"]
    one, two = [token for token in vocab if len(token) == 1][:2]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    file.write_text(json.dumps(tokenizer))
    return folder


def _no_weights(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    return folder


def _cut(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    return folder


def _empty_run(base: Path, folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": 0}))
    return folder


BAD: dict[str, tuple[Callable[[Path, Path], Path], tuple[str, ...]]] = {
    "architecture": (lambda b, f: _edited_config(b, f, model_type="qwen2"), ("model_type",)),
    "heads": (lambda b, f: _edited_config(b, f, num_attention_heads=4), ("num_attention_heads",)),
    "shape": (lambda b, f: changed(b, f, _other_shape), ("model.norm.weight", "[64]", "[3]")),
    "names": (lambda b, f: changed(b, f, _without("model.norm.weight")), ("model.norm.weight",)),
    "type": (lambda b, f: changed(b, f, _quantised), ("quantised", "I8")),
    "tokenizer": (_other_tokenizer, ("tokenizer",)),
    "no weights": (_no_weights, ("no weights", "model.safetensors")),
    "cut file": (_cut, ("cannot be read", "model.safetensors")),
    "no checkpoint": (_empty_run, ("nothing to merge", "no checkpoint")),
    "nothing": (lambda b, f: f, ("RUN", "nothing there")),
}
"""A second model that does not fit -> words of the message."""


@pytest.mark.parametrize("kind", BAD)
def test_what_does_not_fit_is_one_message(
    kind: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = BAD[kind]
    other = make(tiny_model, tmp_path / "other")
    out = tmp_path / "out"
    command = ["merge", str(tiny_model), str(other), str(out), "--method", "linear"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("  to do:") == 1
    for word in words:
        assert word in error
    assert not out.exists()
    assert not [*tmp_path.glob(".out*")]


def test_settings_are_read_before_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    models = ["merge", "/nowhere/a", "/nowhere/b", "out"]
    assert main([*models, "--method", "ties", "--weights", "1"]) == 2
    assert "2 numbers, one for each RUN" in capsys.readouterr().err
    assert main([*models, "--method", "linear", "--density", "0.5"]) == 2
    assert "ties or dare" in capsys.readouterr().err


def test_plain_folders_do_not_say_their_base(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["merge", *map(str, pair), str(tmp_path / "out"), "--method", "dare"]
    assert main(command) == 2
    assert "add --base MODEL" in capsys.readouterr().err


def test_weights_that_a_type_cannot_hold_are_not_written(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = changed(tiny_model, tmp_path / "huge", _huge)
    command = ["merge", str(huge), str(tmp_path / "out"), "--method", "linear"]
    assert main([*command, "--dtype", "float16"]) == 2
    assert "model.norm.weight" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(command) == 0


def test_other_sizes_are_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untied = build_tiny_model(tmp_path / "untied", tied=False)
    command = ["merge", str(tiny_model), str(untied), str(tmp_path / "out"), "--method", "linear"]
    assert main(command) == 2
    assert "tie_word_embeddings" in capsys.readouterr().err
