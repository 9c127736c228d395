"""The domain sets under configs/domains/ compose, and those that are here load."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mgsrl.config import Config
from mgsrl.constraints.check import validate_reference
from mgsrl.data.sources import load_rows

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
DOMAINS = ["math", "chat", "instruction_following"]


def compose(name: str) -> Config:
    schema = OmegaConf.structured(Config)
    chosen = OmegaConf.create({"domains": OmegaConf.load(ROOT / "configs/domains" / name)})
    config = OmegaConf.to_object(OmegaConf.merge(schema, chosen))
    assert isinstance(config, Config)
    return config


@pytest.mark.parametrize("name", ["pocket", "local_text", "published"])
def test_the_set_is_valid(name: str) -> None:
    domains = compose(f"{name}.yaml").domains
    assert list(domains) == DOMAINS
    for domain, config in domains.items():
        config.validate(f"domains.{domain}")
        assert config.heldout is not None
    assert [config.reward.kind for config in domains.values()] == [
        "math",
        "reward_model",
        "constraints",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "pocket",
        pytest.param(
            "local_text",
            marks=pytest.mark.skipif(not SHARED.is_dir(), reason="the trial data are not here"),
        ),
    ],
)
def test_train_and_heldout_load_and_are_disjoint(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MGSRL_DATA", str(SHARED))
    for domain, config in compose(f"{name}.yaml").domains.items():
        kind, heldout = config.reward.kind, config.heldout
        assert heldout is not None
        validate = validate_reference if kind == "constraints" else None
        rows = [
            load_rows(source, domain, key=domain, reward_kind=kind, validate=validate)
            for source in (config.source, heldout)
        ]
        assert len(rows[0]) >= 1700
        assert len(rows[1]) >= 190
        ids = [{row.id for row in part} for part in rows]
        assert not ids[0] & ids[1]
