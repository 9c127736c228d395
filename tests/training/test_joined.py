"""What a run expects of every machine of a cluster."""

from mgsrl.cluster.placement import Placement
from mgsrl.config.compose import compose_config
from mgsrl.config.model_path import ASSETS, POCKET_REWARD_MODEL
from mgsrl.training.joined import needs


def test_every_model_of_a_domain_is_looked_for() -> None:
    extra = "+domains.chat.reward.extra.second={kind: reward_model, path: OWNER/of-the-hub}"
    found = needs(compose_config([extra]), Placement(colocated=False, why=""), "cpu")
    assert found.everywhere["domains.chat.reward"] == str(ASSETS / POCKET_REWARD_MODEL)
    assert found.hub == {"domains.chat.reward.extra.second": "OWNER/of-the-hub"}
