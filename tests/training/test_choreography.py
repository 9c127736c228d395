"""The turns of engines and learners: the order of the calls, and what a wrong one does."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgsrl.cluster.session import ray_session
from mgsrl.cluster.wait import get
from mgsrl.config import ClusterConfig, RolloutConfig, SyncConfig
from mgsrl.errors import InvariantError
from mgsrl.learner.group import LearnerGroup
from mgsrl.learner.spec import Engines
from mgsrl.rollout.actor import rollout_pools
from mgsrl.rollout.engine import EngineSpec
from mgsrl.rollout.sampler import Sampler
from mgsrl.training.choreography import Choreography
from mgsrl.training.publisher import Publisher
from mgsrl.types import Prompt, Sampling
from tests.learner.parts import Case, make_spec, replace
from tests.training.test_publisher import SEQUENCES, one_small_step


def test_engines_with_gpus_of_their_own_have_no_turns() -> None:
    turns = Choreography()
    for move in itertools.permutations((turns.learn, turns.sync, turns.roll, turns.sync)):
        for go in move:
            go()
    with turns.learners_whole():
        assert not turns.shared


@pytest.fixture(scope="module")
def publisher(tiny_model: Path) -> Iterator[Publisher]:
    """Two engines and a learner, loaded in the order of a run; the learners' turn."""
    config = RolloutConfig(engine="transformers", start_limit_s=240, num_workers=2)
    spec = make_spec(tiny_model, Case(zero_stage=2, lr=1e-2, kl_coef=0.0), 1)
    spec = replace(spec, learner=replace(spec.learner, offload_during_rollout=True))
    with ray_session(ClusterConfig(object_store_gib=0.2)):
        sampler = Sampler(
            rollout_pools(EngineSpec(config, str(tiny_model), 64, sleeps=True), {"math": 2}),
            {"math": Sampling(1.0, 8)},
            samples_per_prompt=2,
            seed=0,
            limit_s=120.0,
            send_weights=lambda handle: made[0].republish(handle),
        )
        turns = Choreography(sampler, offload=True)
        sampler.wait_ready()
        turns.learn()
        learners = LearnerGroup(spec, engines=Engines(take_checkpoints=False))
        turns.admit(learners)
        sync = SyncConfig("object_store")
        made = [Publisher(sampler, learners, sync, False, lambda text: None, turns=turns)]
        yield made[0]
        learners.stop()
        sampler.stop()


def tokens(sampler: Sampler, step: int) -> list[tuple[int, ...]]:
    prompts = {"math": [Prompt(str(n), "math", (), (5, 9, 30 + n)) for n in range(3)]}
    groups = sampler.rollout(prompts, step)
    return [rollout.token_ids for group in groups["math"] for rollout in group.rollouts]


@pytest.mark.ray_cluster
@pytest.mark.timeout(400)
def test_two_steps_and_every_wrong_turn(publisher: Publisher) -> None:
    import ray

    turns, sampler, learners = publisher.turns, publisher.sampler, publisher.learners
    for move in (turns.learn, turns.roll):
        with pytest.raises(InvariantError, match="in the turn learning"):
            move()
    publisher.publish(0, SEQUENCES)
    assert turns.turn.value == "rolling"
    with pytest.raises(InvariantError, match="sync in the turn rolling"):
        publisher.publish(1, SEQUENCES)
    first = tokens(sampler, 1)
    with turns.learners_whole():  # to save; the engines keep their weights
        learners.reset_optimizer()
    assert tokens(sampler, 1) == first
    turns.learn()
    with pytest.raises(InvariantError, match="logprobs of an engine with kv_cache and weights"):
        get(sampler.handles[0].logprobs.remote(SEQUENCES), 60, "an answer", "key")
    one_small_step(learners, 1)
    ray.kill(sampler.handles[1])  # asleep: it is found when weights are sent, and loads anew
    publisher.publish(1, SEQUENCES)
    assert sum(sampler.distinct_pools[0].restarts) == 1
    assert tokens(sampler, 1) != first
    again = tokens(sampler, 1)
    turns.learn()
    publisher.publish(2, SEQUENCES)  # no step: the same weights, which the engines had dropped
    assert tokens(sampler, 1) == again
