"""scripts/reproduce.md as tests read it: its commands, and small stand-ins of each data set."""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mgsrl.cli import _parser, main
from mgsrl.commands.eval import plan
from mgsrl.config.model_path import ASSETS, POCKET_POLICY
from mgsrl.evaluate.runner import Evaluation
from tests.documented import ROOT, commands

PAGE = ROOT / "scripts" / "reproduce.md"
TEXT = PAGE.read_text(encoding="utf-8")
DIR, JUDGE = "runs/qwen_math_chat-mgs-seed0", "https://api.openai.com/v1"
LINES = [
    tuple(word.replace("$seed", "0").replace("$run", DIR) for word in words)
    for _, words in commands([PAGE])
]
"""Of a loop the first round."""
ROWS = 300
"""Of each set to train with: 250 of Nemotron's are held out."""
TABLE = ("python", "scripts/published_table.py")


def lines(*begin: str) -> list[tuple[str, ...]]:
    return [words for words in LINES if words[: len(begin)] == begin]


def constrained(number: int) -> dict[str, Any]:
    return {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"keyword": None}]}


STAND_INS: dict[str, Any] = {
    "simplerl": lambda n: {
        "prompt": [{"role": "user", "content": "another model's template"}],
        "question": f"{n} + 1?",
        "reward_model": {"ground_truth": "" if n == 7 else str(n + 1), "style": "rule"},
    },
    "wildchat_if": lambda n: {
        "data_source": "wildchat-if",
        "prompt": [{"role": "user", "content": f"Hello {n}?"}],
        "ability": "chat",
        "reward_model": {"style": "model"},
        "extra_info": {"index": n % 5, "split": "train"},
    },
    "nemotron_if": lambda n: {
        "input": [{"role": "user", "content": f"Write {n} words. Use no commas."}],
        "args": {
            "instruction_id_list": ["punctuation:no_comma"],
            "instruction_kwargs": [{"num_bullets": None}],
            "task": "instruction_following",
        },
        "license": "odc-by",
        "system_prompt": "detailed thinking off",
    },
    "math500": lambda n: {"problem": f"{n}?", "answer": str(n), "unique_id": "a", "level": 1},
    "gsm8k": lambda n: {"question": f"{n}?", "answer": f"so\n#### {n}"},
    "aime24": lambda n: {"id": n, "problem": f"{n}?", "answer": f"{n:03}", "year": "2024"},
    "ifbench": lambda n: {"key": str(n), "prompt": f"Write {n} words.", **constrained(n)},
    "wildbench": lambda n: {
        "session_id": f"s{n}",
        "conversation_input": [{"role": "user", "content": f"Hi {n}", "language": "English"}],
        "references": {"gpt-4": "Hello."},
        "checklist": ["Is it polite?"],
    },
    "alpaca_eval": lambda n: {
        "instruction": f"Name {n} trees.",
        "output": "Oak.",
        "generator": "gpt4_1106_preview",
    },
}
"""Name -> a row as the published file has it."""
WRITING = {
    "1": {"writing_prompt": "A scene. <SEED> 1000 words.", "seed_modifiers": ["Rain.", "Snow."]},
    "2": {"writing_prompt": "No seeds."},
}


@contextmanager
def prepared(folder: Path) -> Iterator[Path]:
    """A clone's root, where one is then, after section 2 of the page: everything is prepared."""
    for name in ("configs", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("wildchat-if_train.parquet", "wildchat-if_val.parquet"):
        rows = pyarrow.Table.from_pylist([STAND_INS["wildchat_if"](n) for n in range(ROWS)])
        pyarrow.parquet.write_table(rows, folder / name)
    (folder / "creative_writing_prompts_v3.json").write_text(json.dumps(WRITING))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MGSRL_DATA", raising=False)
        for words in lines("mgsrl", "data", "prepare"):
            assert main([*words[1:], *local_copy(words[3])]) == 0, words
        (script,) = lines("python", "scripts/creative_writing_prompts.py")
        subprocess.run([sys.executable, *script[1:]], check=True, timeout=60)
        shutil.copytree(ASSETS / POCKET_POLICY, folder / DIR)
        shape = json.loads((folder / DIR / "config.json").read_text())
        long = json.dumps(shape | {"max_position_embeddings": 32_768})
        (folder / DIR / "config.json").write_text(long)
        yield folder


def local_copy(name: str) -> list[str]:
    """`--from FILE` for a set of the hub; nothing for one whose file the page itself names."""
    if name == "wildchat_if":
        return []
    file = Path(f"{name}.published.jsonl")
    text = "".join(json.dumps(STAND_INS[name](number)) + "\n" for number in range(ROWS))
    file.write_text(text)
    return ["--from", str(file)]


def planned(words: tuple[str, ...], *more: str) -> tuple[argparse.Namespace, Evaluation]:
    options = _parser().parse_args([*words[1:], *more])
    return options, plan(options)[0]
