"""`docs/capabilities.md` from what tests showed (`tests/capabilities.jsonl`; `make capabilities`).

A combination without a test is untested, whatever one may expect of it. Left out: what a number of
processes or a machine changes; the tests run on CPUs.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "tests" / "capabilities.jsonl"
PAGE = ROOT / "docs" / "capabilities.md"
HEAD = """\
# Capabilities

What was seen to work, and what is refused with a message before anything starts. Written by
`make capabilities` from the tests that passed, on CPUs; everything else is **untested**, which does
not mean that it fails. What tests on GPUs would show (NCCL, tensor parallelism) is not here.
"""
LEARNER = """
## Learner

The numbers are ZeRO stages (`learner.zero_stage`), those in bold are tested; the columns are
`policy.lora.rank` and `learner.dtype`.
"""
ENGINES = """
## Rollout engines

`rollout.engine` and `rollout.dtype`.
"""
EVIDENCE = """
## The tests behind it
"""
STAGES = (0, 1, 2, 3)
DTYPES = ("float32", "bfloat16")
NAMES = ("vllm", "transformers")
Record = Mapping[str, Any]


def status(records: Iterable[Record], **where: Any) -> str:
    """`tested`, `refused` or `untested`; what a record leaves open fits everything.

    A refusal of one part (a stage and a type, say) refuses every feature with it, so its record
    has no feature.
    """
    fitting = {
        record["status"]
        for record in records
        if all(
            record[key] == value
            or (record[key] is None and (key != "feature" or record["status"] == "refused"))
            for key, value in where.items()
        )
    }
    return next((name for name in ("tested", "refused") if name in fitting), "untested")


def _stages(records: list[Record], **where: Any) -> str:
    """`0 1 2`, `3 refused`, ... of one cell."""
    found = {stage: status(records, zero=stage, **where) for stage in STAGES}
    parts = []
    for name, form in (
        ("tested", "**{}**"),
        ("refused", "{} refused"),
        ("untested", "{} untested"),
    ):
        stages = " ".join(str(stage) for stage, value in found.items() if value == name)
        parts += [form.format(stages)] if stages else []
    return ", ".join(parts) if len(parts) > 1 else parts[0].replace("0 1 2 3 untested", "untested")


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def page(records: list[Record]) -> str:
    """The whole page."""
    learner = [r for r in records if r["zero"] is not None or r["lora"] is not None]
    engines = [r for r in records if r["engine"] is not None]
    parameters = [(lora, dtype) for lora in (False, True) for dtype in DTYPES]
    served = [(engine, dtype) for engine in NAMES for dtype in DTYPES]
    first = _table(
        [
            "",
            *(f"{'adapters' if lora else 'all parameters'}, {dtype}" for lora, dtype in parameters),
        ],
        (
            [name, *(_stages(learner, feature=name, lora=lo, dtype=d) for lo, d in parameters)]
            for name in dict.fromkeys(r["feature"] for r in learner if r["feature"])
        ),
    )
    second = _table(
        ["", *(f"{engine}, {dtype}" for engine, dtype in served)],
        (
            [name, *(status(engines, feature=name, engine=e, dtype=d) for e, d in served)]
            for name in dict.fromkeys(r["feature"] for r in engines if r["feature"])
        ),
    )
    tests: dict[str, set[str]] = {}
    for record in records:
        name = record["feature"] or "a combination that is refused"
        tests.setdefault(name, set()).add(record["test"].partition("[")[0])
    third = _table(
        ["", "tests"],
        ([name, ", ".join(f"`{test}`" for test in sorted(found))] for name, found in tests.items()),
    )
    return "\n".join([HEAD + LEARNER, first + ENGINES, second + EVIDENCE, third])


def read() -> list[Record]:
    """The records, each once, in the order of the file."""
    lines = dict.fromkeys(RECORDS.read_text(encoding="utf-8").splitlines())
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    RECORDS.write_text("".join(dict.fromkeys(RECORDS.open(encoding="utf-8"))), encoding="utf-8")
    PAGE.write_text(page(read()), encoding="utf-8")
