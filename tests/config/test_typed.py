"""Every key of the configuration under every value: taken, or one message that names the key."""

from typing import Any, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.config.checks import check_config
from mgsrl.config.compose import compose_config
from mgsrl.config.keys import all_keys, is_record, members_keys, optional, type_at
from mgsrl.config.label import strategy_label
from mgsrl.config.reward import ScoreConfig
from mgsrl.config.root import Config
from mgsrl.config.training import MOST_STEPS
from mgsrl.config.typed import plain, read_config
from mgsrl.errors import ConfigError

BASE = plain(compose_config(["run.dir=r"]))
BASE["strategy"]["name"] = ""
NAMES = {"domains": "math", "extra_sources": "web", "extra": "other", "columns": "answer"}
WRONG: list[Any] = [1.5, -0.5, True, None, [], [None], [[1]], {}, {"a": 1}, "", "text", "~", "???"]
HUGE: list[Any] = [10**30, -(10**30), 10**400, 2**63, float("nan"), float("inf"), -float("inf")]
ODD = [*WRONG, *HUGE, 0, -1, "null", "nan", "9" * 5000, 1e300, -1e300, {"": 1}, {5: 1}, {None: 1}]


def every_key() -> list[tuple[str, Any]]:
    keys = []
    for key, kind in all_keys(Config):
        parts = key.split(".")
        for index, part in enumerate(parts):
            if part == "NAME":
                parts[index] = NAMES.get(parts[index - 1], "mine")
        keys.append((".".join(parts), kind))
    return keys


KEYS = every_key()


def kinds_of(record: Any) -> dict[str, str]:
    """A key of one kind of the record's members -> a kind that has it."""
    own = members_keys(record) if is_record(record) else {}
    return {key: kind for kind, keys in own.items() for key in keys}


KINDS = kinds_of(ScoreConfig)
"""Of rewards, some of whose keys are mappings."""


def with_value(key: str, value: Any) -> dict[str, Any]:
    """The default configuration with one value replaced."""
    first, *rest = key.split(".")

    def put(node: dict[str, Any], name: str, rest: list[str]) -> dict[str, Any]:
        inner = node.get(name)
        below = inner if isinstance(inner, dict) else {}
        return node | {name: put(below, rest[0], rest[1:]) if rest else value}

    above, _, leaf = key.rpartition(".")
    if above.rpartition(".")[2] in KINDS:  # a name below a mapping of one kind
        return with_value(above, {leaf: value})
    record = type_at(Config, above) if above else Config
    if kind := kinds_of(record).get(leaf):
        own = members_keys(record)[kind]
        needed = {name: "http://h" for name in ("url", "model", "function") if name in own}
        value = {"kind": kind, **needed, leaf: value}
        *rest, _ = rest
    return put(BASE, first, rest)


def checked(key: str, value: Any) -> Config | ConfigError:
    """The configuration, or the error. Any other exception is a failure."""
    try:
        config = read_config(Config, with_value(key, value))
        config.strategy.name = strategy_label(config)
        check_config(config)
        return config
    except ConfigError as error:
        return error


def value_at(config: Any, key: str) -> Any:
    for part in key.split("."):
        if part in kinds_of(type(config)):
            config = config.options
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


def assert_house_form(error: ConfigError, key: str) -> None:
    message = str(error)
    assert key in message, message
    for part in ("\n  expected: ", "\n  found:    ", "\n  to do:    "):
        assert message.count(part) == 1, message
    assert len(message) < 2000


def test_the_walk_finds_every_key() -> None:
    names = [key for key, _ in KEYS]
    assert len(names) == len(set(names)) > 200
    for key in (
        "seed",
        "domains.math.heldout.path",
        "domains.math.reward.extra.other.clip",
        "surgery.reliability.level",
        "data.curriculum.temperature",
        "strategy.phases",
    ):
        assert key in names


@pytest.mark.parametrize(("key", "kind"), KEYS, ids=[key for key, _ in KEYS])
def test_values_of_another_type_are_one_message(key: str, kind: Any) -> None:
    inner = optional(kind) or kind
    for value in ODD:
        outcome = checked(key, value)
        if isinstance(outcome, ConfigError):
            if not (is_record(inner) or get_origin(inner) in (dict, list)):
                assert_house_form(outcome, key)
            continue
        found = value_at(outcome, key)
        if value is None:
            assert optional(kind) is not None or kind is Any
        elif inner in (bool, int, float, str):
            assert type(found) is inner, (value, found)
        elif is_record(inner):
            assert value == {}
        else:
            assert kind is Any or isinstance(value, get_origin(inner)), (value, found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([key for key, _ in KEYS]), JSON)
def test_any_value_of_any_key(key: str, value: Any) -> None:
    outcome = checked(key, value)
    if isinstance(outcome, ConfigError):
        assert "\n  to do:    " in str(outcome)


@pytest.mark.parametrize(
    ("key", "value", "taken"),
    [
        ("train.num_steps", 1e2, 100),
        ("train.num_steps", "1e2", 100),
        ("algo.samples_per_prompt", 8.0, 8),
        ("algo.kl_coef", 1, 1.0),
        ("algo.kl_coef", "1e-3", 1e-3),
        ("run.name", 2026, "2026"),
        ("learner.assert_purity", "off", False),
        ("learner.assert_purity", "true", True),
        ("evaluate.forgetting_alarm", float("inf"), float("inf")),
        ("domains.math.reward.clip", [0, "inf"], [0.0, float("inf")]),
        ("algo.dual_clip", None, None),
    ],
)
def test_values_are_taken_for_what_they_say(key: str, value: Any, taken: Any) -> None:
    outcome = checked(key, value)
    assert isinstance(outcome, Config), outcome
    found = value_at(outcome, key)
    assert (type(found), found) == (type(taken), taken)


@pytest.mark.parametrize("parent", ["", *(key for key, kind in KEYS if is_record(kind))])
def test_unknown_keys_are_named_at_every_depth(parent: str) -> None:
    key = f"{parent}.kindd" if parent else "kindd"
    outcome = checked(key, 1)
    assert isinstance(outcome, ConfigError)
    assert_house_form(outcome, key)
    assert str(outcome).startswith(f"Unknown configuration key {key!r}.")


def test_lists_and_mappings_name_the_element() -> None:
    for key, value, named in [
        ("strategy.domain_order", ["math", 1.5], "strategy.domain_order[1]"),
        ("strategy.phases", [{"domains": ["math"]}, {"stps": 1}], "strategy.phases[1].stps"),
        ("domains.math.reward.clip", [0, None], "domains.math.reward.clip[1]"),
        ("domains.math.source.columns", {"answer": [1]}, "domains.math.source.columns.answer"),
        ("domains", {"math": 5}, "domains.math"),
        ("surgery.patterns", {"a": {}}, "surgery.patterns.a"),
    ]:
        outcome = checked(key, value)
        assert isinstance(outcome, ConfigError)
        assert_house_form(outcome, named)


@pytest.mark.parametrize("name", ["a/b", "a b", "a.b", "../x", "a=b", ""])
@pytest.mark.parametrize(
    "key", ["domains", "domains.math.extra_sources", "domains.math.reward.extra"]
)
def test_names_of_the_users_are_plain(key: str, name: str) -> None:
    outcome = checked(key, value_at(BASE, key) | {name: {}})
    assert isinstance(outcome, ConfigError)
    assert str(outcome).startswith(f"A name in {key}")


def test_types_are_found_below_mappings_and_lists() -> None:
    assert type_at(Config, "domains.any.extra_sources.some.limit") == int | None
    assert type_at(Config, "strategy.phases.0.steps") is int
    assert get_args(type_at(Config, "domains.any.source.columns")) == (str, str)
    for key in ("sed", "seed.x", "domains.math.source.columns.a.b", "", "domains.", "policy..path"):
        assert type_at(Config, key) is None


def test_a_run_is_no_longer_than_what_can_be_laid_out() -> None:
    outcome = checked("train.num_steps", 10**9)
    assert isinstance(outcome, ConfigError)
    assert_house_form(outcome, "train.num_steps")
    assert isinstance(checked("train.num_steps", MOST_STEPS), Config)
