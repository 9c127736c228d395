"""Rollouts that are ahead of the learners, as a checkpoint keeps them: `rollouts.jsonl`.

One prompt a line, with those of its responses that were made. A run that goes on makes the others,
from the same seeds; what is there is not made again, because its weights are gone. So no prompt is
passed over or trained on twice, and where all had been made the run goes on to the bit.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mgsrl.data.mixture import Mixture
from mgsrl.files.jsonl import read_rows
from mgsrl.rollout.sampler import Submission
from mgsrl.types import Prompt, Rollout

FILE = "rollouts.jsonl"

Ahead = dict[int, tuple[dict[str, list[Prompt]], list[Rollout]]]
"""By step: prompts by domain, and responses that are made."""


def write_in_flight(folder: Path, outstanding: Mapping[int, Submission]) -> None:
    """Write the file into a checkpoint's folder; none where nothing is ahead."""
    if outstanding:
        with (folder / FILE).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in _rows(outstanding))


def _rows(outstanding: Mapping[int, Submission]) -> Iterator[dict[str, Any]]:
    for step, submission in outstanding.items():
        made: dict[str, list[dict[str, Any]]] = {}
        for rollout in submission.made.values():
            of_prompt = rollout.request_id.rpartition("/")[0]
            made.setdefault(of_prompt, []).append(dataclasses.asdict(rollout))
        for domain, prompts in submission.prompts.items():
            for prompt in prompts:
                rollouts = made.get(f"{step}/{domain}/{prompt.id}", [])
                yield {"step": step, "domain": domain, "prompt": prompt.id, "rollouts": rollouts}


def read_in_flight(folder: Path, mixture: Mixture, *, responses: bool = True) -> Ahead:
    """What the checkpoint in `folder` holds of prompts that still take part.

    Args:
        responses: false leaves them out: all are made again.
    """
    ahead: Ahead = {}
    known: dict[str, dict[str, Prompt]] = {}
    for row in read_rows(folder / FILE):
        domain = row["domain"]
        if domain not in known:
            known[domain] = {prompt.id: prompt for prompt in mixture.prompts_of(domain)}
        prompt = known[domain].get(row["prompt"])
        if prompt is not None:
            prompts, rollouts = ahead.setdefault(row["step"], ({}, []))
            prompts.setdefault(domain, []).append(prompt)
            made = row["rollouts"] if responses else ()
            rollouts += [Rollout(**_tuples(rollout)) for rollout in made]
    return ahead


def as_submissions(ahead: Ahead, samples: int) -> dict[int, Submission]:
    """What was read and not asked for yet, to be written again.

    Args:
        samples: responses per prompt.
    """
    return {
        step: Submission(prompts, samples, {rollout.request_id: rollout for rollout in made})
        for step, (prompts, made) in ahead.items()
    }


def _tuples(value: Any) -> Any:
    """JSON's lists as the records have them."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
