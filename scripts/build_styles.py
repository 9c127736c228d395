"""Rebuilds `pocket_styles`, the small policy from which the testbed `pocket_conflict` starts.

    python scripts/build_styles.py             # 3 minutes on 1 core
    python scripts/build_styles.py --measure   # the card's table: shares, spreads, correlations

A supervised start on `pocket_texts/styles.py`: the chat prompts of the pocket world (train split
only), answered in two or three sentences whose habits of style are coin tosses.
"""

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from build_pocket import ASSETS, batches, build_tokenizer, encode, new_policy, sample, save, train
from pocket_texts.styles import write_styled
from transformers import AutoModelForCausalLM, AutoTokenizer

from mgsrl.data.pocket.tasks import TopicTask, draw_task, pocket_rows
from mgsrl.rewards.pocket_conflict import HABITS, habit_shares

VOCABULARY, WIDTH, LAYERS = 1024, 64, 3


def styled_texts(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """`count` pairs of a train prompt and a response."""
    rng = random.Random(f"styles/{seed}")
    for _ in range(count):
        task = draw_task("chat", "train", rng)
        assert isinstance(task, TopicTask)
        yield task.prompt, write_styled(task.topic, rng)


def measure(policy: Path, prompts: int, samples: int, seed: int) -> None:
    """Print the habits' shares on held-out prompts, over all responses and within a prompt's."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(policy, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        policy, dtype=torch.float32, trust_remote_code=False
    ).eval()
    rows = [row for row in pocket_rows("chat", "heldout", prompts) for _ in range(samples)]
    texts = sample(model, tokenizer, rows, greedy=False)
    shares_PSH = torch.tensor([habit_shares(text) or (torch.nan,) * 3 for text in texts]).view(
        prompts, samples, len(HABITS)
    )
    within_PSH = shares_PSH - shares_PSH.nanmean(1, keepdim=True)
    silent = shares_PSH.flatten(0, 1).isnan().any(1)
    shares, within = (each.flatten(0, 1)[~silent] for each in (shares_PSH, within_PSH))
    correlation = torch.corrcoef(shares.T)
    print("| habit | share | spread | within a prompt | correlation with the others |")
    print("|---|---|---|---|---|")
    for h, habit in enumerate(HABITS):
        others = ", ".join(f"{correlation[h, o]:+.3f}" for o in range(len(HABITS)) if o != h)
        mean, spread = shares[:, h].mean(), shares[:, h].std()
        print(f"| {habit} | {mean:.3f} | {spread:.3f} | {within[:, h].std():.3f} | {others} |")
    tokens = sum(len(tokenizer(text).input_ids) + 1 for text in texts) / len(texts)
    print(f"{tokens:.1f} tokens; {silent.float().mean():.1%} without a sentence")
    for text in texts[:: len(texts) // 8]:
        print(repr(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ASSETS / "pocket_styles")
    parser.add_argument("--examples", type=int, default=96_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", action="store_true", help="only measure the policy in --out")
    args = parser.parse_args()
    torch.set_num_threads(1)  # so small a model gains nothing from more
    if args.measure:
        measure(args.out, prompts=256, samples=8, seed=args.seed)
        return
    torch.manual_seed(args.seed)
    started = time.monotonic()
    texts = list(styled_texts(args.examples, args.seed))
    tokenizer = build_tokenizer((text for pair in texts[::4] for text in pair), VOCABULARY)
    examples = [encode(tokenizer, *pair) for pair in texts]
    model = new_policy(tokenizer, WIDTH, LAYERS)
    print(f"{model.num_parameters():,} parameters, vocabulary {len(tokenizer)}", flush=True)
    order = batches(examples, args.batch_size, random.Random(args.seed))
    loss = train(model, order, tokenizer.pad_token_id, peak_lr=5e-3)
    save(model, tokenizer, args.out)
    print(f"saved to {args.out}: loss {loss:.4f}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
