"""Every arm of the study is a run that would start, and none is another under a second name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from study_arms import ARMS, EVERY, LATER, MAIN, MERGED, POSITIONS, STEPS, overrides_of, seeds_of
from study_inputs import inputs_of

from mgsrl.config.compose import compose_config, config_to_yaml
from mgsrl.rewards.pocket_conflict import HABITS
from mgsrl.training.plan import check_parts, schedule_of


def test_every_arm_composes_with_equal_budgets_and_is_no_other() -> None:
    composed, budgets = {}, set()
    for number, arm in enumerate((*ARMS, *LATER)):
        conflict = POSITIONS[number % len(POSITIONS)]
        words = [word.replace("{", "").replace("}", "") for word in overrides_of(arm, conflict)]
        config = compose_config(words if inputs_of(arm) else overrides_of(arm, conflict))
        assert config.train.num_steps == STEPS
        assert {d.reward.options.conflict for d in config.domains.values()} == {conflict}
        check_parts(config)  # methods, rewards, engine and model are there
        schedule = schedule_of(config)
        steps = range(config.train.num_steps)
        prompts = [sum(schedule.phase(step).quotas.values()) for step in steps]
        budgets.add((len(prompts), *prompts, config.algo.samples_per_prompt))
        composed[config_to_yaml(config).replace(f"conflict: {conflict}", "")] = arm
    assert len(composed) == len(ARMS) + len(LATER)
    assert len(budgets) == 1


def test_the_arms_of_the_questions_are_there() -> None:
    assert set(MAIN) < set(ARMS)
    assert {f"single_{domain}" for domain in HABITS} < set(ARMS)
    assert {len(seeds_of(arm)) for arm in MAIN} == {8}
    assert min(len(seeds_of(arm)) for arm in EVERY) == 5


def test_what_is_made_of_other_runs_is_made_of_the_single_ones() -> None:
    singles = tuple(f"single_{domain}" for domain in HABITS)
    made = {arm: inputs_of(arm) for arm in EVERY if inputs_of(arm)}
    assert made == dict.fromkeys(["mopd", *MERGED], singles)
