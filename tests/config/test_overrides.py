"""Overrides as users write them: signs, own names, quotes, several values, home folders."""

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.config.compose import compose_config
from mgsrl.config.quoting import as_override
from mgsrl.errors import ConfigError


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose_config(overrides)
    message = str(caught.value)
    for part in ("expected:", "found:", "to do:"):
        assert message.count(f"  {part}") == 1, message
    return message


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("train.num_step=5", "train.num_step"),
        ("foo=1", "foo"),
        ("train.foo=1", "train.foo"),
        ("train={num_step: 5}", "train.num_step"),
        ("domains.math.source.columns.a.b=1", "domains.math.source.columns.a.b"),
        ("domains={math: {weigt: 2}}", "domains.math.weigt"),
        ("hydra.verbose=true", "hydra.verbose"),
        ("strategy@x=mgs", "strategy@x"),
    ],
)
@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_an_unknown_key_is_an_error_with_or_without_a_sign(
    sign: str, override: str, key: str
) -> None:
    assert refused(sign + override).startswith(f"Unknown configuration key {key!r}.")


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_keys_of_mappings_need_no_sign(sign: str) -> None:
    config = compose_config(
        [
            f"{sign}seed=3",
            f"{sign}domains.math.source.columns.answer=reward_model.ground_truth",
            f"{sign}domains.math.extra_sources.web.weight=3",
            f"{sign}domains.math.extra_sources.web.kind=pocket",
            f"{sign}domains.math.reward.extra.short.kind=math",
            f"{sign}surgery.patterns.mine=mlp",
            f"{sign}strategy={{sequential: true}}",
            f"{sign}domains.chat.heldout=null",
        ]
    )
    math = config.domains["math"]
    assert math.source.columns == {"answer": "reward_model.ground_truth"}
    assert math.extra_sources["web"].weight == 3.0
    assert math.reward.extra["short"].kind == "math"
    assert config.surgery.patterns == {"mine": "mlp"}
    assert config.domains["chat"].heldout is None
    assert (config.seed, config.strategy.sequential) == (3, True)


def test_a_new_record_is_told_from_a_mistyped_one() -> None:
    assert "domains.maths" in refused("domains.maths.weight=2")
    assert "maths" in refused("domains={maths: {weight: 2}}")
    assert "maths" in compose_config(["+domains.maths.source.path=math"]).domains
    source = "domains.math.extra_sources"
    assert f"{source}.web.kind=" in refused(f"{source}.web.weight=2")
    message = refused(f"{source}.web.kind=pocket", f"{source}.wbe.weight=2")
    assert "did you mean 'web'" in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("num_steps=5", "did you mean 'train.num_steps'?"),
        ("kl_coef=0", "did you mean 'algo.kl_coef'?"),
        ("algoo.clip_low=0.1", "did you mean 'algo.clip_low'?"),
        ("lr=1", "did you mean 'learner.optimizer.lr'?"),
        ("domains.math.reward.max_abstained_share=1", "did you mean 'max_abstained_share'?"),
        ("domains.math.columns.answer=a", "'domains.math.source.columns'"),
        ("pocket_mgs", "experiment=pocket_mgs"),
    ],
)
def test_the_place_of_a_key_is_suggested(override: str, words: str) -> None:
    assert words in refused(override)


@pytest.mark.parametrize("group", ["experiment", "strategy", "domains", "recipe"])
@pytest.mark.parametrize("value", ["null", "5", "true", "[mgs]", "1.5", "''", "nothing"])
def test_choices_are_names_of_files(group: str, value: str) -> None:
    assert refused(f"{group}={value}").startswith(f"{group}=")


def test_a_choice_is_made_once() -> None:
    assert "strategy=mixed and strategy=mgs" in refused("strategy=mixed", "strategy=mgs")


@pytest.mark.parametrize(
    "override", ["seed=1,2,3", "strategy=mgs,mixed", "seed=range(1,3)", "run.dir=a,b"]
)
def test_several_values_are_several_runs(override: str) -> None:
    assert "mgsrl compare" in refused(override)


def test_several_values_of_a_list_are_a_list() -> None:
    message = refused("strategy.domain_order=math,chat")
    hint = re.search(r"'(strategy.domain_order=.*)'", message)
    assert hint is not None
    assert compose_config([hint[1]]).strategy.domain_order == ["math", "chat"]


AWKWARD = [
    "/tmp/a=b",
    "/tmp/a,b",
    "[x]/y",
    "{x}",
    "lr(1)",
    "ünï/日本",
    "a'b",
    'a"b',
    "a#b;c&d!e",
    "back\\slash = ",
    "a:b=c",
]


@pytest.mark.parametrize("value", AWKWARD)
@pytest.mark.parametrize("key", ["run.dir", "policy.path", "domains.math.source.path", "resume"])
def test_a_value_that_must_be_quoted_says_how(key: str, value: str) -> None:
    """What the message shows, put into a shell, is the value."""
    message = refused(f"{key}={value}")
    hint = re.search(r"'[\w.]+=.*'(?=; or start| *$)", message)
    assert hint is not None, message
    (word,) = shlex.split(hint[0])
    parsed = OverridesParser.create().parse_override(word)
    assert (parsed.key_or_group, parsed.value()) == (key, value)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="$"), min_size=1))
def test_any_text_comes_back_from_its_quotes(text: str) -> None:
    (word,) = shlex.split(as_override("run.dir", text))
    assert OverridesParser.create().parse_override(word).value() == text


@pytest.mark.parametrize(
    "value",
    [None, True, False, 5, -1.5, 1e-6, "null", "true", "5", "", [1, "a,b"], {"a": "b: c", "d": []}],
)
def test_plain_values_come_back_too(value: object) -> None:
    (word,) = shlex.split(as_override("key", value))
    assert OverridesParser.create().parse_override(word).value() == value


def test_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    config = compose_config(["run.dir=~/runs/a=b", "resume=~/step_1", "policy.path=~/model"])
    assert (config.run.dir, config.policy.path) == ("~/runs/a=b", "~/model")
    assert config.resume.checkpoint == "/users/me/step_1"
    assert compose_config(["~domains.chat"]).domains.keys() == {"math", "instruction_following"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("~seed", "seed cannot be removed"),
        ("~domains.math.heldout", "domains.math.heldout=null"),
        ("~domains.mth", "did you mean 'math'"),
        ("~domains.math=5", "~domains.math alone"),
        ("seed=${seed}", "seed"),
        ("seed=${oc.env:NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE"),
        ("run.name=${", "run.name"),
        ("seed=" + "9" * 5000, "64 bits"),
        ("strategy.phases.0.steps=3", "strategy.phases.0.steps"),
        ("=5", "Unknown configuration key ''"),
        ("", "KEY=VALUE"),
        ("a b=3", "'a b'"),
    ],
)
def test_what_cannot_be(override: str, words: str) -> None:
    assert words in refused(override)


@pytest.mark.parametrize(
    "override",
    [
        f"{key}={value}"
        for key in ("seed", "train.num_steps", "algo.kl_coef", "learner.assert_purity", "surgery")
        for value in ("null", "[1]", "{a: 1}", "text", "1e999", "nan", "-inf", "true", "1.5")
    ],
)
def test_values_of_another_type_on_the_command_line(override: str) -> None:
    key = override.split("=")[0]
    if override in ("learner.assert_purity=true", "algo.kl_coef=1.5"):
        assert compose_config([override])
    else:
        assert key in refused(override)
