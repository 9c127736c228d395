#!/usr/bin/env python
"""The three sets of prompts of `+experiment=smollm2`, from public files at hand.

    python scripts/real_model_data.py --from DIR --output data/smollm2

DIR holds `math/mawps_singleop.jsonl`, `math/svamp_test.jsonl`, `math/asdiv_test.jsonl`,
`chat/wildchat_if_train.parquet` and `if/synthetic_if_train.jsonl`, in their published layouts; each
has an option of its own, too. Written are `NAME_train.jsonl` and `NAME_heldout.jsonl` of math, chat
and instruction_following, and `math_warm.jsonl`: worked answers to problems that are in neither
split, for the supervised start (`scripts/real_model_start.py`).

What is taken is what a model of 135M parameters can earn something with in 64 tokens:

- math: one operation on two whole numbers up to 100 that the problem states. Of problems that
  differ in numbers and names alone one is taken.
- chat: short English requests in one line; they are asked for one or two sentences.
- instruction following: such requests with constraints that fit into 64 tokens. Its requests are
  not among those of chat.

The same files and seed give the same bytes; the sha256 of each is printed. Left out: any judgement
of the requests' content, which are of real users (WildChat) and not all polite.
"""

import argparse
import hashlib
import json
import random
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mgsrl.files.jsonl import dump_line, write_atomic

Row = dict[str, Any]
SOURCES = {
    "mawps": "math/mawps_singleop.jsonl",
    "svamp": "math/svamp_test.jsonl",
    "asdiv": "math/asdiv_test.jsonl",
    "chat": "chat/wildchat_if_train.parquet",
    "constraints": "if/synthetic_if_train.jsonl",
}
LARGEST = 100
"""Of the numbers of a problem and of its answer."""
HELD_OUT = {"math": 192, "chat": 192, "instruction_following": 128}
WARM = 96
"""Problems of the supervised start."""
REQUEST = 160
"""Characters of the longest request."""
BRIEF = "\nAnswer in one or two sentences."
BOXED = "\nGive the final answer in \\boxed{}."
OPERATORS: dict[str, Callable[[int, int], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b if b else float("nan"),
}
FIT = {
    "keywords:existence",
    "keywords:letter_frequency",
    "detectable_format:title",
    "detectable_format:number_highlighted_sections",
    "detectable_format:number_bullet_lists",
    "detectable_content:number_placeholders",
    "detectable_content:postscript",
    "startend:end_checker",
    "startend:quotation",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "punctuation:no_comma",
}
"""Constraints that a text of 64 tokens can meet and that most texts do not meet by themselves."""


def json_lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def problem(name: str, question: str, sides: tuple[float, ...], operator: str) -> Row | None:
    """A row with its worked answer; None where a number is not stated, not whole or too large."""
    stated = {float(text) for text in re.findall(r"\d+(?:\.\d+)?", question)}
    whole = [int(side) for side in sides if side == int(side)]
    if len(whole) != 2 or operator not in OPERATORS or not stated.issuperset(whole):
        return None
    answer = OPERATORS[operator](*whole)
    if not all(0 <= number <= LARGEST and number == int(number) for number in (*whole, answer)):
        return None
    a, b, c = *whole, int(answer)
    return {
        "id": name,
        "prompt": " ".join(question.split()) + BOXED,
        "answer": str(c),
        "response": f"{a} {operator} {b} = {c}. The answer is \\boxed{{{c}}}.",
    }


def mawps(path: Path) -> Iterable[Row | None]:
    """Without formulas: the operation is the one whose result is the answer."""
    for number, row in enumerate(json_lines(path)):
        sides = [float(text) for text in re.findall(r"\d+(?:\.\d+)?", row["input"])]
        if len(sides) == 2:
            orders = (tuple(sides), tuple(reversed(sides)))
            fitting = [
                (order, name)
                for order in orders
                for name, apply in OPERATORS.items()
                if apply(*map(int, order)) == row["target"]
            ]
            if fitting:
                yield problem(f"mawps-{number}", row["input"], *fitting[0])


def svamp(path: Path) -> Iterable[Row | None]:
    for row in json_lines(path):
        found = re.fullmatch(r"\( ([\d.]+) (.) ([\d.]+) \)", row["Equation"])
        body = row["Body"].strip()
        text = f"{body}{'' if body[-1] in '.,!?' else '.'} {row['Question']}"
        if found:
            a, operator, b = found.groups()
            yield problem(f"svamp-{row['idx']}", text, (float(a), float(b)), operator)


def asdiv(path: Path) -> Iterable[Row | None]:
    for row in json_lines(path):
        found = re.fullmatch(r"(\d+)([-+*/])(\d+)=\d+", row["formula"].replace(" ", ""))
        if found:
            a, operator, b = found.groups()
            text = f"{row['body']} {row['question']}"
            yield problem(f"asdiv-{row['idx']}", text, (float(a), float(b)), operator)


def kind_of(row: Row) -> str:
    """What problems have in common that differ in numbers and names alone."""
    return " ".join(re.sub(r"\d+|\b[A-Z]\w*", "_", row["prompt"]).lower().split())


def math_rows(options: argparse.Namespace) -> list[Row]:
    read = (mawps(options.mawps), svamp(options.svamp), asdiv(options.asdiv))
    kinds = {kind_of(row): row for rows in reversed(read) for row in rows if row}
    return list(kinds.values())


def short(request: str) -> bool:
    return len(request) <= REQUEST and request.isascii() and "\n" not in request


def constraint_rows(options: argparse.Namespace) -> list[Row]:
    return [
        {"id": row["key"], "request": row["base_prompt"], "prompt": row["prompt"]}
        | {name: row[name] for name in ("instruction_id_list", "kwargs")}
        for row in json_lines(options.constraints)
        if short(row["base_prompt"]) and set(row["instruction_id_list"]) <= FIT
    ]


def chat_rows(options: argparse.Namespace, others: set[str]) -> list[Row]:
    requests = {
        row["prompt"][-1]["content"].strip(): index
        for index, row in enumerate(pyarrow.parquet.read_table(options.chat).to_pylist())
    }
    return [
        {"id": f"wildchat-{index}", "prompt": text + BRIEF}
        for text, index in requests.items()
        if short(text) and text not in others and len(text.split()) > 3
    ]


def split(rows: list[Row], heldout: int, by: Callable[[Row], str], seed: str) -> list[list[Row]]:
    """Held-out and training rows, each in a random order; those with the same `by` together."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(by(row), []).append(row)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    shuffled = [row for name in order for row in groups[name]]
    while heldout < len(shuffled) and by(shuffled[heldout]) == by(shuffled[heldout - 1]):
        heldout += 1
    return [shuffled[:heldout], shuffled[heldout:]]


def prepared(options: argparse.Namespace) -> dict[str, list[Row]]:
    """File name without suffix -> its rows."""
    constrained = constraint_rows(options)
    taken = {row["request"].strip() for row in constrained}
    domains: dict[str, tuple[list[Row], Callable[[Row], str]]] = {
        "math": (math_rows(options), kind_of),
        "chat": (chat_rows(options, taken), lambda row: row["prompt"]),
        "instruction_following": (constrained, lambda row: row["request"]),
    }
    files = {}
    for name, (rows, by) in domains.items():
        heldout, training = split(rows, HELD_OUT[name], by, f"{name}/{options.seed}")
        files |= {f"{name}_heldout": heldout, f"{name}_train": training}
    files["math_warm"] = files["math_train"][:WARM]
    files["math_train"] = files["math_train"][WARM:]
    return files


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--from", dest="folder", type=Path, default=Path("data"), metavar="DIR")
    for name, usual in SOURCES.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"default: DIR/{usual}")
    parser.add_argument("--output", type=Path, default=Path("data/smollm2"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name, usual in SOURCES.items():
        path = getattr(options, name) or options.folder / usual
        if not path.is_file():
            parser.error(f"there is no file {path}: name it with --{name}, or its folder, --from")
        setattr(options, name, path)
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, rows in sorted(prepared(options).items()):
        path = options.output / f"{name}.jsonl"
        write_atomic(path, text := "".join(map(dump_line, rows)))
        print(f"{path}: {len(rows)} rows, sha256 {hashlib.sha256(text.encode()).hexdigest()}")


if __name__ == "__main__":
    main()
