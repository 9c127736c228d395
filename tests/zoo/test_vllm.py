"""Every family that vLLM serves: learner against engine before and after an update, every weight
proven, and what happens when an engine's experts are not refreshed.

vLLM changes classes of transformers in its own process, so the families are examined in children,
a few in each (an engine takes ten seconds, its imports as many).
"""

import multiprocessing
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mgsrl.config import PolicyConfig, RolloutConfig
from mgsrl.data.token_row import scoring_batch
from mgsrl.errors import StaleWeightsError
from mgsrl.learner.policy import load_forward
from mgsrl.rollout.decoding import Decoder
from mgsrl.sync.canary import CanaryError, check_canary, compare_logprobs
from mgsrl.sync.fingerprint import Proof, compare
from mgsrl.sync.publication import Publication
from mgsrl.sync.source import WeightSource
from mgsrl.sync.wire import pack_group
from tests.zoo.families import FAMILIES, build_family

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

GROUPS = (
    ("qwen3_moe", "qwen2_moe", "olmoe", "mixtral"),
    ("gpt_oss", "granitemoe", "gpt2", "opt"),
    ("llama3", "qwen3", "gemma3", "phi", "phi3"),
    ("falcon", "starcoder2", "olmo2", "stablelm"),
)
SEQUENCES = [(5, 9, 30, 31, 32, 77, 120), (8, 9, 10, 200, 201), tuple(range(40, 90))]
PARITY = 1e-5
"""Largest mean difference of log-probabilities in float32, in nats."""
UNSEEN = {
    "granitemoe": {
        f"model.layers.{layer}.block_sparse_moe.{name}.weight"
        for layer in (0, 1)
        for name in ("input_linear", "output_linear", "router.layer")
    }
}
"""Published names that the probe cannot find in the engine, which says so."""
LIMIT_S = 280


@dataclass(frozen=True)
class Outcome:
    before: CanaryError
    """At the weights from which both sides were loaded."""
    moved: CanaryError
    """The learner has made a step, the engine has not."""
    after: CanaryError
    """The step was published."""
    proof: Proof
    unrefreshed: Proof | None
    """Published again, without the repair of experts (families with experts)."""
    names: tuple[str, ...]
    """What was published."""


class Policy:
    """The learner's side: a real forward, and weights that can be moved and published."""

    def __init__(self, folder: Path) -> None:
        self.forward = load_forward(PolicyConfig(path=str(folder)), torch.float32)
        model = self.forward.policy
        self.publication = Publication(
            WeightSource(model), model, as_checkpoint=True, engine_dtype=torch.float32, keep=True
        )

    @torch.no_grad()
    def scores(self) -> list[list[float]]:
        rows = []
        for tokens in SEQUENCES:
            batch = scoring_batch([tokens], 1.0)
            found_BL = self.forward(batch.token_ids_T, batch.layout, batch.response_mask_BL, 1.0)[0]
            rows.append([0.0, *found_BL[0].tolist()])
        return rows

    @torch.no_grad()
    def move(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for value in self.forward.policy.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))

    def publish(self, engine: Any, version: int) -> None:
        self.publication.version = version
        engine.start_weight_update()
        for names, tensors in self.publication.iter_groups():
            engine.update_weights(pack_group(names, tensors))
        engine.finish_weight_update(str(version))

    def proof(self, engine: Any, version: int) -> Proof:
        published = self.publication.fingerprints
        return compare(engine.probe(version, list(published)), published)


def examine(folder: Path) -> Outcome:
    from mgsrl.rollout.vllm_engine import VllmEngine

    policy = Policy(folder)  # before vLLM changes the classes of some families
    loaded = policy.scores()
    policy.move(3)
    moved = policy.scores()
    config = RolloutConfig(kv_cache_gib=0.2, max_prompts_in_flight=8)
    engine = VllmEngine(str(folder), config, Decoder(str(folder)), max_model_len=96)
    engine.init_weight_transfer_engine({})
    scored = engine.logprobs(SEQUENCES)
    policy.publish(engine, 1)
    after, proof = engine.logprobs(SEQUENCES), policy.proof(engine, 1)
    unrefreshed = None
    if any(".experts." in name for name in policy.publication.fingerprints):
        unrefreshed = _without_refreshing(engine, policy)
    engine.close()
    return Outcome(
        before=compare_logprobs(scored, loaded),
        moved=compare_logprobs(scored, moved),
        after=compare_logprobs(after, moved),
        proof=proof,
        unrefreshed=unrefreshed,
        names=tuple(policy.publication.fingerprints),
    )


def _without_refreshing(engine: Any, policy: Policy) -> Proof:
    """The proof after an update in which the experts' kernels keep what they had."""
    from mgsrl.sync import vllm_receiver

    kept = {
        name: getattr(vllm_receiver, name)
        for name in ("unpack_experts", "repack_experts", "load_in_place")
    }
    policy.move(4)
    try:
        for name in kept:
            setattr(vllm_receiver, name, lambda model: None)
        policy.publish(engine, 2)
        return policy.proof(engine, 2)
    finally:
        for name, function in kept.items():
            setattr(vllm_receiver, name, function)


def _child(folders: Sequence[tuple[str, Path]], answers: Any) -> None:
    torch.set_num_threads(1)
    for name, folder in folders:
        try:
            answers.put((name, examine(folder)))
        except BaseException:
            answers.put((name, traceback.format_exc()))
            return  # a failed start leaves vLLM's process unusable


class Outcomes:
    """Examines the group of a family when one of its members is asked for."""

    def __init__(self, root: Path, tokenizer_of: Path) -> None:
        self.root, self.tokenizer_of = root, tokenizer_of
        self.found: dict[str, Outcome | str] = {}

    def of(self, name: str) -> Outcome:
        if name not in self.found:
            self._examine(next(group for group in GROUPS if name in group))
        found = self.found.get(name, "not reached: an earlier family of its group failed")
        if isinstance(found, str):
            pytest.fail(found)
        return found

    def _examine(self, group: Sequence[str]) -> None:
        folders = []
        for name in group:
            (self.root / name).mkdir()
            folders.append(
                (name, build_family(FAMILIES[name], self.root / name, self.tokenizer_of))
            )
        context = multiprocessing.get_context("spawn")
        answers = context.Queue()
        process = context.Process(target=_child, args=(folders, answers))
        process.start()
        for _ in group:
            name, outcome = answers.get(timeout=LIMIT_S)
            self.found[name] = outcome
            if isinstance(outcome, str):
                break
        process.join(30)
        process.kill()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Outcomes:
    return Outcomes(tmp_path_factory.mktemp("vllm_zoo"), tiny_model)


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("name", [name for group in GROUPS for name in group])
def test_parity_and_proof(name: str, outcomes: Outcomes) -> None:
    outcome = outcomes.of(name)
    print(name, outcome.before, outcome.moved, outcome.after, outcome.proof)
    assert outcome.before.mean < PARITY
    assert outcome.moved.mean > 0.1  # the step is far, so parity after it means something
    assert outcome.after.mean < PARITY
    assert outcome.proof.stale == ()
    assert set(outcome.proof.unseen) == UNSEEN.get(name, set())
    assert outcome.proof.num_seen + len(outcome.proof.unseen) == len(outcome.names)


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("name", ["qwen3_moe", "qwen2_moe", "olmoe", "mixtral", "gpt_oss"])
def test_experts_that_are_not_refreshed_stop_the_run_by_name(name: str, outcomes: Outcomes) -> None:
    proof = outcomes.of(name).unrefreshed
    assert proof is not None
    assert all("experts" in stale or "attn" in stale for stale in proof.stale)
    with pytest.raises(StaleWeightsError, match=r"layers\.0\..*\.experts"):
        check_canary(
            CanaryError(0.0, 0.0, 9),  # whatever the log-probabilities say
            proof,
            threshold=0.05,
            rounds=True,
            baseline=None,
            weight_version=2,
            worker="rollout worker 0",
        )
