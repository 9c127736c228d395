#!/usr/bin/env python
"""The supervised start of `+experiment=smollm2`: worked answers to a few easy problems.

    python scripts/real_model_start.py --model models/SmolLM2-135M-Instruct

Without it one group of eight answers in six has a right one, and mathematics has little to learn
from. One pass over `math_warm.jsonl` (of `scripts/real_model_data.py`; none of its problems is in
the splits) shows the model how an answer is written: "7 + 6 = 13. The answer is \\boxed{13}."
The other two domains need none. The same seed, machine and number of threads give the same weights.
"""

import argparse
import random
import time
from pathlib import Path

import torch
from build_pocket import batches, encode, train
from transformers import AutoModelForCausalLM, AutoTokenizer

from mgsrl.files.jsonl import read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("models/SmolLM2-135M-Instruct"))
    parser.add_argument("--data", type=Path, default=Path("data/smollm2/math_warm.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("models/smollm2-start"))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-5, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(options.model, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.float32, trust_remote_code=False
    )
    rows = read_rows(options.data)
    examples = [encode(tokenizer, row["prompt"], row["response"]) for row in rows]
    order = batches(examples, options.batch_size, random.Random(options.seed))
    loss = train(model, order, tokenizer.pad_token_id, peak_lr=options.lr, warm_up=3)
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    seconds = time.monotonic() - started
    print(f"saved to {options.output}: {len(rows)} answers, loss {loss:.3f}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
