"""The learner actors on a real local Ray: one step, failures, and what happens to the others."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from mgsrl.cluster.session import ray_session
from mgsrl.config import ClusterConfig
from mgsrl.errors import (
    InvariantError,
    LearnerDiedError,
    MissingPathError,
    StorageError,
    UserError,
)
from mgsrl.files.hashed import facts_of
from mgsrl.learner.group import LearnerGroup, collective_timed_out, rank_environment
from mgsrl.learner.group import _threads as learner_threads
from mgsrl.rollout.actor import cpu_threads
from tests.learner.parts import Case, make_batch, make_spec

pytestmark = pytest.mark.ray_cluster
VOCAB = 300


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session(ClusterConfig(object_store_gib=0.2)):
        yield


@pytest.fixture(scope="module")
def group(session: None, tiny_model: Path) -> Iterator[LearnerGroup]:
    learners = LearnerGroup(make_spec(tiny_model, Case(zero_stage=2), 2))
    yield learners
    learners.stop()


def test_threads_share_the_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a cpuset fewer than the machine has; engines beside learners count the same."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True}])
    assert learner_threads(2) == cpu_threads("a/hub-id", 2) == 2


def _listening(pid: int) -> set[str]:
    """Addresses on which a process listens."""
    import psutil

    return {c.laddr.ip for c in psutil.Process(pid).net_connections("tcp") if c.status == "LISTEN"}


def test_one_step_over_two_actors(group: LearnerGroup, tmp_path: Path) -> None:
    batch = make_batch(VOCAB, 2, 4)
    group.load_batch(batch)
    losses = {domain: group.accumulate(domain) for domain in batch.domains}
    report = group.resolve_conflicts(0)
    stats = group.optimizer_step(0)
    assert sum(s.num_sequences for s in losses.values()) == batch.totals.num_sequences
    assert report.gram_MDD.shape[1:] == (3, 3)
    assert stats.grad_norm > 0
    assert stats.learning_rate == pytest.approx(5e-3)
    group.save(tmp_path, background=True)
    written = group.saved()
    assert written is not None
    assert written == {path.name: facts_of(path) for path in tmp_path.iterdir()}
    group.load(tmp_path)
    (row,) = group.logprobs([(5, 9, 7)], 1.0)
    assert row[0] == 0.0
    assert row[1] < 0.0
    assert group.fingerprints() == {}  # nothing was published


def test_a_full_disk_is_told_and_the_learners_live_on(
    group: LearnerGroup, small_disk: Path
) -> None:
    with contextlib.suppress(OSError):
        (small_disk / "ballast").write_bytes(bytes(8 << 20))
    group.save(small_disk, background=True)
    with pytest.raises(StorageError, match="shards could not be written: No space left"):
        group.saved()
    (small_disk / "ballast").unlink()
    group.save(small_disk)
    assert group.saved(wait=False)
    group.load(small_disk)


def test_nothing_but_loopback_listens(group: LearnerGroup) -> None:
    import psutil

    pids = [p.pid for p in psutil.Process().children(recursive=True) if _is_learner(p)]
    assert len(pids) == 2
    for pid in pids:
        # Ray's own per-worker gRPC server is Ray's choice; what torch opened is on loopback.
        assert _listening(pid) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, _listening(pid)


def test_a_batch_for_another_world_size(group: LearnerGroup) -> None:
    with pytest.raises(InvariantError, match="packed for 1 ranks"):
        group.load_batch(make_batch(VOCAB, 1, 4))


def test_missing_model_is_said_before_any_actor(session: None, tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match="to do:"):
        LearnerGroup(make_spec(tmp_path / "nothing", Case(), 1))


def test_an_actors_user_error_arrives_as_itself(
    session: None, tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    with pytest.raises(UserError, match="cannot be loaded"):
        LearnerGroup(make_spec(tmp_path, Case(), 1))


def test_a_dead_rank_ends_all(group: LearnerGroup) -> None:
    """Last in this file: it kills the group."""
    import psutil

    victims = [p for p in psutil.Process().children(recursive=True) if _is_learner(p)]
    group.load_batch(make_batch(VOCAB, 2, 4))
    os.kill(victims[1].pid, signal.SIGKILL)
    started = time.monotonic()
    told = f"during accumulate .*: rank ., process {victims[1].pid} on "
    with pytest.raises(LearnerDiedError, match=told):
        group.accumulate("math")  # the survivor waits for the dead one in an all-reduce
    assert time.monotonic() - started < 60
    assert psutil.wait_procs(victims, timeout=20)[1] == []
    with pytest.raises(LearnerDiedError, match="stopped"):
        group.resolve_conflicts(0)


@pytest.mark.slow
def test_an_error_on_one_rank_does_not_leave_the_other_waiting(
    session: None, tiny_model: Path
) -> None:
    learners = LearnerGroup(make_spec(tiny_model, Case(), 2))
    learners.load_batch(make_batch(VOCAB, 2, 4))
    started = time.monotonic()
    with pytest.raises(KeyError, match="unknown"):
        learners._each("accumulate", [("math",), ("unknown",)])
    assert time.monotonic() - started < 30
    assert learners.handles == []


@pytest.mark.slow
def test_what_only_rank_0_is_asked_ends_all_too(session: None, tiny_model: Path) -> None:
    """So it is where it dies before the ranks have met."""
    import psutil

    learners = LearnerGroup(make_spec(tiny_model, Case(), 2))
    for process in filter(_is_learner, psutil.Process().children(recursive=True)):
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(LearnerDiedError, match="during node_address"):
        learners._first("node_address")
    assert learners.handles == []


def _is_learner(process: Any) -> bool:
    if process.status() == "zombie":
        return False
    return any("LearnerWorker" in part for part in process.cmdline())


def test_a_mistake_on_the_way_to_a_collective_is_no_wait() -> None:
    """What waited too long is begun again; a mistake would only be hidden by it."""
    frames = "Traceback (most recent call last):\n  init_process_group(timeout=limit)\n"
    for cause, waited in (
        (ValueError("unknown backend"), False),
        (RuntimeError("[pair.cc:1] Timed out waiting 30000ms for recv operation"), True),
    ):
        error = RayTaskError("accumulate", f"{frames}{cause!r}", cause, "ray::x", 1, "127.0.0.1")
        for raised in (error, error.as_instanceof_cause()):
            assert collective_timed_out(raised) is waited


def test_only_ranks_with_a_gpu_of_their_own_let_segments_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "PYTORCH_CUDA_ALLOC_CONF"
    for each in (name, "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(each, raising=False)
    assert rank_environment("cuda", 2, own_gpu=True)[name] == "expandable_segments:True"
    assert name not in rank_environment("cuda", 2, own_gpu=False)  # its weights go by CUDA IPC
    assert name not in rank_environment("cpu", 2, own_gpu=True)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:512")
    assert name not in rank_environment("cuda", 2, own_gpu=True)  # the user's stands
