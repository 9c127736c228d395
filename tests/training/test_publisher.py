"""Publishing to a real engine by real learners: what did not arrive stops the run by name."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mgsrl.cluster.session import ray_session
from mgsrl.config import ClusterConfig, RolloutConfig, SyncConfig
from mgsrl.errors import EngineMismatchError, StaleWeightsError, WorkerDiedError
from mgsrl.learner.group import LearnerGroup
from mgsrl.learner.spec import Engines
from mgsrl.rollout.actor import rollout_pools
from mgsrl.rollout.engine import EngineSpec
from mgsrl.rollout.sampler import Sampler
from mgsrl.sync.fingerprint import Proof
from mgsrl.training.publisher import Publisher, unseen_note
from mgsrl.types import Sampling
from tests.learner.parts import Case, make_batch, make_spec

pytestmark = [pytest.mark.ray_cluster, pytest.mark.timeout(400)]

STALE = "model.layers.1.mlp.up_proj.weight"
SEQUENCES = [(5, 9, 30, 31, 32, 77, 120), (8, 9, 10, 200, 201)]


STOPS = "weights that did not arrive stop the run"


def stops(dtype: str) -> Any:
    """`dtype` as a parameter of the fixture, and what the test with it shows."""
    facts = {"zero": 2, "lora": False, "engine": "transformers", "dtype": dtype}
    return pytest.param(dtype, marks=pytest.mark.capability(feature=STOPS, **facts))


@pytest.fixture(scope="module", params=[stops("float32"), stops("bfloat16")])
def publisher(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[Publisher]:
    dtype = request.param
    config = RolloutConfig(engine="transformers", dtype=dtype, start_limit_s=240)
    case = Case(zero_stage=2, dtype=dtype, lr=1e-6, kl_coef=0.0)
    with ray_session(ClusterConfig(object_store_gib=0.2)):
        sampler = Sampler(
            rollout_pools(EngineSpec(config, str(tiny_model), 64), {"math": 1}),
            {"math": Sampling(1.0, 8)},
            samples_per_prompt=2,
            seed=0,
            limit_s=120.0,
        )
        learners = LearnerGroup(
            make_spec(tiny_model, case, 1), engines=Engines(take_checkpoints=False, dtype=dtype)
        )
        sampler.wait_ready()
        notes: list[str] = []
        sync = SyncConfig("object_store", canary_threshold=0.05)
        yield Publisher(sampler, learners, sync, dtype == "bfloat16", notes.append)
        assert notes == []
        learners.stop()
        sampler.stop()


def one_small_step(learners: LearnerGroup, step: int) -> None:
    batch = make_batch(300, 1, 4, seed=step)
    learners.load_batch(batch)
    for domain in batch.domains:
        learners.accumulate(domain)
    learners.resolve_conflicts(step)
    learners.optimizer_step(step)


def lose(handle: Any, name: str) -> None:
    """Let one parameter of every update vanish on its way into the actor's model."""
    import ray

    def put_in(holder: Any, lost: str) -> None:  # nested: Ray then sends the code, not its address
        engine = holder.engine
        engine.kept = engine.update_weights

        def update(info: Any) -> None:
            before = engine.model.get_parameter(lost).clone()
            engine.kept(info)
            engine.model.get_parameter(lost).data.copy_(before)

        engine.update_weights = update

    ray.get(handle.__ray_call__.remote(put_in, name), timeout=60)


def find(handle: Any) -> None:
    """Undo `lose`."""
    import ray

    def take_out(holder: Any) -> None:
        holder.engine.update_weights = holder.engine.kept

    ray.get(handle.__ray_call__.remote(take_out), timeout=60)


def test_a_parameter_that_did_not_arrive_is_named(publisher: Publisher) -> None:
    """After a single step of a learning rate of 1e-6, in either type."""
    (handle,) = publisher.sampler.handles
    publisher.publish(0, SEQUENCES)
    one_small_step(publisher.learners, 1)  # the first learning rate of a warm-up is small, not 0
    publisher.publish(1, SEQUENCES)
    lose(handle, STALE)
    one_small_step(publisher.learners, 2)
    with pytest.raises(StaleWeightsError, match=rf"weight version 2 was published: {STALE};"):
        publisher.publish(2, SEQUENCES)
    assert publisher.canary_error < 0.05  # the log-probabilities would have let it pass
    find(handle)
    publisher.publish(3, SEQUENCES)
    publisher.republish(handle)


def shift(handle: Any, nats: float) -> None:
    """The actor's engine scores every token `nats` too high, counted from what it computes."""
    import ray

    def put_in(holder: Any, amount: float) -> None:
        engine = holder.engine
        engine.honest = getattr(engine, "honest", engine.logprobs)

        def score(*arguments: Any) -> Any:
            return [[value + amount for value in row] for row in engine.honest(*arguments)]

        engine.logprobs = score

    ray.get(handle.__ray_call__.remote(put_in, nats), timeout=60)


def test_the_canary_stops_the_run_just_above_its_threshold_and_not_just_below(
    publisher: Publisher,
) -> None:
    """0.05 nats in float32; ten times that in bfloat16, below which it is said to be rounding."""
    (handle,) = publisher.sampler.handles
    publisher.publish(4, SEQUENCES)
    publisher.note, note = (notes := list[str]()).append, publisher.note
    limit, margin = (0.5, 0.1) if publisher.rounds else (0.05, 0.001)
    shift(handle, limit * (1 - margin))
    publisher.publish(5, SEQUENCES)
    assert publisher.canary_error == pytest.approx(limit, rel=2 * margin)
    assert ["rounding in bfloat16" in text for text in notes] == [True] * publisher.rounds
    shift(handle, limit * (1 + margin))
    with pytest.raises(EngineMismatchError, match="rollout worker 0 disagrees with the learner"):
        publisher.publish(6, SEQUENCES)
    shift(handle, 0.0)
    publisher.note = note
    publisher.publish(7, SEQUENCES)


def test_what_is_not_seen_is_said() -> None:
    assert unseen_note(Proof((), (), 9)) is None
    note = unseen_note(Proof((), tuple(f"layer.{i}.A_log" for i in range(7)), 9))
    assert note is not None
    assert note.startswith("9 of 16 parameters are compared bit for bit")
    assert note.endswith("layer.4.A_log and 2 more")


class Resender(Publisher):
    """Records whom it connects and whom the canary looks at."""

    calls: list[Any]

    def _connect(self, handles: Any) -> None:
        self.calls.append(list(handles))

    def _check_canary(self, handles: Any) -> None:
        self.calls.append(list(handles))


@pytest.mark.parametrize("transfer", ["nccl", "ipc", "object_store"])
def test_a_new_worker_gets_its_weights_by_cuda_ipc_together_with_all(transfer: str) -> None:
    """Else the ranks of the others would export memory that nobody opens. No GPU: who is called."""
    old, dead, new = object(), object(), object()
    lost: list[int] = []
    sampler: Any = SimpleNamespace(handles=[old, dead, new])
    learners: Any = SimpleNamespace(publish=lambda version: lost)
    publisher = Resender(sampler, learners, SyncConfig(transfer), rounds=False, note=print)
    publisher.calls = []
    everybody = transfer == "ipc"
    if everybody:
        lost.append(1)  # somebody else's death is found by whoever needs that worker
    publisher.republish(new)
    assert publisher.calls == [[old, dead, new] if everybody else [new], [new]]
    lost[:] = [2 if everybody else 0]
    with pytest.raises(WorkerDiedError, match="the new rollout worker died"):
        publisher.republish(new)
