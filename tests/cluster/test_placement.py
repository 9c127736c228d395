"""Who shares a GPU with whom, and that Ray does it (with GPUs that it only believes in)."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgsrl.cluster.placement import (
    Placement,
    Seats,
    Wanted,
    decide,
    groups_of,
    place,
    shareable_memory,
    spots,
)
from mgsrl.errors import ConfigError

ONE = Wanted(ranks=1, engines=1, engine_gpus=1.0, tensor_parallel=1, rewards=0.0)
CANNOT = ConfigError("It cannot sleep.", expected="verbs", found="none", todo="write them")


def test_auto_shares_only_where_it_must() -> None:
    assert not decide("auto", ONE, 2, "cuda", None).colocated
    shared = decide("auto", ONE, 1, "cuda", None)
    assert shared.colocated
    assert shared.why == "apart, learners, engines and rewards want 2 GPUs of 1"
    assert not decide("auto", ONE, 0, "cpu", None).colocated
    assert not decide("disjoint", ONE, 1, "cuda", None).colocated  # too few are told elsewhere
    assert decide("colocated", ONE, 8, "cuda", None).colocated
    assert decide("colocated", ONE, 0, "cpu", None).colocated


def test_what_stands_in_the_way_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot sleep"):
        decide("colocated", ONE, 1, "cpu", CANNOT)
    with pytest.raises(ConfigError, match="cannot share") as told:
        decide("auto", ONE, 1, "cuda", CANNOT)
    assert "at least 2 GPUs" in str(told.value)
    assert "It cannot sleep." in str(told.value)
    assert not decide("auto", ONE, 2, "cuda", CANNOT).colocated


@given(
    st.integers(1, 8), st.integers(1, 8), st.integers(0, 16), st.integers(0, 3),
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), st.sampled_from(["auto", "colocated"]),
)  # fmt: skip
def test_what_is_decided_fits(
    ranks: int, engines: int, gpus: int, workers: int, each: float, asked: str
) -> None:
    wanted = Wanted(ranks, engines, 1.0, 1, workers * each)
    try:
        found = decide(asked, wanted, gpus, "cuda", None)
    except ConfigError:
        assert asked == "colocated"
        assert ranks + wanted.rewards > gpus
        return
    if not found.colocated:
        assert asked == "auto"
        assert wanted.disjoint <= gpus or ranks + wanted.rewards > gpus
        return
    assert ranks <= gpus
    assert asked == "colocated" or wanted.disjoint > gpus
    left = gpus - ranks if found.share == 1.0 else 1 - found.share
    assert wanted.rewards <= left + 1e-9
    assert found.share <= 1.0
    assert found.share > 0.5 or (found.share, ranks) == (0.5, 1)  # no two ranks on one GPU


def test_a_run_takes_the_gpus_of_its_reward_models_too() -> None:
    wanted = Wanted(ranks=4, engines=3, engine_gpus=1.0, tensor_parallel=1, rewards=0.5)
    apart = decide("auto", wanted, 8, "cuda", None)
    assert apart.taken(wanted, "cuda") == 7.5
    beside = decide("auto", wanted, 5, "cuda", None)
    assert (beside.colocated, beside.share) == (True, 1.0)
    assert beside.taken(wanted, "cuda") == 4.5
    few = Wanted(ranks=4, engines=3, engine_gpus=1.0, tensor_parallel=1, rewards=0.4)
    inside = decide("auto", few, 4, "cuda", None)
    assert (inside.colocated, inside.share) == (True, 0.6)
    assert inside.taken(few, "cuda") == 4
    on_cpu = decide("auto", wanted, 1, "cpu", None)  # of reward models alone
    assert on_cpu.taken(wanted, "cpu") == 0.5


def test_half_a_gpu_is_left_only_where_there_is_one() -> None:
    """Of several Ray would fill one with the halves of two ranks."""
    alone = decide("auto", Wanted(1, 1, 1.0, 1, 0.5), 1, "cuda", None)
    assert (alone.colocated, alone.share) == (True, 0.5)
    several = Wanted(4, 4, 1.0, 1, 0.5)
    with pytest.raises(ConfigError, match="more GPUs than there are") as told:
        decide("colocated", several, 4, "cuda", None)
    assert "less than half a GPU in all" in str(told.value)
    assert not decide("auto", several, 4, "cuda", None).colocated  # too few are told elsewhere


@given(st.integers(0, 4999), st.integers(1, 4), st.data())
def test_both_halves_of_a_share_fit(guests: int, ranks: int, data: Any) -> None:
    """In the ten-thousandths in which Ray counts, and to which it rounds."""
    wanted = Wanted(ranks, data.draw(st.integers(1, ranks)), 1.0, 1, guests / 10_000)
    found = decide("colocated", wanted, ranks, "cuda", None)
    ((bundle, *_),) = groups_of(found, wanted)
    learners, engines = spots(found, wanted, [list(range(ranks))])
    asked = sum(round(spot.gpus * 10_000) for spot in (learners[0], engines[0]))
    assert 0 <= round(bundle["GPU"] * 10_000) - asked <= 1
    assert all(spot.gpus == round(spot.gpus, 4) for spot in (*learners, *engines))


def test_a_learner_that_an_engine_reads_has_no_expandable_segments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64,expandable_segments:True")
    expected = "max_split_size_mb:64,expandable_segments:False"
    assert set(shareable_memory().values()) == {expected}
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # the newer name counts
    assert set(shareable_memory().values()) == {"expandable_segments:False"}


# ---- Ray --------------------------------------------------------------------------------------


def _visible() -> tuple[str, str]:
    import ray

    return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", "")


class Actor:
    def visible(self) -> tuple[str, str]:
        return _visible()


def seated(seats: Seats, *, cpus: int = 1) -> tuple[list[Any], list[Any]]:
    """What the actors of all ranks and engines see, while all are there."""
    import ray

    def seat(which: list[Any], num_cpus: int) -> list[Any]:
        return [
            ray.remote(Actor).options(num_cpus=num_cpus, **one.options_with({})).remote()
            for one in which
        ]

    engines, learners = seat(seats.engines, cpus), seat(seats.learners, 0)
    try:
        return tuple(  # type: ignore[return-value]
            ray.get([actor.visible.remote() for actor in actors], timeout=120)
            for actors in (learners, engines)
        )
    finally:
        for actor in (*learners, *engines):
            ray.kill(actor)


@pytest.fixture(scope="module")
def four_gpus() -> Iterator[None]:
    import ray

    ray.init(address="local", num_gpus=4, num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


SHARED = Placement(True, "")


@pytest.mark.ray_cluster
@pytest.mark.usefixtures("four_gpus")
def test_a_rank_and_its_engine_see_one_gpu() -> None:
    seats = place(SHARED, Wanted(4, 4, 1.0, 1, 0.0), "cuda", 60)
    learners, engines = seated(seats)
    seats.release()
    assert all(seat.environment == shareable_memory() for seat in seats.learners)
    assert learners == engines
    assert {gpu for _, gpu in learners} == {"0", "1", "2", "3"}


@pytest.mark.ray_cluster
@pytest.mark.usefixtures("four_gpus")
def test_a_split_engine_sees_the_gpus_of_its_ranks() -> None:
    seats = place(SHARED, Wanted(4, 2, 2.0, 2, 0.0), "cuda", 60)
    learners, engines = seated(seats)
    seats.release()
    assert [gpus for _, gpus in engines] == [
        f"{learners[0][1]},{learners[1][1]}",
        f"{learners[2][1]},{learners[3][1]}",
    ]


@pytest.mark.ray_cluster
@pytest.mark.usefixtures("four_gpus")
def test_apart_nobody_sees_anothers_gpu_and_reward_models_find_room() -> None:
    import ray

    seats = place(Placement(False, ""), Wanted(2, 1, 2.0, 2, 0.0), "cuda", 60)
    learners, engines = seated(seats)
    seats.release()
    gpus = ",".join(gpu for _, gpu in (*learners, *engines)).split(",")
    assert sorted(gpus) == ["0", "1", "2", "3"]
    seats = place(Placement(True, "", 0.8), Wanted(4, 4, 1.0, 1, 0.2), "cuda", 60)
    reward = ray.remote(Actor).options(num_gpus=0.2, num_cpus=0).remote()
    assert ray.get(reward.visible.remote(), timeout=60)[1] in {"0", "1", "2", "3"}
    assert len(seated(seats)[1]) == 4
    seats.release()
    ray.kill(reward)


@pytest.mark.ray_cluster
@pytest.mark.usefixtures("four_gpus")
def test_what_cannot_be_placed_ends_with_a_message() -> None:
    with pytest.raises(ConfigError, match="Ray cannot place") as told:
        place(Placement(False, ""), Wanted(1, 1, 5.0, 5, 0.0), "cuda", 3)
    assert "machines with 4 GPUs" in str(told.value)
    assert not place(Placement(False, ""), ONE, "cpu", 1).learners  # nothing is asked of Ray


@pytest.mark.ray_cluster
@pytest.mark.slow
def test_ranks_stay_together_and_an_engine_on_one_machine() -> None:
    """In a process of its own: three raylets and a driver that has seen no other Ray session."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        seen = pool.submit(three_machines).result(timeout=280)
    learners, engines = seen["disjoint"]
    assert len(set(learners)) == 1
    assert len({*learners, *engines}) == 2
    learners, engines = seen["shared"]
    assert len(set(learners[:4])) == len(set(learners[4:])) == 1
    assert engines == learners[::2]
    learners, engines = seen["on CPUs"]
    assert learners[:2] == [seen["here"]] * 2
    assert len(set(learners)) == len(set(engines)) == 3
    again, _ = seen["on CPUs, one machine lost"]  # those of the lost machine too
    assert again[:3] == learners[:3]
    assert again[3] in learners[:3]


def three_machines() -> dict[str, Any]:
    """The nodes of (learner ranks, engines) by placement, and `here`: the driver's."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=4, num_gpus=4)
        ray.init(address=cluster.address, log_to_driver=False)
        seen: dict[str, Any] = {"here": ray.get_runtime_context().get_node_id()}
        seats = place(Placement(False, ""), Wanted(4, 2, 2.0, 2, 0.0), "cuda", 60)
        seen["disjoint"] = nodes_of(seats)
        seats.release()
        seats = place(SHARED, Wanted(8, 4, 2.0, 2, 0.0), "cuda", 60)
        seen["shared"] = nodes_of(seats)
        seats.release()
        on_cpu = place(Placement(False, ""), Wanted(4, 3, 1.0, 1, 0.0), "cpu", 60)
        seen["on CPUs"] = nodes_of(on_cpu, cpus=0)
        lost = seen["on CPUs"][0][3]
        cluster.remove_node(next(n for n in cluster.list_all_nodes() if n.node_id == lost))
        deadline = time.monotonic() + 60
        while sum(node["Alive"] for node in ray.nodes()) > 2:  # Ray notices it a little later
            assert time.monotonic() < deadline
            time.sleep(0.1)
        seen["on CPUs, one machine lost"] = nodes_of(on_cpu, cpus=0)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return seen


def nodes_of(seats: Seats, *, cpus: int = 1) -> tuple[list[str], list[str]]:
    learners, engines = seated(seats, cpus=cpus)
    return [node for node, _ in learners], [node for node, _ in engines]
