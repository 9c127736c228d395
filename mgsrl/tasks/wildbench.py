"""WildBench: conversations of real users, with a checklist for the judge and GPT-4's answers."""

from collections.abc import Mapping
from typing import Any

from mgsrl.tasks import Sampling, Split, Task


def conversation(record: dict[str, Any]) -> dict[str, Any]:
    """The conversation up to the last user turn, the checklist as the judge's reference and GPT-4's
    answer as the baseline."""
    if "conversation_input" not in record:
        return record
    messages, checklist = record["conversation_input"], record.get("checklist") or []
    # What is no list of messages, or of criteria, is left as it is for the reader to refuse.
    if isinstance(messages, list) and all(isinstance(each, Mapping) for each in messages):
        messages = [{"role": each.get("role"), "content": each.get("content")} for each in messages]
    if isinstance(checklist, list):
        checklist = "\n".join(f"- {item}" for item in checklist)
    answers = record.get("references")
    baseline = answers.get("gpt-4") if isinstance(answers, Mapping) else None
    if isinstance(baseline, list):
        baseline = next(iter(baseline), None)
    id_ = record.get("session_id", record.get("id"))
    return {"messages": messages, "id": id_, "reference": checklist, "baseline": baseline}


TASK = Task(
    about="chat: conversations of real users, scored with a checklist or against GPT-4",
    reward={"kind": "reward_model"},
    test=Split("allenai/WildBench:v2", "test", rows=1_024),
    convert=conversation,
    sampling=Sampling(temperature=0.0, max_new_tokens=4096),
    citation="Lin et al., arXiv 2406.04770",
    unverified="the layout of `references`",
)
