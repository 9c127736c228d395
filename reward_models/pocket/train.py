"""Trains the pocket reward model: Bradley-Terry on minimal-contrast pairs.

    python reward_models/pocket/train.py                        # 10 minutes on 2 busy cores
    python reward_models/pocket/train.py --quick --out /tmp/rm

The model is the policy's own body (it knows the pocket world from the warm start) with one logit.
Its reward is `sigmoid(logit)` of the user's prompt and the text inside `<response>`, in the chat
template saved with it. Beside the preference loss (with smoothed labels, which bounds the margins
and so keeps the sigmoid out of saturation) there are ties, which teach what must not matter, and a
weak pull of each pair's mean to a fixed value, because preferences leave the zero point free.
"""

import argparse
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mgsrl.data.pocket.tasks import TopicTask, draw_task

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from pocket_texts.pairs import EXPLOITS, FLAWS, neutral_pair, preference_pair  # noqa: E402

ASSETS = ROOT / "mgsrl" / "assets"

SMOOTHING = 0.02
"""Share of preference labels taken as flipped: one flaw costs about log(0.98 / 0.02) = 3.9."""
CENTRE = -0.2
"""Where the mean logit of a clean and a flawed text is pulled to."""
NEUTRAL_SHARE = 0.12
WEIGHTS = {
    "muddled": 3.5,
    "repeated": 4.0,
    "same_word": 5.0,
    "cut": 1.0,
    "curt": 0.7,
    **dict.fromkeys(EXPLOITS, 0.3),
}
"""How often a flaw is shown where that is not twice: the hard ones more, the crude ones less."""

Pair = tuple[str, str, str, float]
"""prompt, better, worse, target probability that `better` wins (0.5 for a tie)."""


def chat_task(split: str, rng: random.Random) -> TopicTask:
    """A chat task of the split."""
    task = draw_task("chat", split, rng)
    assert isinstance(task, TopicTask)
    return task


def training_pairs(count: int, seed: int) -> list[Pair]:
    """Pairs on train prompts."""
    rng = random.Random(f"reward model/{seed}")
    kinds = (*FLAWS, *EXPLOITS)
    weights = [WEIGHTS.get(kind, 2.0) for kind in kinds]
    pairs: list[Pair] = []
    for _ in range(count):
        task = chat_task("train", rng)
        if rng.random() < NEUTRAL_SHARE:
            pairs.append((task.prompt, *neutral_pair(task, rng), 0.5))
        else:
            pair = preference_pair(rng.choices(kinds, weights)[0], task, rng)
            if pair[0] != pair[1]:
                pairs.append((task.prompt, *pair, 1 - SMOOTHING))
    return pairs


def logits(model: Any, tokenizer: Any, conversations: list[tuple[str, str]]) -> torch.Tensor:
    """[B] logits of (prompt, response) pairs."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}],
            tokenize=False,
        )
        for prompt, response in conversations
    ]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    # Padding is on the right, where a causal model does not look: no attention mask is needed.
    return model(input_ids=batch.input_ids).logits[:, 0]


def pair_loss(model: Any, tokenizer: Any, batch: list[Pair]) -> torch.Tensor:
    """Bradley-Terry cross-entropy plus the weak pull of the mean logit to `CENTRE`."""
    conversations = [(prompt, better) for prompt, better, _, _ in batch]
    conversations += [(prompt, worse) for prompt, _, worse, _ in batch]
    better, worse = logits(model, tokenizer, conversations).chunk(2)
    target = torch.tensor([pair[3] for pair in batch])
    preference = F.binary_cross_entropy_with_logits(better - worse, target)
    # Ties are between good texts: they say nothing about the middle.
    decided = target != 0.5
    centred = (((better + worse) / 2 - CENTRE) ** 2)[decided].mean()
    return preference + 0.02 * centred


def train(model: Any, tokenizer: Any, pairs: list[Pair], size: int, peak_lr: float) -> None:
    """One pass with AdamW and a cosine schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.95), fused=True)
    steps, started = math.ceil(len(pairs) / size), time.monotonic()
    recent: list[float] = []
    for step in range(steps):
        scale = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * max(scale, 0.01)
        loss = pair_loss(model, tokenizer, pairs[step * size : (step + 1) * size])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = [*recent[-49:], loss.item()]
        if (step + 1) % 100 == 0 or step + 1 == steps:
            left = (time.monotonic() - started) / (step + 1) * (steps - step - 1)
            mean = sum(recent) / len(recent)
            print(f"step {step + 1}/{steps}  loss {mean:.4f}  {left:.0f} s left", flush=True)


@torch.no_grad()
def evaluate(model: Any, tokenizer: Any, count: int) -> dict[str, float]:
    """Accuracy per flaw on `count` held-out pairs each; prints a table with mean rewards."""
    accuracy = {}
    print(f"{'flaw':15} accuracy  reward better / worse   (n = {count} held-out pairs each)")
    for kind in (*FLAWS, *EXPLOITS, "neutral"):
        rng = random.Random(f"held-out pairs/{kind}")
        tasks = [chat_task("heldout", rng) for _ in range(count)]
        if kind == "neutral":
            pairs = [neutral_pair(task, rng) for task in tasks]
        else:
            pairs = [preference_pair(kind, task, rng, plain=True) for task in tasks]
        prompts = [task.prompt for task in tasks]
        better = logits(model, tokenizer, list(zip(prompts, [b for b, _ in pairs])))
        worse = logits(model, tokenizer, list(zip(prompts, [w for _, w in pairs])))
        accuracy[kind] = (better > worse).float().mean().item()
        means = f"{better.sigmoid().mean():.3f} / {worse.sigmoid().mean():.3f}"
        print(f"{kind:15} {accuracy[kind]:.3f}     {means}", flush=True)
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", type=Path, default=ASSETS / "pocket_policy")
    parser.add_argument("--out", type=Path, default=ASSETS / "pocket_reward_model")
    parser.add_argument("--pairs", type=int, default=56_000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    parser.add_argument("--quick", action="store_true", help="2,000 pairs only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(args.policy, trust_remote_code=False)
    tokenizer.padding_side = "right"
    model = AutoModelForSequenceClassification.from_pretrained(
        args.policy, num_labels=1, dtype=torch.float32, trust_remote_code=False
    )
    pairs = training_pairs(2_000 if args.quick else args.pairs, args.seed)
    train(model, tokenizer, pairs, args.batch_size, args.lr)
    model.eval()
    # Stored in float16 (half the size), to be computed with in float32.
    model.half().save_pretrained(args.out)
    model.config.dtype = "float32"
    model.config.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    (args.out / "model.safetensors").chmod(0o644)
    evaluate(model.float(), tokenizer, 100 if args.quick else 500)
    print(f"saved to {args.out}: {len(pairs)} pairs, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
