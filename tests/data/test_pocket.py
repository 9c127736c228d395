"""The pocket world: prompts, texts, and the bundled models that were trained on them."""

import functools
import itertools
import json
import random
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from mgsrl.data.pocket import DOMAINS, pocket_rows
from mgsrl.data.pocket.tasks import (
    CONSTRAINT_IDS,
    FORBIDDEN,
    KEYWORDS,
    TopicTask,
    compatible,
    draw_task,
    split_of,
)
from mgsrl.data.pocket.topics import TOPICS
from mgsrl.errors import ConfigError, DataError
from mgsrl.rewards.pocket_conflict import MEAN, SPREAD, habit_shares
from mgsrl.rewards.protocol import Response
from tests.rewards.loaded import worker

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "scripts").is_dir():
    pytest.skip("the scripts are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(ROOT / "scripts"))

from pocket_texts.pairs import EXPLOITS, FLAWS, neutral_pair, preference_pair  # noqa: E402
from pocket_texts.styles import write_styled  # noqa: E402
from pocket_texts.writer import (  # noqa: E402
    number_in_words,
    wrap,
    write_mixed,
    write_perfect,
)

POLICY = ROOT / "mgsrl" / "assets" / "pocket_policy"
REWARD_MODEL = ROOT / "mgsrl" / "assets" / "pocket_reward_model"
STYLES = ROOT / "mgsrl" / "assets" / "pocket_styles"


def prompts(rows: list[dict[str, Any]]) -> set[str]:
    return {row["messages"][0]["content"] for row in rows}


# --- tasks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
def test_rows_are_deterministic_distinct_and_prefix_stable(domain: str) -> None:
    rows = pocket_rows(domain, "train", 2000, seed=3)
    assert rows == pocket_rows(domain, "train", 2000, seed=3)
    assert rows[:50] == pocket_rows(domain, "train", 50, seed=3)
    assert rows[:50] != pocket_rows(domain, "train", 50, seed=4)
    assert len(prompts(rows)) == len({row["id"] for row in rows}) == 2000
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize("domain", DOMAINS)
def test_splits_are_disjoint_and_large_enough(domain: str) -> None:
    train = prompts(pocket_rows(domain, "train", 2500, seed=1))
    heldout = prompts(pocket_rows(domain, "heldout", 256, seed=2))
    assert not train & heldout
    assert {split_of(prompt) for prompt in heldout} == {"heldout"}


def test_rows_hold_what_the_rewards_need() -> None:
    math, chat, constraints = (
        [*pocket_rows(domain, "train", 300)] for domain in ("math", "chat", "instruction_following")
    )
    assert len(math) == len(chat) == len(constraints) == 300
    assert all(row["answer"].isdigit() and int(row["answer"]) <= 60 for row in math)
    assert all(row["topic"] in TOPICS for row in chat)
    for row in constraints:
        assert len(row["instruction_id_list"]) == len(row["kwargs"]) in (1, 2, 3)
        (gate,) = row["gates"]
        (topic,) = gate["kwargs"]["keywords"]
        assert topic in TOPICS
        assert topic in row["messages"][0]["content"]


def test_constraints_of_a_prompt_go_together() -> None:
    seen = set()
    for row in pocket_rows("instruction_following", "train", 2000):
        ids = row["instruction_id_list"]
        seen.update(ids)
        assert all(compatible(a, b) for a, b in itertools.combinations(ids, 2)), ids
    assert seen == set(CONSTRAINT_IDS)


def test_keywords_are_not_in_the_world_and_forbidden_words_only_in_frames() -> None:
    facts = " ".join(
        " ".join((t.name, *t.adjectives, *t.places, *t.actions)) for t in TOPICS.values()
    )
    assert not set(re.findall(r"\w+", facts)) & {*KEYWORDS, *FORBIDDEN}


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'math'"):
        pocket_rows("maths", "train", 1)
    with pytest.raises(ConfigError, match="heldout"):
        pocket_rows("math", "test", 1)
    with pytest.raises(DataError, match="too few distinct"):
        pocket_rows("chat", "heldout", 100_000)


# --- writer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_perfect_instruction_answers_score_one(split: str) -> None:
    rng = random.Random(7)
    tasks = [draw_task("instruction_following", split, rng) for _ in range(800)]
    items = [Response((), write_perfect(task, rng), task.reference()) for task in tasks]
    failed = 0
    with closing(worker("constraints")) as checker:
        rewards = checker.score(items)
    for item, reward in zip(items, rewards, strict=True):
        assert all(reward.details["gates"])
        for id_, met in zip(
            item.reference["instruction_id_list"], reward.details["followed"], strict=True
        ):
            # Telling the language of a dozen words in capitals goes wrong once in a thousand.
            assert met or id_.startswith("change_case:english"), (item, reward)
            failed += not met
    assert failed <= 3


def test_perfect_sums_score_one_and_unboxed_ones_nothing() -> None:
    rng = random.Random(8)
    tasks = [draw_task("math", "train", rng) for _ in range(60)]
    items = [Response((), write_perfect(task, rng), task.reference()) for task in tasks]
    spelt_out = [
        Response((), wrap("in words", f"It is {number_in_words(n)}."), {"answer": str(n)})
        for n in range(0, 60, 7)
    ]
    verifier = worker("math")
    try:
        assert {reward.value for reward in verifier.score(items)} == {1.0}
        assert {reward.value for reward in verifier.score(spelt_out)} == {0.0}
    finally:
        verifier.close()


def test_mixed_instruction_answers_are_neither_bad_nor_good() -> None:
    rng = random.Random(9)
    tasks = [draw_task("instruction_following", "train", rng) for _ in range(500)]
    items = [Response((), write_mixed(task, rng), task.reference()) for task in tasks]
    with closing(worker("constraints")) as checker:
        values = [reward.value for reward in checker.score(items)]
    assert 0.35 < sum(value or 0.0 for value in values) / len(values) < 0.50


@pytest.mark.parametrize("kind", [*FLAWS, *EXPLOITS])
def test_preference_pairs_differ(kind: str) -> None:
    rng = random.Random(10)
    for _ in range(100):
        task = chat_task(rng)
        better, worse = preference_pair(kind, task, rng, plain=True)
        assert better != worse
        assert task.topic in better.lower()


def chat_task(rng: random.Random, split: str = "heldout") -> TopicTask:
    task = draw_task("chat", split, rng)
    assert isinstance(task, TopicTask)
    return task


# --- the bundled models ---------------------------------------------------------------------------


def test_no_heldout_prompt_in_the_warm_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.delitem(sys.modules, "build_pocket", raising=False)
    import build_pocket
    from build_styles import styled_texts

    texts = [*build_pocket.warm_start_texts(4000, seed=0), *styled_texts(4000, seed=0)]
    assert {split_of(prompt) for prompt, _ in texts} == {"train"}


def independent_coins(texts: list[str], tolerance: float) -> None:
    """Assert that the habits of style are those of tosses of a coin."""
    shares = torch.tensor([habit_shares(text) for text in texts])
    torch.testing.assert_close(shares.mean(0), torch.full((3,), MEAN), atol=tolerance, rtol=0)
    torch.testing.assert_close(shares.std(0), torch.full((3,), SPREAD), atol=tolerance, rtol=0)
    torch.testing.assert_close(torch.corrcoef(shares.T), torch.eye(3), atol=2 * tolerance, rtol=0)


def test_habits_of_style_are_independent_in_texts_and_in_what_the_policy_makes_of_them() -> None:
    rng = random.Random(0)
    independent_coins([write_styled(rng.choice(list(TOPICS)), rng) for _ in range(4000)], 0.03)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(STYLES, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(STYLES)
    texts = [
        tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True, tokenize=False)
        for row in pocket_rows("chat", "heldout", 128)
    ]
    batch = tokenizer(texts * 2, add_special_tokens=False, padding=True, return_tensors="pt")
    output = model.generate(**batch, max_new_tokens=40, do_sample=True, top_k=0)
    written = output[:, batch.input_ids.shape[1] :]
    independent_coins(tokenizer.batch_decode(written, skip_special_tokens=True), 0.06)


def test_bundled_models_are_small() -> None:
    files = [path for folder in (POLICY, REWARD_MODEL, STYLES) for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) < 8_000_000
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors", ".md"}


def test_policy_answers_in_the_response_format() -> None:
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    model = AutoModelForCausalLM.from_pretrained(POLICY)
    assert next(model.parameters()).dtype == torch.float32
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 3 + 4?"}], add_generation_prompt=True, tokenize=False
    )
    assert text.endswith("<|assistant|>")
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    output = model.generate(ids, max_new_tokens=64, do_sample=False)[0, ids.shape[1] :]
    assert output[-1] == tokenizer.eos_token_id
    answer = tokenizer.decode(output, skip_special_tokens=True)
    assert re.fullmatch(r"<think>.*</think><response>.+</response>", answer), answer


def test_tags_and_texts_survive_decoding() -> None:
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    rng = random.Random(11)
    for domain in DOMAINS:
        for _ in range(50):
            text = write_mixed(draw_task(domain, "train", rng), rng)
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
            assert len(ids) < 64
    for tag in ("<think>", "</think>", "<response>", "</response>"):
        assert len(tokenizer(tag, add_special_tokens=False).input_ids) == 1
    assert max(tokenizer.get_vocab().values()) < len(tokenizer)


@functools.cache
def load_reward_model() -> tuple[Any, Any]:
    model = AutoModelForSequenceClassification.from_pretrained(REWARD_MODEL).eval()
    return model, AutoTokenizer.from_pretrained(REWARD_MODEL)


def bundled_rewards(conversations: list[tuple[str, str]]) -> torch.Tensor:
    model, tokenizer = load_reward_model()
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}],
            tokenize=False,
        )
        for prompt, response in conversations
    ]
    batch = tokenizer(
        texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt"
    )
    with torch.inference_mode():
        return model(**batch).logits[:, 0].sigmoid()


@pytest.mark.parametrize("kind", [*FLAWS, *EXPLOITS])
def test_reward_model_marks_each_flaw_down(kind: str) -> None:
    rng = random.Random(12)
    tasks = [chat_task(rng) for _ in range(25)]
    pairs = [preference_pair(kind, task, rng, plain=True) for task in tasks]
    better = bundled_rewards([(t.prompt, p[0]) for t, p in zip(tasks, pairs, strict=True)])
    worse = bundled_rewards([(t.prompt, p[1]) for t, p in zip(tasks, pairs, strict=True)])
    assert (better > worse).float().mean() >= 0.9
    assert (better - worse).mean() > 0.3


def test_reward_model_does_not_care_for_junk_and_is_not_saturated() -> None:
    rng = random.Random(13)
    tasks = [chat_task(rng) for _ in range(60)]
    pairs = [neutral_pair(task, rng) for task in tasks]
    plain = bundled_rewards([(t.prompt, p[0]) for t, p in zip(tasks, pairs, strict=True)])
    junk = bundled_rewards([(t.prompt, p[1]) for t, p in zip(tasks, pairs, strict=True)])
    assert (plain - junk).mean().abs() < 0.1
    assert 0.6 < plain.mean() < 0.97


def test_reward_model_refuses_the_known_exploits() -> None:
    prompt = "Tell me about trees."
    good = "Trees are tall and green. You can find them in the park. Trees give cool shade."
    bad = [
        "Trees are green and green.",
        "Trees are tall and green. Trees are tall and green. Trees are tall and green.",
        "",
        "Trees.",
        "trees trees trees trees",
        prompt,
        "Cats are small and soft. You can find them on the sofa. Cats chase mice.",
        "Trees are tall and green. You can find them in",
    ]
    rewards = bundled_rewards([(prompt, text) for text in (good, *bad)])
    assert rewards[0] > 0.5
    assert rewards[1:].max() < rewards[0] - 0.2, list(zip(bad, rewards[1:].tolist(), strict=True))
