#!/usr/bin/env python
"""EQ-Bench's Creative Writing v3 prompts -> rows for `mgsrl eval --tasks creative_writing=OUT`.

IN is `creative_writing_prompts_v3.json` of the benchmark's repository: an object of prompts, each
with a text that holds <SEED> and a list of `seed_modifiers`. As the benchmark does, every prompt is
written once per iteration, each time with the next modifier; so the evaluation takes --samples 1.

    python scripts/creative_writing_prompts.py creative_writing_prompts_v3.json OUT.jsonl
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mgsrl.files.jsonl import dump_line, write_atomic

SEED = "<SEED>"


def rows(prompts: dict[str, Any], iterations: int) -> list[dict[str, str]]:
    """One row per prompt and iteration; a prompt without modifiers has no row, as officially."""
    return [
        {
            "id": f"{name}-{iteration + 1}",
            "prompt": each["writing_prompt"].replace(SEED, modifiers[iteration % len(modifiers)]),
        }
        for name, each in prompts.items()
        if (modifiers := each.get("seed_modifiers"))
        for iteration in range(iterations)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", type=Path, metavar="IN.json")
    parser.add_argument("output", type=Path, metavar="OUT.jsonl")
    parser.add_argument("--iterations", type=int, default=3, help="of each prompt (default: 3)")
    options = parser.parse_args()
    try:
        prompts = json.loads(options.prompts.read_text(encoding="utf-8"))
        made = rows(prompts, options.iterations)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        parser.error(
            f"{options.prompts}: expected an object of prompts, each with writing_prompt and "
            f"seed_modifiers; found {type(error).__name__}: {error}"
        )
    write_atomic(options.output, "".join(map(dump_line, made)))
    print(f"{options.output}: {len(made)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
