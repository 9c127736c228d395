"""What a resumed run may change."""

from pathlib import Path

import pytest

from mgsrl.config.compose import checked_config, compose_config
from mgsrl.config.resume import (
    ANOTHER,
    FREE,
    LAYOUT,
    MIXTURE,
    Change,
    other_data_allowed,
    resume_changes,
)
from mgsrl.errors import ConfigError

CHAT = "domains.chat.reward"
JUDGED = [f"{CHAT}.kind=judge", f"{CHAT}.url=http://a", f"{CHAT}.model=a"]
SEQUENTIAL = ["strategy=sequential"]
COSINE = ["learner.optimizer.schedule=cosine"]
MORE = "+domains.math.extra_sources"


def _changes(old: list[str], new: list[str]) -> dict[str, Change]:
    return {each.key: each for each in resume_changes(compose_config(old), compose_config(new))}


@pytest.mark.parametrize(
    ("old", "new", "key", "text", "effect"),
    [
        ([], ["train.num_steps=60"], "train.num_steps", "30 -> 60", FREE),
        ([], ["checkpoint.every=1"], "checkpoint.every", "10 -> 1", FREE),
        ([], ["surgery.alarm_dominance=0.8"], "surgery.alarm_dominance", "-> 0.8", FREE),
        ([], ["evaluate.forgetting_alarm=0.2"], "evaluate.forgetting_alarm", "-> 0.2", FREE),
        ([], ["learner.zero_stage=3"], "learner.zero_stage", "2 -> 3", LAYOUT),
        ([], ["rollout.sync.canary_threshold=9"], "rollout.sync.canary_threshold", "9.0", FREE),
        ([], ["learner.share_prompts=never"], "learner.share_prompts", "never", LAYOUT),
        ([], [f"{CHAT}.batch_size=9"], f"{CHAT}.batch_size", "-> 9", LAYOUT),
        ([], ["algo.clip_low=0.1"], "algo.clip_low", "0.2 -> 0.1", ANOTHER),
        ([], ["evaluate.prompts_per_domain=64"], "evaluate.prompts_per_domain", "64", ANOTHER),
        (SEQUENTIAL, [*SEQUENTIAL, "train.num_steps=60"], "train.num_steps", "depends", ANOTHER),
        (COSINE, [*COSINE, "train.num_steps=60"], "train.num_steps", "depends on it", ANOTHER),
        ([], ["domains.math.reward.max_restarts=9"], "domains.math.reward.max_restarts", "9", FREE),
        (JUDGED, [*JUDGED, f"{CHAT}.url=http://b"], f"{CHAT}.url", "'http://a' ->", FREE),
        (JUDGED, [*JUDGED, f"{CHAT}.model=b"], f"{CHAT}.model", "'a' -> 'b'", ANOTHER),
        ([], ["domains.math.num_workers=2"], "domains.math.num_workers", "2", LAYOUT),
        ([], ["domains.math.reward.time_limit_s=9"], "domains.math.reward.time_limit_s", "9.0",
         ANOTHER),
        ([], ["domains.math.weight=2"], "domains.math.weight", "1.0 -> 2.0", MIXTURE),
        ([], ["domains.math.schedule=[[0,1],[9,0.5]]"], "domains.math.schedule", "[] ->", MIXTURE),
        ([], ["algo.prompts_per_domain=3"], "algo.prompts_per_domain", "8 -> 3", MIXTURE),
        ([], ["data.mixing_temperature=3"], "data.mixing_temperature", "None -> 3.0", MIXTURE),
        (["~domains.chat"], [], "domains.chat", "added", MIXTURE),
        ([], ["~domains.chat"], "domains.chat", "removed", MIXTURE),
        (["~domains.chat", "algo.clip_low=0.1"], [], "algo.clip_low", "0.1 -> 0.2", ANOTHER),
        ([*SEQUENTIAL, "~domains.chat"], SEQUENTIAL, "strategy.domain_order", "one phase", ANOTHER),
        ([], [MORE + "={web: {size: 9}}"], "domains.math.extra_sources.web", "added", MIXTURE),
        (
            [MORE + "={web: {size: 9}}"],
            [MORE + "={web: {size: 8}}"],
            "domains.math.extra_sources.web.size",
            "9 -> 8",
            ANOTHER,
        ),
        (
            [MORE + "={web: {weight: 9}}"],
            [MORE + "={web: {weight: 8}}"],
            "domains.math.extra_sources.web.weight",
            "9.0 -> 8.0",
            MIXTURE,
        ),
        ([], ["strategy.domain_order=[math,chat]"], "strategy.domain_order", "'chat']", MIXTURE),
        (
            ["strategy.phases=[{domains: [math]}, {domains: [chat], steps: 4}]"],
            ["strategy.phases=[{domains: [math]}, {domains: [chat], steps: 5}]"],
            "strategy.phases.1.steps",
            "4 -> 5",
            ANOTHER,
        ),
    ],
)  # fmt: skip
def test_what_may_change_when_going_on(
    old: list[str], new: list[str], key: str, text: str, effect: str
) -> None:
    found = _changes(old, new)
    assert (text in found[key].text, found[key].effect) == (True, effect)
    assert found[key].refused == (effect == ANOTHER)
    # The label of what is run follows from other keys.
    others = [each for name, each in found.items() if name not in (key, "strategy.name")]
    assert all(each.effect == MIXTURE for each in others)
    allowed = _changes(old, [*new, f"resume.allow=[{key}]"])
    assert not allowed[key].refused
    assert allowed[key].allowed == (effect == ANOTHER)


def test_a_record_stands_for_its_keys_and_for_no_other() -> None:
    new = ["algo.clip_low=0.1", "algo.clip_high=0.3", "seed=1", "resume.allow=[algo]"]
    assert {key for key, each in _changes([], new).items() if each.refused} == {"seed"}
    new[-1] = "resume.allow=[algo.clip_low]"
    assert {key for key, each in _changes([], new).items() if each.refused} == {
        "algo.clip_high",
        "seed",
    }


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("algo.clip_lo", "'clip_low'"),
        ("domains.maths.weight", "'domains.math.weight'"),
        ("strategy.phases.7.steps", "strategy.phases"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(entry: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"resume\.allow has an unknown key") as caught:
        _changes([], [f"resume.allow=[{entry}]"])
    assert words in str(caught.value)


def test_a_key_that_only_the_old_run_has_may_be_named() -> None:
    assert _changes([], ["~domains.chat", "resume.allow=[domains.chat]"])


def test_long_texts_are_shown_whole_by_their_lines() -> None:
    template = 'domains.chat.reward.judge_template="{response}' + "\\n".join(map(str, range(50)))
    old, new = [*JUDGED, f'{template}"'], [*JUDGED, f'{template} and more"']
    shown = str(_changes(old, new)["domains.chat.reward.judge_template"])
    assert "and more" in shown
    assert shown.startswith("domains.chat.reward.judge_template: old -> new [another experiment]")


@pytest.mark.parametrize(
    ("allow", "source", "expected"),
    [
        (["domains.math.source.path"], "math", True),
        (["domains.math"], "math", True),
        (["domains.math"], "math/web", True),
        (["domains.math.source"], "math/web", False),
        (["domains.math.extra_sources.web"], "math/web", True),
        (["policy.chat_template_kwargs"], "math", True),
        (["data.max_prompt_tokens"], "math/web", True),
        (["policy"], "math", True),
        (["policy.lora.rank", "data.shuffle"], "math", False),
        (["domains.chat"], "math", False),
        (["algo", "domains.math.reward"], "math", False),
    ],
)
def test_whose_prompts_may_be_others(allow: list[str], source: str, expected: bool) -> None:
    assert other_data_allowed(allow, source) == expected


def test_the_short_form_and_the_long_one() -> None:
    for words in (["resume=never"], ["resume.checkpoint=never"], ["resume={checkpoint: never}"]):
        assert compose_config(words).resume.checkpoint == "never"
    both = compose_config(["resume.allow=[seed]", "resume=/a/step_3"]).resume
    assert (both.checkpoint, both.allow) == ("/a/step_3", ["seed"])


def test_the_short_form_stands_in_files_and_in_python(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("# @package _global_\ndefaults: [pocket_mgs, _self_]\nresume: never\n")
    config = compose_config(["resume.allow=[seed]"], mine)
    assert (config.resume.checkpoint, config.resume.allow) == ("never", ["seed"])
    config.resume = "auto"  # type: ignore[assignment]
    assert checked_config(config).resume.checkpoint == "auto"
