"""From a configuration to the quotas and sources of a run, without any actor."""

import json
from pathlib import Path

import pytest

from mgsrl.config.compose import compose_config
from mgsrl.errors import DataError
from mgsrl.training.plan import Plan, plan

SMALL = ("rollout.engine=transformers", "evaluate.prompts_per_domain=0")


def planned(*overrides: str) -> Plan:
    return plan(compose_config([*SMALL, *overrides]))


@pytest.mark.parametrize(("temperature", "quotas"), [(1, [64, 16, 4]), (2, [48, 24, 12])])
def test_a_step_may_be_shared_by_size(temperature: int, quotas: list[int]) -> None:
    ready = planned(
        "domains.math.source.size=320",
        "domains.chat.source.size=80",
        "domains.instruction_following.source.size=20",
        f"data.mixing_temperature={temperature}",
        "data.prompts_per_step=84",
    )
    assert list(ready.schedule.phase(0).quotas.values()) == quotas


def test_what_became_of_the_rows_is_known_by_source(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{n} + 1?", "answer": n + 1} for n in range(20)]
    rows += [{"prompt": "no answer"}, {"prompt": "word " * 400, "answer": 1}]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    own = f"+domains.math.extra_sources={{own: {{kind: file, path: {path}, bad_rows: skip}}}}"
    ready = planned(own, "data.overlong=drop", "algo.prompts_per_domain=4")
    counts = {"kept": 20, "truncated": 0, "dropped": 1, "skipped": 1}
    assert {**ready.data["math/own"], "digest": None} == {**counts, "digest": None}
    assert ready.data["math"]["kept"] == 2000
    (note,) = ready.notes
    assert note == (
        "math/own: 20 prompts, 0 of them truncated; 1 dropped as longer than "
        "data.max_prompt_tokens, 1 bad rows left out"
    )
    batch = ready.mixture.next_prompts(ready.schedule.phase(0).quotas)["math"]
    assert sum(prompt.id.startswith("own/rows-") for prompt in batch) == 2
    with pytest.raises(DataError, match="fewer prompts than one step takes"):
        planned(own, "data.overlong=drop", "algo.prompts_per_domain=50")


def test_rows_are_told_from_others_behind_the_same_path(tmp_path: Path) -> None:
    """Held-out ones too, and by the answers that rewards are given."""
    path = tmp_path / "rows.jsonl"
    heldout = f"domains.math.heldout={{kind: file, path: {path}}}"

    def digests(answer: int, *overrides: str) -> dict[str, str]:
        path.write_text(json.dumps({"prompt": "1 + 1?", "answer": answer}) + "\n")
        words = (heldout, "evaluate.prompts_per_domain=8", "algo.prompts_per_domain=4", *overrides)
        return {name: facts["digest"] for name, facts in planned(*words).data.items()}

    two, three = digests(2), digests(3)
    assert {name for name in two if two[name] != three[name]} == {"math (held out)"}
    assert digests(2, "policy.prompt_template=prompted", "seed=7") == two
    assert len({*two.values()}) == len(two) == 6


def test_a_domain_of_weight_0_is_not_even_read(tmp_path: Path) -> None:
    absent = [f"domains.math.source.path={tmp_path / 'none'}", "domains.math.source.kind=file"]
    ready = planned(*absent, "domains.math.weight=0", "algo.prompts_per_domain=4")
    assert ready.schedule.phase(0).quotas == {"chat": 6, "instruction_following": 6}
