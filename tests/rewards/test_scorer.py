"""The scorer over pools: in order, concurrent, abstentions counted; dead real actors replaced."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from mgsrl.cluster.session import ray_session
from mgsrl.cluster.wait import get
from mgsrl.config import ClusterConfig, RewardConfig
from mgsrl.errors import AbstentionError, ConfigError, MissingPathError, UserError
from mgsrl.rewards.actor import RewardWorker
from mgsrl.rewards.factory import check_reward, row_needs
from mgsrl.rewards.pool import RewardPool
from mgsrl.rewards.protocol import BaseReward, Response, RewardItem
from mgsrl.rewards.scorer import Scorer
from mgsrl.types import Prompt, Reward, Rollout, RolloutGroup

CONSTRAINTS = {
    "instruction_id_list": ["punctuation:no_comma"],
    "kwargs": [{}],
}


def group(domain: str, id_: str, texts: Sequence[str], reference: dict[str, Any]) -> RolloutGroup:
    rollouts = tuple(
        Rollout(f"{id_}-{n}", (1,), (0.0,), f"<response>{text}</response>", "stop", 0)
        for n, text in enumerate(texts)
    )
    prompt = Prompt(id_, domain, ({"role": "user", "content": "?"},), (1,), reference)
    return RolloutGroup(prompt, rollouts)


class LocalPool:
    """A pool of one in this process: the real worker, without an actor around it."""

    def __init__(self, config: RewardConfig, barrier: threading.Barrier | None = None) -> None:
        self.worker = RewardWorker(config)
        self.barrier = barrier

    def score(self, items: Sequence[Response]) -> list[Reward]:
        if self.barrier is not None:
            self.barrier.wait(timeout=10)
        return self.worker.score(items)

    def wait_ready(self) -> list[Any]:
        return [self.worker.ready()]

    def stop(self) -> None:
        self.worker.close()


def test_rewards_are_put_back_in_their_groups() -> None:
    # The barrier opens only when both domains' work is under way at the same time.
    barrier = threading.Barrier(2)
    scorer = Scorer(
        {
            "math": LocalPool(RewardConfig(kind="math"), barrier),
            "if": LocalPool(RewardConfig(kind="constraints"), barrier),
        }
    )
    try:
        assert set(scorer.wait_ready()) == {"math", "if"}
        scored = scorer.score(
            {
                "math": [
                    group("math", "a", [r"\boxed{1}", r"\boxed{2}"], {"answer": "2"}),
                    group("math", "b", [r"\boxed{1}", "none"], {"answer": 1}),
                ],
                "if": [group("if", "c", ["one", "one, two", "x"], CONSTRAINTS)],
            }
        )
    finally:
        scorer.stop()
    found = {d: [[r.value for r in g.rewards] for g in groups] for d, groups in scored.items()}
    assert found == {"math": [[0.0, 1.0], [1.0, 0.0]], "if": [[1.0, 0.0, 1.0]]}
    assert sum(scorer.abstained.values()) == 0


class Moody:
    """Never says the same twice, as a judge may."""

    def __init__(self) -> None:
        self.items: list[Response] = []

    def score(self, items: Sequence[Response]) -> list[Reward]:
        self.items += items
        return [Reward(float(len(self.items) - len(items) + n)) for n in range(len(items))]

    def wait_ready(self) -> list[Any]:
        return []

    def stop(self) -> None:
        return None


def test_equal_responses_to_one_prompt_are_scored_once() -> None:
    pool = Moody()
    groups = [
        group("chat", "a", ["x", "y", "x", "x"], {}),
        group("chat", "b", ["x", "x"], {"answer": [1]}),
    ]
    scored = Scorer({"chat": pool}).score({"chat": groups})["chat"]
    assert [[reward.value for reward in g.rewards] for g in scored] == [[0, 1, 0, 0], [2, 2]]
    assert [g.is_live for g in scored] == [True, False]
    assert len(pool.items) == 3


def test_abstentions_are_counted_and_too_many_stop_the_run() -> None:
    unknown = {
        "instruction_id_list": ["language:response_language"],
        "kwargs": [{"language": "xh"}],
    }
    groups = {"if": [group("if", "a", ["x"], CONSTRAINTS), group("if", "b", ["y"], unknown)]}
    pool = LocalPool(RewardConfig(kind="constraints"))
    scorer = Scorer({"if": pool}, max_abstained_share=0.5)
    scored = scorer.score(groups)
    assert [group.rewards[0].value for group in scored["if"]] == [1.0, None]
    assert scorer.abstained["if"] == 1
    with pytest.raises(AbstentionError, match=r"(?s)1 of 2; the first: .*'xh'"):
        Scorer({"if": pool}, max_abstained_share=0.4).score(groups)


class Fragile(BaseReward):
    """Fails on the whole batch when one item is bad, as a library might."""

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        if any(item.text == "bad" for item in items):
            raise ZeroDivisionError("bad item")
        return [Reward(1.0) for _ in items]


def test_one_bad_item_does_not_spoil_its_batch() -> None:
    worker = RewardWorker(RewardConfig(kind="constraints", missing_tag="whole_response"))
    worker.rewards["own"] = Fragile(None)
    rewards = worker.score([Response((), text) for text in ("a", "bad", "c")])
    assert [reward.value for reward in rewards] == [1.0, None, 1.0]
    assert rewards[1].error == "ZeroDivisionError: bad item"


@pytest.mark.parametrize("kind", ["math", "constraints"])
def test_light_rewards_do_not_import_torch(kind: str) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from mgsrl.config import RewardConfig; "
        "from mgsrl.rewards.actor import RewardWorker; "
        f"RewardWorker(RewardConfig(kind={kind!r})).ready(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_users_mistakes_are_found_before_any_actor_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"domains\.chat\.reward\.path is empty"):
        check_reward(RewardConfig(kind="reward_model"), "domains.chat.reward")
    with pytest.raises(MissingPathError, match=r"domains\.chat\.reward\.path"):
        check_reward(RewardConfig.of("reward_model", path="./none"), "domains.chat.reward")
    with pytest.raises(MissingPathError, match=r"(?s)domains\.chat\.reward\.path.*config\.json"):
        check_reward(RewardConfig.of("reward_model", path=str(tmp_path)), "domains.chat.reward")
    check_reward(RewardConfig(kind="math"), "domains.math.reward")


def test_actors_get_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    checked = check_reward(RewardConfig.of("reward_model", path="judge"), "domains.chat.reward")
    assert checked.options.path == str((tmp_path / "judge").resolve())


def needs(kind: str) -> Callable[[Mapping[str, Any]], None]:
    check = row_needs(RewardConfig(kind=kind)).validate
    assert check is not None
    return check


def test_validators() -> None:
    needs("math")({"answer": "1"})
    needs("constraints")(CONSTRAINTS)
    needs("reward_model")({})
    for kind in ("math", "constraints"):
        with pytest.raises(ValueError, match="expected"):
            needs(kind)({})


@pytest.mark.ray_cluster
def test_actors_on_a_real_cluster(tmp_path: Path) -> None:
    """Domains side by side, a killed actor replaced with nothing lost, mistakes told plainly."""
    with ray_session(ClusterConfig(object_store_gib=0.1)):
        pools = {
            "math": RewardPool("math", RewardConfig(kind="math", num_workers=2)),
            "if": RewardPool("if", RewardConfig(kind="constraints")),
        }
        scorer = Scorer(pools)
        facts = scorer.wait_ready()
        assert [fact["kind"] for fact in facts["math"]] == ["math", "math"]
        math = [
            group("math", str(n), [rf"\boxed{{{n}}}"] * 4, {"answer": n % 2}) for n in range(12)
        ]
        groups = {"math": math, "if": [group("if", "c", ["one", "a, b"], CONSTRAINTS)]}
        expected = [[float(n == n % 2)] * 4 for n in range(12)]
        for kill in (False, True):
            if kill:
                psutil.Process(facts["math"][0]["pid"]).kill()
            scored = scorer.score(groups)
            assert [[r.value for r in g.rewards] for g in scored["math"]] == expected
            assert [r.value for r in scored["if"][0].rewards] == [1.0, 0.0]
        assert sum(pools["math"].restarts) == 1
        (tmp_path / "config.json").write_text("{}")
        config = RewardConfig.of("reward_model", path=str(tmp_path))
        broken = RewardPool("chat", config)
        with pytest.raises(UserError, match="cannot be loaded"):
            broken.wait_ready()
        broken.stop()
        verifiers = [
            child.pid
            for fact in get(
                [handle.ready.remote() for handle in pools["math"].handles], 60, "x", "k"
            )
            for child in psutil.Process(fact["pid"]).children(recursive=True)
        ]
        assert verifiers
        scorer.stop()
    gone, alive = psutil.wait_procs(
        [psutil.Process(p) for p in verifiers if psutil.pid_exists(p)], 10
    )
    assert not alive
    assert not ray.is_initialized()
