"""The constraint reward: the fraction of the prompt's constraints that the response follows.

Gates are conditions without which the reward is 0 (the pocket's "stay on topic"); they are no part
of the fraction. A constraint that cannot be judged (no detector for the language) makes the item
abstain, since a fraction without it would be another reward. The checks run in a process of their
own (`child.py`), which is killed and replaced when a response takes longer than its time limit;
that item abstains too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mgsrl.config.require import one_of
from mgsrl.config.reward import OFFICIAL, READINGS, TRAINING
from mgsrl.rewards.in_child import ChildConfig, ChildReward
from mgsrl.rewards.protocol import Golden, RewardItem
from mgsrl.types import Reward

if TYPE_CHECKING:
    from mgsrl.constraints import BoundConstraint

CREDITS = ("fraction", "all")


@dataclass
class ConstraintsConfig(ChildConfig):
    credit: str = "fraction"
    """`fraction` of the constraints met, or 1 only for `all` of them."""
    strict: bool = True
    """false also accepts IFEval's loose variants of the response."""
    reading: str = TRAINING
    """`official` gives the verdicts of the released checkers of IFEval and IFBench, quirks included
    (docs/rewards.md has the differences); for benchmarks."""

    def validate(self, key: str) -> None:
        super().validate(key)
        one_of(f"{key}.credit", self.credit, CREDITS)
        one_of(f"{key}.reading", self.reading, READINGS)


class ConstraintChecker(ChildReward):
    """See the module."""

    Config = ConstraintsConfig
    requires = ("instruction_id_list", "kwargs")
    accepts = ("gates",)
    needs_prompt = False
    exact = True
    items_per_call = 128  # small enough to spread over workers
    metric = "constraints"
    domain = "instruction_following"
    process_module = "mgsrl.rewards.constraint_process"
    golden = Golden(
        "Name a fruit. Write the word plum and no comma.",
        "A plum grows on a tree.",
        "An apple, perhaps.",
        {
            "instruction_id_list": ["keywords:existence", "punctuation:no_comma"],
            "kwargs": [{"keywords": ["plum"]}, {}],
        },
    )

    def validate_reference(self, reference: Mapping[str, Any]) -> None:
        from mgsrl.constraints import validate_reference  # here: a third of a second, for few

        validate_reference(reference)

    def request(self, item: RewardItem) -> dict[str, Any]:
        from mgsrl.constraints import parse_reference

        reference = parse_reference(item.reference)
        return {
            # The released checkers see the white space around a response.
            "text": item.as_written if self.config.reading == OFFICIAL else item.text,
            "strict": self.config.strict,
            "reading": self.config.reading,
            "constraints": _for_json(reference.constraints),
            "gates": _for_json(reference.gates),
        }

    def verdict(self, reply: Mapping[str, Any]) -> Reward:
        met, gates = reply["constraints"], reply["gates"]
        value = sum(met) / len(met) if self.config.credit == "fraction" else float(all(met))
        details: dict[str, object] = {"followed": met}
        if gates:
            details["gates"] = gates
        return Reward(value if all(gates) else 0.0, details=details)

    def without_block(self, reference: Mapping[str, Any]) -> Mapping[str, Any]:
        """Nothing was written where the answer belongs, so nothing was followed."""
        return {"followed": [False] * len(reference.get("instruction_id_list") or ())}

    def describe(self) -> str:
        how = " as the released checkers decide" if self.config.reading == OFFICIAL else ""
        return f"the constraint checker{how}"


def _for_json(bound: "Sequence[BoundConstraint]") -> list[tuple[str, dict[str, object]]]:
    return [(each.constraint.id, dict(each.arguments)) for each in bound]
