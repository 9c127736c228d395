"""The reward model on a tiny random Llama classifier: real templates, tokens and batches."""

import datetime
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from mgsrl.cluster import preflight
from mgsrl.config.reward import RewardConfig
from mgsrl.errors import ConfigError, MissingPathError, UserError
from mgsrl.rewards.protocol import Response, RewardItem, Surroundings
from mgsrl.rewards.reward_model import RewardModel
from mgsrl.rewards.reward_model_torch import load_model
from mgsrl.rewards.reward_model_vllm import memory_arguments
from tests.rewards.loaded import loaded, worker

PROMPT = ({"role": "user", "content": "Name a fruit."},)


def make_classifier(source: Path, folder: Path, num_labels: int = 1) -> Path:
    """A classifier with random head on the body of `source`."""
    body = AutoModelForCausalLM.from_pretrained(source)
    config = body.config
    config.num_labels = num_labels
    torch.manual_seed(1)
    model = LlamaForSequenceClassification(config)
    model.model.load_state_dict(body.model.state_dict())
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tiny_model, tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def model(classifier: Path) -> RewardModel:
    return load(classifier, batch_size=3, max_length=64)


def load(
    path: Path | str, date: str | None = None, num_gpus: float = 0.0, **keys: Any
) -> RewardModel:
    config = RewardConfig.of("reward_model", path=str(path), **keys)
    reward = loaded(config, Surroundings(date=date, num_gpus=num_gpus))
    assert isinstance(reward, RewardModel)
    return reward


def item(text: str) -> RewardItem:
    return RewardItem(PROMPT, text)


RESPONSES = ["An apple.", "A", "The sea is wide and blue.", "", "An apple is a fruit.", "12"]


def values(model: RewardModel, items: list[RewardItem]) -> list[float]:
    rewards = model.score(items)
    assert all(reward.value is not None for reward in rewards)
    return [reward.value for reward in rewards if reward.value is not None]


def test_the_score_is_the_logit_of_the_templated_conversation(model: RewardModel) -> None:
    ids = model.tokenizer("user: Name a fruit.\nassistant: An apple.\n")["input_ids"]
    with torch.inference_mode():
        logit = model.model.model(input_ids=torch.tensor([ids])).logits.item()
    assert values(model, [item("An apple.")]) == [pytest.approx(logit, abs=1e-5)]


def test_batches_and_order_do_not_matter(model: RewardModel) -> None:
    together = values(model, [item(text) for text in RESPONSES])
    alone = [values(model, [item(text)])[0] for text in RESPONSES]
    backwards = values(model, [item(text) for text in reversed(RESPONSES)])[::-1]
    assert together == pytest.approx(alone, rel=1e-5, abs=1e-5)
    assert together == pytest.approx(backwards, rel=1e-5, abs=1e-5)
    assert len(set(together)) == len(RESPONSES)


def test_the_same_items_give_the_same_numbers(model: RewardModel) -> None:
    items = [item(text) for text in RESPONSES]
    assert values(model, items) == values(model, items)


def test_equal_tokens_are_scored_once(classifier: Path) -> None:
    """In batches of two, of other shapes, the same tokens would get scores that differ in bits."""
    model = load(classifier, batch_size=2)
    seen: list[int] = []
    model.model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    items = [item("An apple.")] * 5 + [item(text) for text in RESPONSES]
    items += [item("An <eos>apple."), RewardItem((*PROMPT, *PROMPT), "An apple.")]
    found = values(model, items)
    assert len({*found[:6], found[-2]}) == 1
    assert sum(seen) == len(RESPONSES) + 1
    alone = [values(model, [item(text)])[0] for text in RESPONSES]
    assert found[5:11] == pytest.approx(alone, rel=1e-5, abs=1e-5)


def test_a_tokenizer_without_padding_gives_the_same(model: RewardModel) -> None:
    items = [item(text) for text in RESPONSES]
    padded = values(model, items)
    pad = model.tokenizer.pad_token
    try:
        model.tokenizer.pad_token = None
        assert values(model, items) == pytest.approx(padded, abs=1e-5)
    finally:
        model.tokenizer.pad_token = pad


def test_sigmoid(classifier: Path) -> None:
    model = load(classifier, transform="sigmoid")
    reward = model.score([item("An apple.")])[0]
    assert reward.value == pytest.approx(1 / (1 + math.exp(-reward.details["raw_score"])))


def test_control_tokens_are_removed(model: RewardModel) -> None:
    clean = values(model, [item("An apple.")])
    for text in ("An <eos>apple.", "An apple.<|im_end|>", "An <e<eos>os>apple."):
        assert values(model, [item(text)]) == clean
    special = RewardModel.clean(model, "a<|im_<|im_end|>end|>b")
    assert special == "ab"


def test_responses_without_a_block(classifier: Path) -> None:
    with closing(worker("reward_model", path=str(classifier))) as by:
        thought = Response(PROMPT, "<think>very long</think> <response>An apple.</response>")
        block = Response(PROMPT, "<response>An apple.</response>")
        none, *others = by.score([Response(PROMPT, "An apple."), thought, block])
    assert (none.value, none.format_ok) == (0.0, False)
    assert all(other.format_ok and other.value for other in others)
    assert others[0] == others[1]


def test_long_inputs_lose_their_oldest_tokens(model: RewardModel) -> None:
    ids = model.encode(item("apple " * 200))
    assert len(ids) == 64
    assert model.tokenizer.decode(ids).endswith("apple \n")


def test_a_template_that_reads_the_clock_is_given_the_runs_day(classifier: Path) -> None:
    def text(date: str | None) -> str:
        reward = load(classifier, date)
        reward.tokenizer.chat_template = "{{ strftime_now('%d %b %Y %H:%M') }}"
        return reward.tokenizer.decode(reward.encode(item("a")))

    assert text("2024-07-26") == "26 Jul 2024 00:00"
    assert text(None) == f"{datetime.date.today():%d %b %Y} 00:00"


def test_a_template_that_refuses_abstains(classifier: Path) -> None:
    model = load(classifier)
    model.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    reward = model.score([item("An apple.")])[0]
    assert reward.abstained
    assert "roles must alternate" in (reward.error or "")


def test_a_logit_that_is_no_number_abstains(classifier: Path) -> None:
    model = load(classifier)
    torch.nn.init.constant_(model.model.model.score.weight, float("nan"))
    reward = model.score([item("An apple.")])[0]
    assert reward.abstained
    assert "nan" in (reward.error or "")


# --- what cannot be a reward model ----------------------------------------------------------------


def test_missing_path(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none"), "./none", "pocket/none/x"):
        with pytest.raises(MissingPathError, match="to do"):
            load(path)


def test_the_device_is_what_the_configuration_reserves(classifier: Path) -> None:
    weights = next(load(classifier).model.model.parameters())
    assert (weights.device.type, weights.dtype) == ("cpu", torch.float32)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="num_gpus=0"):
            load(classifier, num_gpus=1.0)


def test_a_vllm_for_gpus_is_refused_without_one(
    classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "installed", {"vllm": "0.32.0"}.get)
    with pytest.raises(ConfigError, match=r"(?s)only does on GPUs.*backend=transformers"):
        load(classifier, backend="vllm")


def test_vllm_workers_on_one_gpu_measure_nothing() -> None:
    """Each is given the size of its cache: else it would take for its own what the other loads."""
    llama_8b = LlamaConfig(num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8)
    small = LlamaConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=2)
    tokens = 8192 + 4096
    half = memory_arguments(llama_8b, 0.5, tokens)
    assert half["kv_cache_memory_bytes"] == tokens * 2**17
    assert half["gpu_memory_utilization"] == pytest.approx(0.45)
    assert memory_arguments(small, 0.5, tokens)["kv_cache_memory_bytes"] == 2**28
    assert memory_arguments(llama_8b, 0.0, tokens)["kv_cache_memory_bytes"] == tokens * 2**18
    assert "kv_cache_memory_bytes" not in memory_arguments(llama_8b, 1.0, tokens)  # it is alone


def test_accelerates_auto_gives_the_same(classifier: Path, model: RewardModel) -> None:
    """What several GPUs get; without any, accelerate puts everything on the CPU, in bfloat16."""
    auto = load(classifier, batch_size=3, max_length=64)
    auto.model.model = load_model(str(classifier), auto.model.model.config, "auto").eval()
    assert auto.model.model.dtype is torch.bfloat16
    items = [item(text) for text in RESPONSES]
    found, expected = values(auto, items), values(model, items)
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 0.05 * max(
        map(abs, expected)
    )


def test_two_logits(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="num_labels=2"):
        load(make_classifier(tiny_model, tmp_path, num_labels=2))


def test_a_causal_model_has_no_trained_head(tiny_model: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.num_labels = 1
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no weights for score\.weight"):
        load(tmp_path)


def test_no_chat_template(classifier: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    LlamaForSequenceClassification.from_pretrained(classifier).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="chat template"):
        load(tmp_path)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        load(tmp_path)
