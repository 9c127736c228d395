"""The constraint reward: the fraction of the prompt's constraints that the response follows.

Gates are conditions without which the reward is 0 (the pocket's "stay on topic"); they are no part
of the fraction. A constraint that cannot be judged (no detector for the language) makes the item
abstain, since a fraction without it would be another reward. The checks run in a process of their
own (`child.py`), which is killed and replaced when a response takes longer than its time limit;
that item abstains too.
"""

from collections.abc import Sequence
from dataclasses import replace

from mgsrl.config.reward import OFFICIAL, TRAINING
from mgsrl.constraints import BoundConstraint, parse_reference
from mgsrl.errors import DataError
from mgsrl.rewards.child import ChildProcess, ProcessLostError
from mgsrl.rewards.extract import CLOSE_THINK, OPEN_THINK, Extraction, extract_response
from mgsrl.rewards.protocol import RewardItem
from mgsrl.types import Reward


class ConstraintChecker:
    """See the module.

    Args:
        credit: `fraction`, or `all` for 1 only when every constraint is followed.
        strict: false also accepts IFEval's loose variants.
        reading: `official` for the verdicts of the released checkers.
        missing_tag: what a response without a `<response>` block gets, see `extract.py`.
        time_limit_s: per response; the process is killed after it.
        memory_limit_mib: address space of the process.
    """

    def __init__(
        self,
        *,
        credit: str = "fraction",
        strict: bool = True,
        reading: str = TRAINING,
        missing_tag: str = "zero",
        time_limit_s: float = 5.0,
        memory_limit_mib: int = 1024,
    ) -> None:
        self.credit = credit
        self.strict = strict
        self.reading = reading
        self.missing_tag = missing_tag
        self.process = ChildProcess(
            "mgsrl.rewards.constraint_process",
            time_limit_s=time_limit_s,
            memory_limit_mib=memory_limit_mib,
            name="constraint checker",
        )

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        return [self._score(item) for item in items]

    def close(self) -> None:
        self.process.stop()

    def _score(self, item: RewardItem) -> Reward:
        extraction = extract_response(item.response, self.missing_tag)
        if extraction.verdict is not None:
            return self._without_block(item, extraction.verdict)
        try:
            reference = parse_reference(item.reference)
            request = {
                "text": self._text(item.response, extraction),
                "strict": self.strict,
                "reading": self.reading,
                "constraints": _for_json(reference.constraints),
                "gates": _for_json(reference.gates),
            }
            reply = self.process.ask(request)
        except (ProcessLostError, DataError) as error:
            return Reward(None, extraction.format_ok, error=str(error))
        if "error" in reply:
            return Reward(None, extraction.format_ok, error=reply["error"])
        met, gates = reply["constraints"], reply["gates"]
        value = sum(met) / len(met) if self.credit == "fraction" else float(all(met))
        details: dict[str, object] = {"followed": met}
        if gates:
            details["gates"] = gates
        return Reward(value if all(gates) else 0.0, extraction.format_ok, details=details)

    def _text(self, response: str, extraction: Extraction) -> str:
        """What is checked. The released checkers see the white space around a response; where a
        block was cut out or reasoning taken away, there is none."""
        whole = not extraction.format_ok and OPEN_THINK not in response
        if whole and CLOSE_THINK not in response and self.reading == OFFICIAL:
            return response
        return extraction.text or ""

    def _without_block(self, item: RewardItem, verdict: Reward) -> Reward:
        """Nothing was written where the answer belongs, so nothing was followed."""
        if verdict.abstained:
            return verdict
        ids = item.reference.get("instruction_id_list") or ()
        return replace(verdict, details={**verdict.details, "followed": [False] * len(ids)})


def _for_json(bound: Sequence[BoundConstraint]) -> list[tuple[str, dict[str, object]]]:
    return [(each.constraint.id, dict(each.arguments)) for each in bound]
