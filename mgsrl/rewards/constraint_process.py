"""The process in which responses are checked against constraints; see `constraint_checker.py`.

A request is `{"text": str, "strict": bool, "reading": str, "constraints": [[id, arguments],
...], "gates": [...]}`.
Its reply is `{"constraints": [bool, ...], "gates": [bool, ...]}` or `{"error": str}`.
"""

from collections.abc import Sequence
from typing import Any

from mgsrl.constraints import CannotDecideError, bind, follows
from mgsrl.constraints.language import detect
from mgsrl.constraints.sentences import sentences
from mgsrl.rewards.child_serve import serve


def judge(request: dict[str, Any]) -> dict[str, Any]:
    """The verdict on each constraint and each gate."""
    text, how = request["text"], {name: request[name] for name in ("strict", "reading")}

    def verdicts(bound: Sequence[Sequence[Any]]) -> list[bool]:
        return [follows(bind(id_, arguments), text, **how) for id_, arguments in bound]

    try:
        return {name: verdicts(request[name]) for name in ("constraints", "gates")}
    except CannotDecideError as error:
        return {"error": str(error)}


def main() -> None:
    """Serve; the first sentence and the first language read the tables that all others use."""
    serve(judge, lambda: (sentences("One. Two."), detect("The first language of all.")))
