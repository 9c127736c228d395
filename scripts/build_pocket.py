"""Rebuilds the bundled pocket policy: its tokenizer, then a warm start of mixed quality.

    python scripts/build_pocket.py                          # 22 minutes on 2 busy cores
    python scripts/build_pocket.py --quick --out /tmp/x     # a minute, to see that it works
    python scripts/build_pocket.py --measure                # the card's table

The warm start is supervised training on texts of `pocket_texts/writer.py`, which shows good and
bad behaviours with set probabilities, so that reinforcement learning has something to select. Only
train prompts are used. After it, rebuild the reward model, which starts from the policy's body:
`python reward_models/pocket/train.py`.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pocket_texts.writer import write_mixed, write_perfect
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from mgsrl.data.pocket.tasks import draw_task, pocket_rows

ASSETS = Path(__file__).resolve().parents[1] / "mgsrl" / "assets"

MIXTURE = {"math": 0.44, "chat": 0.18, "instruction_following": 0.38}
"""Shares of the warm-start examples; the domains with more to learn get more."""
SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TAGS = ("<think>", "</think>", "<response>", "</response>")
"""Single tokens, but ordinary ones: decoding without special tokens must keep them."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VOCABULARY = 2048
SKILL_SHARE = 0.6
"""The first part of the warm start shows perfect texts only: a model this small has to learn to
add and to obey before it can learn how often to do so."""


def build_tokenizer(texts: Iterator[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose words and numbers keep their leading space."""
    tokenizer = Tokenizer(models.BPE())
    words_and_numbers = Regex(r" ?[A-Za-z]+| ?[0-9]+|\\boxed\{|\}| ?[^\sA-Za-z0-9]|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words_and_numbers, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(TAGS),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(SPECIAL_TOKENS[2:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def tokenizer_texts(texts: list[tuple[str, str]]) -> Iterator[str]:
    """A part of the corpus, with more numbers and capitals than it has, to get tokens for them."""
    for prompt, response in texts[::4]:
        yield prompt
        yield response
    for _, response in texts[::40]:
        yield response.upper()
    for _ in range(100):
        yield " ".join(f"{number} ({number})" for number in range(61))


def new_policy(
    tokenizer: PreTrainedTokenizerFast, width: int = 128, layers: int = 4
) -> LlamaForCausalLM:
    """About 1M parameters. Head size 32: the smallest that vLLM's CPU attention takes."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.03,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation; the loss is on the tokens from `prompt_length` on."""

    token_ids: list[int]
    prompt_length: int


def warm_start_texts(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """`count` pairs of a train prompt and a response: perfect ones first, then mixed quality."""
    rng = random.Random(f"warm start/{seed}")
    domains, shares = list(MIXTURE), list(MIXTURE.values())
    for index in range(count):
        task = draw_task(rng.choices(domains, shares)[0], "train", rng)
        write = write_perfect if index < SKILL_SHARE * count else write_mixed
        yield task.prompt, write(task, rng)


def encode(tokenizer: PreTrainedTokenizerFast, prompt: str, response: str) -> Example:
    """The conversation's tokens, as the chat template lays them out."""
    messages = [{"role": "user", "content": prompt}]
    start = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(start, add_special_tokens=False).input_ids
    response_ids = tokenizer(response, add_special_tokens=False).input_ids
    return Example([*prompt_ids, *response_ids, tokenizer.eos_token_id], len(prompt_ids))


def batches(examples: list[Example], size: int, rng: random.Random) -> list[list[Example]]:
    """Random batches of examples of similar length (padding is what costs time here)."""
    shuffled = sorted(examples, key=lambda e: len(e.token_ids) + rng.uniform(-4, 4))
    result = [shuffled[i : i + size] for i in range(0, len(shuffled), size)]
    rng.shuffle(result)
    return result


def collate(batch: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded token ids, and where the next token is one of the response."""
    length = max(len(example.token_ids) for example in batch)
    ids = torch.full((len(batch), length), pad)
    predicts_response = torch.zeros_like(ids, dtype=torch.bool)
    for row, example in enumerate(batch):
        tokens = torch.tensor(example.token_ids)
        ids[row, : len(tokens)] = tokens
        predicts_response[row, example.prompt_length - 1 : len(tokens) - 1] = True
    return ids, predicts_response


def response_loss(model: LlamaForCausalLM, batch: list[Example], pad: int) -> torch.Tensor:
    """Mean cross-entropy of the response tokens; logits are computed for them only.

    Padding is on the right, where a causal model does not look: no attention mask is needed.
    """
    ids, predicts_response = collate(batch, pad)
    hidden = model.model(input_ids=ids).last_hidden_state
    logits = model.lm_head(hidden[predicts_response])
    return F.cross_entropy(logits, ids.roll(-1, dims=1)[predicts_response])


def train(
    model: LlamaForCausalLM,
    order: list[list[Example]],
    pad: int,
    peak_lr: float = 3e-3,
    warm_up: int = 100,
) -> float:
    """One pass over the batches with AdamW and a cosine schedule; the last losses' mean."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.95), fused=True)
    started, losses = time.monotonic(), []
    for step, batch in enumerate(order):
        progress = step / len(order)
        scale = min(1.0, (step + 1) / warm_up) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * scale
        loss = response_loss(model, batch, pad)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == len(order):
            took = time.monotonic() - started
            left = took / (step + 1) * (len(order) - step - 1)
            mean = sum(losses[-50:]) / len(losses[-50:])
            print(f"step {step + 1}/{len(order)}  loss {mean:.4f}  {left:.0f} s left", flush=True)
    return sum(losses[-50:]) / len(losses[-50:])


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Weights stored in float16 (half the size), to be computed with in float32."""
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    model.config.dtype = "float32"
    model.config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)


@torch.inference_mode()
def sample(model: Any, tokenizer: Any, rows: list[dict[str, Any]], greedy: bool) -> list[str]:
    """One response a row, at temperature 1 unless `greedy`."""
    prompts = [
        tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True, tokenize=False)
        for row in rows
    ]
    batch = tokenizer(
        prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    )
    output = model.generate(**batch, max_new_tokens=64, do_sample=not greedy, top_k=0)
    return tokenizer.batch_decode(output[:, batch.input_ids.shape[1] :], skip_special_tokens=True)


def measure(policy: Path, count: int, seed: int) -> None:
    """Print the card's table: rewards on held-out prompts, greedy and sampled."""
    # Imported here, because a rebuild from nothing has no reward model yet.
    from mgsrl.config import RewardConfig
    from mgsrl.rewards.actor import RewardWorker
    from mgsrl.rewards.protocol import Response

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(policy, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        policy, dtype=torch.float32, trust_remote_code=False
    ).eval()
    rewards = {
        "math": RewardConfig("math"),
        "chat": RewardConfig.of("reward_model", path="pocket", transform="sigmoid"),
        "instruction_following": RewardConfig("constraints"),
    }
    print(
        "| domain | greedy | sampled, T = 1 | tokens | no response block |\n|---|---|---|---|---|"
    )
    for domain, config in rewards.items():
        reward = RewardWorker(config)
        rows = pocket_rows(domain, "heldout", count)
        cells = []
        for greedy in (True, False):
            texts = sample(model, tokenizer, rows, greedy)
            items = [Response(row["messages"], text, row) for row, text in zip(rows, texts)]
            scores = reward.score(items)
            values = torch.tensor([score.value or 0.0 for score in scores])
            cells.append(f"{values.mean():.3f} ± {values.std() / count**0.5:.3f}")
        reward.close()
        # The last round's, the sampled ones; the end token is counted.
        tokens = sum(len(tokenizer(text).input_ids) + 1 for text in texts) / count
        no_block = sum(not score.format_ok for score in scores) / count
        print(f"| {domain} | {cells[0]} | {cells[1]} | {tokens:.1f} | {no_block:.1%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ASSETS / "pocket_policy")
    parser.add_argument("--examples", type=int, default=60_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    parser.add_argument("--quick", action="store_true", help="4,000 examples only")
    parser.add_argument("--measure", action="store_true", help="only measure the policy in --out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        measure(args.out, count=384, seed=args.seed)
        return
    torch.manual_seed(args.seed)
    started = time.monotonic()
    texts = list(warm_start_texts(4_000 if args.quick else args.examples, args.seed))
    tokenizer = build_tokenizer(tokenizer_texts(texts))
    examples = [encode(tokenizer, *pair) for pair in texts]
    lengths = [len(e.token_ids) - e.prompt_length for e in examples]
    print(f"{len(examples)} examples, responses of {sum(lengths) / len(lengths):.1f} tokens")
    model = new_policy(tokenizer)
    print(f"{model.num_parameters():,} parameters, vocabulary {len(tokenizer)}", flush=True)
    rng, skills = random.Random(args.seed), round(SKILL_SHARE * len(examples))
    order = batches(examples[:skills], args.batch_size, rng)
    order += batches(examples[skills:], args.batch_size, rng)
    loss = train(model, order, tokenizer.pad_token_id)
    save(model, tokenizer, args.out)
    print(f"saved to {args.out}: loss {loss:.4f}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
