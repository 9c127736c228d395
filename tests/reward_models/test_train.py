"""`reward_models/train.py` as users start it: learns a rule, saves what the reward code loads."""

import importlib.util
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mgsrl.errors import ConfigError
from mgsrl.rewards.protocol import Response
from tests.rewards.loaded import worker

SCRIPT = Path(__file__).resolve().parents[2] / "reward_models" / "train.py"
WORDS = ("sea", "blue", "wide", "fox", "dog", "lazy", "quick", "name", "fruit", "five", "grows")
LAUNCH = ("-m", "accelerate.commands.launch", "--cpu")
OPTIONS = ("--lr", "1e-3", "--batch-size", "16", "--max-length", "96", "--heldout-share", "0.3")

if not SCRIPT.is_file():
    pytest.skip("the recipes are not beside the tests", allow_module_level=True)


def make_pairs(path: Path, count: int = 300) -> list[dict[str, str]]:
    """The answer with an apple in it is the better one; two pairs to a prompt.

    Some prompts are longer than what is kept, some answers hold a control token.
    """
    rng = random.Random(0)

    def words() -> list[str]:
        return rng.choices(WORDS, k=rng.randint(3, 9))

    rows = []
    for index in range(count):
        chosen = words()
        chosen.insert(rng.randrange(len(chosen)), "apple")
        question = index // 2
        prompt = f"Task {question}" + " sea" * (60 if question % 5 == 0 else 1)
        answers = [
            " ".join(text) + ("<eos>" if index % 7 == 0 else "") for text in (chosen, words())
        ]
        rows.append({"prompt": prompt, "chosen": answers[0], "rejected": answers[1]})
    path.write_text("\n".join(map(json.dumps, rows)))
    return rows


def start(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "apples.jsonl"
    make_pairs(path)
    return path


@pytest.fixture(scope="module")
def trained(tiny_model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "model"
    launch = (*LAUNCH, "--num_processes", "1", SCRIPT)
    where = ("--model", tiny_model, "--pairs", pairs, "--output", output)
    done = start(*launch, *where, *OPTIONS, "--epochs", "3")
    assert done.returncode == 0, done.stderr
    assert "held-out accuracy after" in done.stdout
    return output


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script as a module, for the parts that need no run."""
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("reward_model_recipe", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))


def record_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "training.json").read_text())


def test_it_learns_the_rule(trained: Path) -> None:
    record = record_of(trained)
    before, after = (record[when]["all"] for when in ("before", "after"))
    assert after["pairs"] == 90
    assert after["groups"] == 45
    assert before["accuracy"] < 0.85
    assert after["accuracy"] > 0.9
    assert after["interval"][0] > after["longer_wins"] - 0.2
    assert record["losses"][-1] < 0.5 * math.log(2)


def test_the_reward_code_gives_the_same_logits(trained: Path, pairs: Path) -> None:
    """Held-out rewards of the training against those of the saved folder, one by one."""
    held = record_of(trained)["heldout"]
    ours = sorted([*held["chosen"], *held["rejected"]])
    model = worker("reward_model", path=str(trained), max_length=96, missing_tag="whole_response")
    rows = list(map(json.loads, pairs.read_text().split("\n")))
    items = [
        Response(({"role": "user", "content": row["prompt"]},), row[side])
        for row in rows
        for side in ("chosen", "rejected")
    ]
    values = torch.tensor([reward.value for reward in model.score(items)], dtype=torch.float64)
    gaps = [(values - value).abs().min().item() for value in ours]
    assert len(ours) == 180
    assert max(gaps) < 1e-5
    assert torch.tensor(ours).std() > 0.1


def test_the_card_says_what_was_measured(trained: Path, pairs: Path) -> None:
    card = (trained / "README.md").read_text()
    after = record_of(trained)["after"]["all"]
    for text in (f"**{after['accuracy']:.3f}**", "apples.jsonl", "longer wins", "--epochs 3"):
        assert text in card
    assert str(pairs.parent) not in card
    assert (trained / "card.png").read_bytes().startswith(b"\x89PNG")
    assert not list(trained.parent.glob(".*.tmp"))


def test_a_bad_row_is_told_and_leaves_nothing(
    tiny_model: Path, pairs: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(pairs.read_text() + '\n{"prompt": "x", "chosen": "y"}')
    where = ("--model", tiny_model, "--pairs", bad, "--output", tmp_path / "out")
    done = start(SCRIPT, *where, *OPTIONS)
    assert done.returncode == 2
    assert f"{bad}, line 301: the row is not usable" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("batch-size", "15"), ("lr", "0"), ("heldout-share", "1"), ("pairs", "a/x.jsonl,b/x.jsonl")],
)
def test_values_that_cannot_work(script: ModuleType, option: str, value: str) -> None:
    given = {"model": "m", "pairs": "a.jsonl", "output": "nowhere", "batch-size": "16"}
    arguments = [f"--{name}={text}" for name, text in {**given, option: value}.items()]
    with pytest.raises(ConfigError, match=f"--{option} cannot be used"):
        script.check_options(script.parse_options(arguments), processes=2)


def test_every_epoch_has_full_batches_of_its_own(script: ModuleType) -> None:
    pairs = [SimpleNamespace(longest=1 + index % 13) for index in range(50)]
    ordered = script.training_order(pairs, 8, epochs=3, max_steps=None, seed=0)
    epochs = [list(map(id, ordered[i : i + 48])) for i in (0, 48, 96)]
    assert len(ordered) == 144
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert script.training_order(pairs, 8, epochs=3, max_steps=5, seed=0) == ordered[:40]
    with pytest.raises(ConfigError, match="--batch-size is too large"):
        script.training_order(pairs, 64, epochs=1, max_steps=None, seed=0)


@pytest.mark.slow
def test_two_processes_train_the_same_model(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    """`accelerate launch` would start CPU processes with mpirun, so torchrun does here."""
    for processes in (1, 2):
        launch = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
        where = ("--model", tiny_model, "--pairs", pairs, "--output", tmp_path / str(processes))
        done = start(*launch, SCRIPT, *where, *OPTIONS, "--max-steps", "6", "--freeze-layers", "1")
        assert done.returncode == 0, done.stderr
    one, two = (record_of(tmp_path / name) for name in "12")
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["losses"] == pytest.approx(two["losses"], rel=1e-4)
    for side in ("chosen", "rejected"):
        assert one["heldout"][side] == pytest.approx(two["heldout"][side], abs=1e-4)
    weights, others = (load_file(tmp_path / name / "model.safetensors") for name in "12")
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=0, atol=1e-4)
