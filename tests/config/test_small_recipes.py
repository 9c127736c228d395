"""The recipes for small models fit the GPUs that they name, by the arithmetic of the pages.

They were never run: what is tested is that they compose, how many GPUs they ask for, and that
weights, gradients and optimizer leave room for activations.
"""

import re

import pytest

from mgsrl.config import Config
from mgsrl.config.compose import compose_config, config_dir, list_choices
from mgsrl.errors import ConfigError
from mgsrl.training.machine import check_gpus

MILLIONS = {
    "Qwen/Qwen3-0.6B": 596,
    "Qwen/Qwen3-1.7B": 1721,
    "Qwen/Qwen3-4B": 4022,
    "meta-llama/Llama-3.2-1B-Instruct": 1236,
    "meta-llama/Llama-3.2-3B-Instruct": 3213,
    "HuggingFaceTB/SmolLM3-3B": 3075,
}
"""Parameters, tied embeddings once."""
ACTIVATIONS = 0.15
"""Share of a GPU that is left for them."""
RECIPES = {name: text for name, text in list_choices("experiment").items() if "two GPUs of" in text}
recipes = pytest.mark.parametrize("name", RECIPES)


def learner_bytes(config: Config) -> float:
    """Per parameter, on one rank (docs/troubleshooting.md, "Sizing")."""
    weights = 2 if config.learner.dtype == "bfloat16" else 4
    reference = weights if config.algo.kl_coef else 0
    if config.policy.lora.rank:
        return weights + reference
    domains = len(config.domains)
    rows = 4 * domains if config.surgery.buffer_dtype == "float32" else 2 * domains + 4
    master = 4 if config.learner.dtype == "bfloat16" else 0
    return weights + reference + weights + master + 4 + 8 + rows


def test_there_is_one_for_every_model() -> None:
    paths = {compose_config([f"experiment={name}"]).policy.path for name in RECIPES}
    assert paths == set(MILLIONS)


@recipes
def test_the_learner_leaves_room_on_the_gpu_that_is_named(name: str) -> None:
    config = compose_config([f"experiment={name}"])
    match = re.search(r"two GPUs of (\d+) GB", RECIPES[name])
    assert match is not None
    size = MILLIONS[config.policy.path] * 1e6 * learner_bytes(config)
    assert size <= (1 - ACTIVATIONS) * float(match[1]) * 1e9
    assert ("adapters" in RECIPES[name]) == (config.policy.lora.rank > 0)


@recipes
def test_it_takes_two_gpus_and_says_that_one_is_not_enough(name: str) -> None:
    config = compose_config([f"experiment={name}"])
    check_gpus(config, 2)
    with pytest.raises(ConfigError, match="more GPUs than there are"):
        check_gpus(config, 1)
    assert "NOT RUN" in (config_dir() / "recipe" / "small.yaml").read_text()
