"""One label is one method, whichever way it was configured."""

import pytest

from mgsrl.config.compose import compose_config, list_choices
from mgsrl.errors import ConfigError


@pytest.mark.parametrize("name", list_choices("strategy"))
def test_the_strategies_are_called_what_they_are(name: str) -> None:
    config = compose_config([f"strategy={name}"])
    assert config.strategy.name == name
    assert config.run.dir == f"runs/pocket-{name}-seed0"
    assert compose_config([f"strategy={name}", f"strategy.name={name}"]) == config


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (["surgery.method=none"], "mixed"),
        (["surgery.measure_only=true"], "mixed"),
        (["surgery.granularity=global"], "global_surgery"),
        (["surgery.granularity=layer"], "pcgrad_layer"),
        (["surgery.method=upgrad"], "upgrad"),
        (["surgery.method=upgrad", "surgery.granularity=global"], "upgrad_global"),
        (["surgery.gate=reliable"], "mgs_reliable"),
        (["surgery.protect=math"], "mgs_protect_math"),
        (["surgery.protect=math", "surgery.measure_only=true"], "mixed"),
        (["algo.whiten_per_domain=true"], "mgs_whitened"),
        (["strategy=mixed", "algo.whiten_per_domain=true"], "normalized_advantage"),
        (["strategy=sequential", "surgery.method=pcgrad"], "sequential"),
        (["~domains.chat", "~domains.math"], "single"),
        (["domains.chat.weight=0", "domains.math.weight=0"], "single"),
        (["strategy.phases=[{domains: [math, chat], steps: 3}]"], "phases_mgs"),
    ],
)
def test_the_label_follows_what_is_run(overrides: list[str], label: str) -> None:
    assert compose_config(overrides).strategy.name == label


@pytest.mark.parametrize(
    "overrides",
    [
        ["strategy.name=mixed"],
        ["strategy=mixed", "strategy.name=mgs"],
        ["strategy=mixed", "strategy.name=upgrad_layer"],
        ["surgery.method=none", "strategy.name=mgs"],
        ["strategy.name=mgs_protect_math"],
        ["surgery.protect=math", "strategy.name=mgs"],
    ],
)
def test_a_run_does_not_pass_for_another_strategy(overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"strategy\.name=.* is what another strategy is called"):
        compose_config(overrides)


def test_a_label_of_ones_own() -> None:
    assert compose_config(["strategy.name=mine"]).run.dir == "runs/pocket-mine-seed0"
