"""What a resumed run may change."""

import pytest

from mgsrl.config.compose import compose_config
from mgsrl.config.resume import resume_obstacles

CHAT = "domains.chat.reward"
JUDGED = [f"{CHAT}.kind=judge", f"{CHAT}.url=http://a", f"{CHAT}.model=a"]


@pytest.mark.parametrize(
    ("old", "new", "refused", "noted"),
    [
        ([], ["train.num_steps=60"], "", ""),
        ([], ["checkpoint.every=1", "trackers.wandb=disabled"], "", ""),
        ([], ["surgery.alarm_dominance=0.8", "surgery.alarm_projected=1"], "", ""),
        ([], ["evaluate.every=3", "evaluate.forgetting_alarm=0.2"], "", ""),
        ([], ["learner.world_size=2", "learner.zero_stage=3"], "", "learner.zero_stage: 2 -> 3"),
        ([], ["algo.clip_low=0.1"], "algo.clip_low", ""),
        ([], ["evaluate.prompts_per_domain=64"], "evaluate.prompts_per_domain", ""),
        (["strategy=sequential"], ["strategy=sequential", "train.num_steps=60"], "num_steps", ""),
        (
            ["learner.optimizer.schedule=cosine"],
            ["learner.optimizer.schedule=cosine", "train.num_steps=60"],
            "num_steps",
            "",
        ),
        (["domains.math.reward.num_workers=2"], ["domains.math.reward.max_restarts=9"], "", ""),
        (JUDGED, [*JUDGED, f"{CHAT}.url=http://b", f"{CHAT}.max_retries=9"], "", ""),
        (JUDGED, [*JUDGED, f"{CHAT}.model=b"], "domains.chat.reward.model", ""),
        ([], ["domains.math.num_workers=2"], "", "another layout"),
        ([], ["domains.math.reward.time_limit_s=9"], "domains.math.reward.time_limit_s", ""),
        ([], ["domains.math.weight=2"], "", "another mixture: domains.math.weight: 1.0 -> 2.0"),
        ([], ["domains.math.schedule=[[0,1],[9,0.5]]"], "", "domains.math.schedule"),
        ([], ["algo.prompts_per_domain=3"], "", "algo.prompts_per_domain"),
        ([], ["data.mixing_temperature=3"], "", "data.mixing_temperature"),
        (["~domains.chat"], [], "", "another mixture: chat added"),
        ([], ["~domains.chat"], "", "another mixture: chat removed"),
        (["~domains.chat", "algo.clip_low=0.1"], [], "algo.clip_low", ""),
        (["strategy=sequential", "~domains.chat"], ["strategy=sequential"], "one phase each", ""),
        ([], ["+domains.math.extra_sources={web: {size: 9}}"], "", "math.extra_sources.web added"),
        (
            ["+domains.math.extra_sources={web: {size: 9}}"],
            ["+domains.math.extra_sources={web: {size: 8}}"],
            "domains.math.extra_sources.web.size: 9 -> 8",
            "",
        ),
        (
            ["+domains.math.extra_sources={web: {weight: 9}}"],
            ["+domains.math.extra_sources={web: {weight: 8}}"],
            "",
            "domains.math.extra_sources.web.weight: 9.0 -> 8.0",
        ),
        ([], ["strategy.domain_order=[math,chat]"], "", "strategy.domain_order"),
    ],
)
def test_what_may_change_when_going_on(
    old: list[str], new: list[str], refused: str, noted: str
) -> None:
    notes: list[str] = []
    changed = resume_obstacles(compose_config(old), compose_config(new), notes.append)
    assert (refused in "; ".join(changed)) if refused else changed == []
    assert (noted in "; ".join(notes)) if noted else notes == []
