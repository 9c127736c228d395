"""The domain sets under configs/domains/ compose, and those whose files are here load."""

from dataclasses import replace
from pathlib import Path

import pytest

from mgsrl.config import Config, SourceConfig
from mgsrl.config.compose import compose_config
from mgsrl.data.sources import load_rows
from mgsrl.rewards.factory import row_needs
from tests.oracle import published_file, published_rows

ROOT = Path(__file__).resolve().parents[2]
DOMAINS = ["math", "chat", "instruction_following"]


def compose(name: str) -> Config:
    return compose_config([f"domains={name}"])


@pytest.mark.parametrize("name", ["pocket", "local_text", "published", "reproduce"])
def test_the_set_is_valid(name: str) -> None:
    domains = compose(name).domains
    assert list(domains) == DOMAINS
    for domain, config in domains.items():
        config.validate(f"domains.{domain}")
        assert config.heldout is not None
    assert [config.reward.kind for config in domains.values()] == [
        "math",
        "reward_model",
        "constraints",
    ]


def at_hand(source: SourceConfig) -> SourceConfig:
    """The source on the file that is here; of an extract nine tenths are the training part."""
    if source.kind != "file":
        return source
    name = "/".join(Path(source.path).parts[-2:])
    cut = len(published_rows(name)) * 9 // 10
    return replace(
        source,
        path=str(published_file(name)),
        limit=min(source.limit, cut) if source.limit else source.limit,
        start=min(source.start, cut),
    )


@pytest.mark.parametrize(
    ("name", "train", "heldout"), [("pocket", 1700, 190), ("local_text", 20, 3)]
)
def test_train_and_heldout_load_and_are_disjoint(name: str, train: int, heldout: int) -> None:
    for domain, config in compose(name).domains.items():
        assert config.heldout is not None
        needs = row_needs(config.reward)
        parts = [
            load_rows(at_hand(source), domain, key=domain, needs=needs)
            for source in (config.source, config.heldout)
        ]
        assert len(parts[0]) >= train
        assert len(parts[1]) >= heldout
        ids = [{row.id for row in part} for part in parts]
        assert not ids[0] & ids[1]
