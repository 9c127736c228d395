"""How far advantages, losses and weights are from their references: the table in docs/algorithm.md.

    python scripts/agreement.py            # prints it
    python scripts/agreement.py --docs     # writes it into the page

Computed from the recorded numbers in `tests/data/extracts`, by what the tests compare (where ours
differs on purpose, such as a group that tells nothing, they say so). A difference below `EXACT` is
rounding of float64 and of recorded digits, which differs between machines.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

os.environ["MGSRL_ORACLES"] = str(Path(__file__).resolve().parents[1] / "tests/data/extracts")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from pages import write_between
from torch import Tensor

from mgsrl.config.algo import ADVANTAGES, LOSSES
from tests.algo import test_advantages, test_estimators, test_importance, test_kl, test_losses
from tests.algo import test_policy_losses as others
from tests.rewards import test_shaping

PAGE = Path(__file__).resolve().parents[1] / "docs" / "algorithm.md"
MARKS = ("<!-- agreement -->\n", "<!-- end of agreement -->")
EXACT = 1e-12
VERL, OLDER_VERL = "verl-project/verl 1dda039b", "volcengine/verl b178a3cd"
MAXRL, TRL = "tajwarfahim/maxrl c0698ebb", "huggingface/trl 1.16.0"


class Row(NamedTuple):
    part: str
    reference: str
    cases: int
    value: float
    """The largest absolute difference."""
    gradient: float | None = None


def apart(ours: Any, theirs: Any) -> float:
    pair = (torch.as_tensor(values, dtype=torch.float64) for values in (ours, theirs))
    return torch.sub(*pair).abs().max().item()


def row(part: str, reference: str, found: Iterable[tuple[float, float | None]]) -> Row:
    """Of the differences (value, gradient) of each case."""
    values, gradients = zip(*found, strict=True)
    known = [each for each in gradients if each is not None]
    return Row(part, reference, len(values), max(values), max(known) if known else None)


def advantages() -> Iterator[Row]:
    cases = [test_advantages.both(*each.values) for each in test_advantages.golden_cases()]
    yield row("`algo.advantage=grpo`", OLDER_VERL, [(apart(*both), None) for both in cases])
    for name in (name for name in ADVANTAGES.members if name != "grpo"):
        columns = (name, name + test_estimators.WITHOUT_STD)
        found = [
            (apart(*test_estimators.both(case, column)[:2]), None)
            for case in test_estimators.CASES
            for column in case["advantages"]
            if column in columns
        ]
        yield row(f"`algo.advantage={name}`", MAXRL if name == "maxrl" else VERL, found)


def losses() -> Iterator[Row]:
    def differences(case: Mapping[str, Any], value: float, gradient: Tensor) -> tuple[float, float]:
        return apart(value, case["value"]), apart(gradient, case["grad_log_prob"])

    ppo = [each.values for each in test_losses.golden("policy_loss")]
    found = [differences(case, *test_losses.computed(case, given)[:2]) for case, given in ppo]
    yield row("`algo.loss=ppo`", OLDER_VERL, found)
    for name in (name for name in LOSSES.members if name != "ppo"):
        found = []
        for case in (case for case in others.DATA["cases"] if case["loss"] == name):
            output, gradient, _ = others.computed(case)
            found.append(differences(case, output.loss.item(), gradient))
        yield row(f"`algo.loss={name}`", VERL, found)


def importance() -> Iterator[Row]:
    by_mask: dict[str, list[tuple[float, float]]] = {}
    for each in test_importance.CASES:
        case, aggregation = each.values
        weights, value, gradient, _ = test_importance.computed(case, aggregation)
        theirs = case["losses"][aggregation]
        values = max(apart(weights, case["weights"]), apart(value, theirs["value"]))
        kind = case["ours"].get("importance_mask", "none")
        by_mask.setdefault(kind, []).append((values, apart(gradient, theirs["grad_log_prob"])))
    for kind, found in by_mask.items():
        yield row(f"`algo.importance_mask={kind}`", VERL, found)


def kl() -> Row:
    found = []
    for (case,) in (each.values for each in test_kl.golden_cases()):
        tokens, mean, gradient = test_kl.computed(case)
        values = max(apart(tokens, case["per_token"]), apart(mean, case["token_mean"]))
        found.append((values, apart(gradient, case["grad_log_prob"])))
    return row("`algo.kl_estimator`", OLDER_VERL, found)


def overlong() -> Row:
    found = [(apart(*both), None) for both in test_shaping.overlong_cases()]
    return row("`reward.overlong_buffer`", TRL, found)


def table() -> str:
    def shown(difference: float | None) -> str:
        if difference is None:
            return "–"
        return f"{difference:.0e}" if difference > EXACT else f"below {EXACT:.0e}"

    lines = ["| part | reference | cases | value | gradient |", "|---|---|---|---|---|"]
    for each in (*advantages(), *losses(), *importance(), kl(), overlong()):
        cells = (each.reference, each.cases, shown(each.value), shown(each.gradient))
        lines.append(f"| {each.part} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--docs"]:
        write_between(PAGE, MARKS, table())
    else:
        print(table(), end="")
