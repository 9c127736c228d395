"""What a domain has of `algo` for itself."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgsrl.algo.advantages import check_advantages, estimator, says
from mgsrl.config.algo import ADVANTAGES, NOT_FOR, STEP_KEYS, AlgoConfig, own_algo
from mgsrl.config.compose import compose_config
from mgsrl.errors import ConfigError

KEY = "domains.math.algo"


@given(st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_own_keys_stand_over_the_shared_ones(kl: float, clip: float, whiten: bool) -> None:
    shared = AlgoConfig(kl_coef=kl, clip_low=0.3, dual_clip=3.0)
    own = own_algo(shared, {"clip_low": clip, "dual_clip": None, "whiten_per_domain": whiten}, KEY)
    assert own == AlgoConfig(kl_coef=kl, clip_low=clip, whiten_per_domain=whiten)
    assert own_algo(shared, {}, KEY) == shared


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"lss": "ppo"}, "loss"),
        ({"clip_low": "wide"}, "domains.math.algo.clip_low"),
        ({"kl_coef": None}, "domains.math.algo.kl_coef"),
        *(({name: 2}, f"algo.{name}") for name in STEP_KEYS),
    ],
)
def test_what_no_domain_can_have_is_refused(own: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        own_algo(AlgoConfig(), own, KEY)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("domains.math.algo.loss=pop", "domains.math.algo.loss"),
        ("domains.math.algo.clip_low=2", "domains.math.algo.clip_low"),
        ("algo.clip_low=2", r"algo\.clip_low"),
        ("+domains.math.algo.samples_per_prompt=2", r"algo\.samples_per_prompt"),
    ],
)
def test_the_message_names_the_domains_key(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose_config([override])


def test_the_whole_configuration_knows_every_domains_algorithm() -> None:
    config = compose_config(["domains.chat.algo.kl_coef=0.5", "algo.kl_coef=0"])
    assert {name: algo.kl_coef for name, algo in config.algos.items()} == {
        "math": 0.0,
        "chat": 0.5,
        "instruction_following": 0.0,
    }
    assert config.regularised
    assert not compose_config(["algo.kl_coef=0"]).regularised


@pytest.mark.parametrize("name", ADVANTAGES.members)
def test_another_advantage_is_not_refused_for_what_is_the_others(name: str) -> None:
    """Dr. GRPO and whitening; an estimator that can do with them has them, too."""
    part = estimator(name)
    refused = {
        "normalize_std": "config" not in part.takes,
        "whiten_per_domain": says(part, "over_batch"),
    }
    assert [key for key, found in refused.items() if found] == [*NOT_FOR.get(name, ())]
    shared = AlgoConfig(advantage="mine.py:mine", normalize_std=False, whiten_per_domain=True)
    own = own_algo(shared, {"advantage": name}, KEY)
    assert own.normalize_std is refused["normalize_std"]
    assert own.whiten_per_domain is not refused["whiten_per_domain"]
    check_advantages(own)
    asked = {"advantage": name, "normalize_std": False, "whiten_per_domain": True}
    whole = replace(shared, advantage=name)
    assert own_algo(shared, asked, KEY) == whole, "what it asks for itself is not passed over"
    assert own_algo(whole, {"advantage": name}, KEY) == whole, "nor what is asked of all"


def test_rollouts_of_older_weights_need_the_importance_weight_in_every_domain() -> None:
    stale = ["rollout.staleness=1", "domains.chat.algo.importance_cap=null"]
    with pytest.raises(ConfigError, match=r"domains\.chat\.algo\.importance_cap"):
        compose_config(stale)


def test_only_what_is_trained_counts() -> None:
    """A reference or a teacher of a domain that no phase trains is not loaded."""
    own = ["algo.kl_coef=0", "domains.chat.algo.kl_coef=0.5", "strategy=single"]
    config = compose_config([*own, "strategy.domain_order=[math]"])
    assert list(config.algos) == ["math"]
    assert not config.regularised
    assert compose_config([*own, "strategy.domain_order=[chat]"]).regularised
    assert list(compose_config(["strategy=sequential"]).algos) == list(config.domains)
    with pytest.raises(ConfigError, match=r"domains\.chat\.algo\.clip_low"):
        compose_config([*own, "strategy.domain_order=[math]", "domains.chat.algo.clip_low=2"])


def test_a_taught_domain_has_no_dead_groups() -> None:
    taught = ["domains.math.algo.teacher=pocket", "domains.math.algo.dead_group_weight=0.5"]
    with pytest.raises(ConfigError, match=r"domains\.math\.algo\.teacher teaches every response"):
        compose_config(taught)


TAUGHT = [f"domains.{name}.algo.teacher=pocket" for name in ("math", "chat")]
THIRD = "domains.instruction_following.algo"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["algo.reward_coef=0"], r"algo\.reward_coef is.*'math' has none(?s:.*)set algo\.r"),
        (["algo.teacher_coef=0.5"], r"^algo\.teacher_coef is a weight beside a teacher"),
        (
            ["domains.chat.algo.reward_coef=0"],
            r"domains\.chat\.algo\.reward_coef is.*'chat' has none",
        ),
        (
            [*TAUGHT, "algo.reward_coef=0"],
            rf"^algo\.reward_coef is.*'instruction_following' has none(?s:.*)set {THIRD}\.rew",
        ),
        (
            ["algo.teacher=pocket", f"{THIRD}.teacher=''", f"{THIRD}.reward_coef=0"],
            rf"{THIRD}\.reward_coef is a weight",
        ),
        (["algo.teacher=pocket", "algo.teacher_coef=0"], r"^algo\.teacher_coef is 0"),
        ([*TAUGHT, "domains.chat.algo.teacher_coef=0"], r"of domain 'chat'(?s:.*)leave the teach"),
    ],
)
def test_weights_beside_a_teacher_are_heeded(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose_config(overrides)


@pytest.mark.parametrize(
    ("overrides", "coefs"),
    [
        ([], [1, 1, 1]),
        (["algo.teacher=pocket", "algo.reward_coef=0"], [0, 0, 0]),
        ([*TAUGHT, f"{THIRD}.teacher=pocket", "algo.reward_coef=0"], [0, 0, 0]),
        ([*TAUGHT, "algo.reward_coef=0", f"{THIRD}.reward_coef=1"], [0, 0, 1]),
        (["algo.teacher=pocket", "algo.reward_coef=0", f"{THIRD}.teacher=''"], [0, 0, 1]),
        ([*TAUGHT, "algo.reward_coef=0", "strategy.domain_order=[math,chat]"], [0, 0]),
    ],
)
def test_one_weight_for_all_is_taken_where_all_have_a_teacher(
    overrides: list[str], coefs: list[float]
) -> None:
    """Or where one is told to have none, or is not trained."""
    algos = compose_config(overrides).algos
    assert [algo.reward_coef for algo in algos.values()] == coefs
