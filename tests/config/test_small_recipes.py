"""The recipes for one GPU fit the one that they name, by the arithmetic of `mgsrl plan`.

They were never run: what is tested is that they compose, how many GPUs they ask for, and that the
learner's turn leaves room for what the arithmetic leaves out.
"""

import re

import pytest

from mgsrl.config.compose import compose_config, config_dir, list_choices
from mgsrl.training.estimate import check_sharing, estimate
from mgsrl.training.places import choose_placement
from tests.documented import ROOT

PATHS = {
    "Qwen/Qwen2.5-1.5B",
    "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-1.7B",
    "Qwen/Qwen3-4B",
    "meta-llama/Llama-3.2-1B-Instruct",
    "meta-llama/Llama-3.2-3B-Instruct",
    "HuggingFaceTB/SmolLM3-3B",
    "./models/SmolLM2-135M-Instruct",
}
SHOWN = {16: 15.5, 24: 23.5, 32: 31.3, 48: 47.4, 80: 79.0}
"""GiB that a GPU of so many GB shows."""
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
LEFT = 0.15
"""Share of a GPU that is left in the learner's turn, for blocks that the allocator loses."""
RECIPES = {name: text for name, text in list_choices("experiment").items() if "one GPU of" in text}
recipes = pytest.mark.parametrize("name", RECIPES)


def test_there_is_one_for_every_model() -> None:
    assert {compose_config([f"experiment={name}"]).policy.path for name in RECIPES} == PATHS


@recipes
def test_both_turns_fit_the_gpu_that_is_named(name: str) -> None:
    config = compose_config([f"experiment={name}"])
    match = re.search(r"one GPU of (\d+) GB", RECIPES[name])
    assert match is not None
    gib = SHOWN[int(match[1])]
    assert ("adapters" in RECIPES[name]) == (config.policy.lora.rank > 0)
    assert "not run" in RECIPES[name]
    if config.policy.path.startswith("./"):  # a folder that the reader fills; of this shape
        config.policy.path = "HuggingFaceTB/SmolLM2-135M-Instruct"
    placement = choose_placement(config, 1)
    check_sharing(config, gib, placement.share)
    turns = estimate(config, 0, gib).turns
    assert turns is not None
    assert turns["the learner's turn"] <= (1 - LEFT) * placement.share * gib * 2**30
    assert turns["the engine's turn"] <= 0.95 * placement.share * gib * 2**30
    row = re.search(rf"^\| `{name}` \| {match[1]} GB \| (\S+) \| (\S+) \|$", PAGE, re.MULTILINE)
    assert row is not None
    said = {"the learner's turn": float(row[1]), "the engine's turn": float(row[2])}
    assert said == {turn: pytest.approx(size / 2**30, abs=0.06) for turn, size in turns.items()}


@recipes
def test_one_gpu_is_enough_and_more_are_not_needed(name: str) -> None:
    config = compose_config([f"experiment={name}"])
    assert choose_placement(config, 1).colocated
    assert choose_placement(config, 4).colocated
    config.placement = "auto"
    assert choose_placement(config, 1).colocated
    assert not choose_placement(config, 3).colocated
    assert "NOT RUN" in (config_dir() / "recipe" / "small.yaml").read_text()
