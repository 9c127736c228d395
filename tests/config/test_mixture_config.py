"""The mixture's keys: sources by name, and quotas that nothing would heed."""

import pytest

from mgsrl.config.compose import compose_config
from mgsrl.errors import ConfigError


def test_extra_sources_are_sources() -> None:
    web = "+domains.math.extra_sources={web: {kind: file, path: web.jsonl, weight: 3}}"
    source = compose_config([web]).domains["math"].extra_sources["web"]
    assert (source.kind, source.path, source.weight) == ("file", "web.jsonl", 3.0)
    with pytest.raises(ConfigError, match=r"domains\.math\.extra_sources\.web\.path is empty"):
        compose_config(["+domains.math.extra_sources={web: {kind: file}}"])


def test_a_whole_domain_may_be_added_on_the_command_line() -> None:
    config = compose_config(["+domains={code: {source: {path: math}, reward: {kind: math}}}"])
    assert list(config.domains) == ["math", "chat", "instruction_following", "code"]


def test_sizes_and_quotas_exclude_each_other() -> None:
    assert compose_config(["data.mixing_temperature=3"]).data.mixing_temperature == 3
    with pytest.raises(ConfigError, match="shares a step by the size of the data"):
        compose_config(["data.mixing_temperature=3", "domains.math.prompts_per_step=4"])


@pytest.mark.parametrize("path", ["x.jsonl", "data/x", "openai/gsm8k", "/tmp/rows.parquet"])
def test_a_file_under_kind_pocket_is_told_to_say_so(path: str) -> None:
    with pytest.raises(ConfigError, match=r"domains\.math\.source\.kind=file"):
        compose_config([f"domains.math.source.path={path}"])
