"""What holds for rollout engines: what a response reports is what the policy computes.

The model is the bundled policy, in float32 on a CPU, beside transformers' own forward of the same
weights. Left out: speed, several GPUs, and NCCL.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mgsrl.config import RolloutConfig
from mgsrl.config.model_path import POCKET, POCKET_POLICY, resolve_model_path
from mgsrl.errors import ConfigError
from mgsrl.rollout.decoding import Decoder
from mgsrl.rollout.engine import Engine, EngineSpec, rollout_engine, sleep_verbs_missing
from mgsrl.rollout.residency import KV_CACHE, WEIGHTS
from mgsrl.sync.fingerprint import compare, fingerprint
from mgsrl.sync.wire import pack_group
from mgsrl.testing.demand import demand
from mgsrl.types import GenerationRequest, Rollout, Sampling

TOLERANCE = 2e-3
"""Nats between two float32 implementations of one model."""
CONTEXT = 96
TOO_LONG = 1_000_000


def check_engine(name: str) -> None:
    """Load the engine and hold what it generates, reports and takes against the plain model.

    Args:
        name: as in `rollout.engine`; a class that derives from `mgsrl.rollout.engine.Engine`.

    Raises:
        ContractError: a property does not hold.
        ConfigError: there is no such engine, or it cannot run here.
    """
    from transformers import AutoModelForCausalLM

    kind = rollout_engine(name)
    kind.check("cpu")
    path = resolve_model_path(POCKET, "policy.path", POCKET_POLICY)
    config = RolloutConfig(engine=name, dtype="float32", max_prompts_in_flight=8)
    engine = kind.load(EngineSpec(config, path, CONTEXT), Decoder(path))
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, trust_remote_code=False
    ).eval()
    part = f"The engine {name}"
    try:
        _responses(engine, model, part)
        _weights(engine, model, part)
        if not sleep_verbs_missing(kind):
            _sleep(engine, model, part)
    finally:
        engine.close()
    engine.close()


def _request(seed: int, **sampling: float) -> GenerationRequest:
    settings = {"temperature": 1.0, "max_new_tokens": 8 + seed % 3, **sampling}
    prompt = tuple(range(5, 8 + seed % 4))
    return GenerationRequest(f"r{seed}", prompt, seed, Sampling(**settings))  # type: ignore[arg-type]


def _responses(engine: Engine, model: torch.nn.Module, part: str) -> None:
    requests = [_request(seed, temperature=1.0 if seed < 6 else 0.7) for seed in range(8)]
    rollouts = engine.generate(requests)
    found = [rollout.request_id for rollout in rollouts]
    demand(found == [r.id for r in requests], part, "a response per request, in their order", found)
    for request, rollout in zip(requests, rollouts, strict=True):
        limit, count = request.sampling.max_new_tokens, len(rollout.token_ids)
        demand(0 < count <= limit, part, f"1 to {limit} tokens", count)
        demand(len(rollout.logprobs) == count, part, "a log-probability per token", rollout)
        whole = (*request.token_ids, *rollout.token_ids)
        expected = _logprobs(model, whole, request.sampling.temperature)[-count:]
        _close(rollout.logprobs, expected, part, "what it reports of the tokens it sampled")
        if request.sampling.temperature != 1.0:
            continue  # of a sequence an engine need not know them at other temperatures
        (own,) = engine.logprobs([whole])
        demand(own[0] == 0.0 and len(own) == len(whole), part, "0.0 for the first token", own[:1])
        _close(own[-count:], expected, part, "its log-probabilities of a sequence")
    tokens = _tokens(rollouts)
    demand(_tokens(engine.generate(requests)) == tokens, part, "equal requests, equal tokens", "no")
    alone = [_tokens(engine.generate([request]))[0] for request in reversed(requests)][::-1]
    demand(alone == tokens, part, "a response does not depend on its batch", "another one")
    demand(len(set(tokens)) > 1, part, "seeds draw different responses", "one response")
    greedy = _tokens(engine.generate([_request(s, temperature=0.0) for s in (0, 12, 24)]))
    demand(len(set(greedy)) == 1, part, "temperature 0 is greedy, whatever the seed", greedy)
    try:
        engine.generate([_request(0, max_new_tokens=TOO_LONG)])
    except ConfigError:
        return
    demand(False, part, "ConfigError for what is longer than its context", "a response")


def _weights(engine: Engine, model: torch.nn.Module, part: str) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.02 * torch.randn(value.shape, generator=generator))
    new: dict[str, Tensor] = {name: p.detach() for name, p in model.named_parameters()}
    _publish(engine, new, "7")
    version = engine.weight_version
    demand(version == 7, part, "the version of the new weights", version)
    (rollout,) = engine.generate([_request(0)])
    demand(rollout.weight_version == 7, part, "the version in its responses", rollout)
    whole = (*_request(0).token_ids, *rollout.token_ids)
    _close(engine.logprobs([whole])[0], [0.0, *_logprobs(model, whole, 1.0)], part, "new weights")
    published = {name: (fingerprint(weight, 7),) for name, weight in new.items()}
    proof = compare(engine.probe(7, list(published)), published)
    demand(not proof.stale, part, "fingerprints of what it computes with", proof.stale)


def _sleep(engine: Engine, model: torch.nn.Module, part: str) -> None:
    """It computes after a sleep as it did before, the weights of level 2 sent anew."""
    requests = [_request(seed) for seed in range(4)]
    tokens = _tokens(engine.generate(requests))
    engine.sleep(engine.sleep_level)
    engine.wake_up([WEIGHTS])
    if engine.sleep_level == 2:
        _publish(engine, {name: p.detach() for name, p in model.named_parameters()}, "8")
    engine.wake_up([KV_CACHE])
    demand(_tokens(engine.generate(requests)) == tokens, part, "equal tokens after a sleep", "no")
    engine.sleep(1)
    engine.wake_up([WEIGHTS, KV_CACHE])
    demand(_tokens(engine.generate(requests)) == tokens, part, "weights kept at level 1", "no")


def _publish(engine: Engine, weights: dict[str, Tensor], version: str) -> None:
    engine.start_weight_update()
    for name, weight in weights.items():
        engine.update_weights(pack_group([name], [weight]))
    engine.finish_weight_update(version)


def _tokens(rollouts: Sequence[Rollout]) -> list[tuple[int, ...]]:
    return [tuple(rollout.token_ids) for rollout in rollouts]


def _logprobs(model: torch.nn.Module, tokens: Sequence[int], temperature: float) -> list[float]:
    """Of every token but the first."""
    ids_1T = torch.tensor([list(tokens)])
    with torch.no_grad():
        logprobs_TV = torch.log_softmax(model(ids_1T).logits[0] / temperature, dim=-1)
    found: list[float] = logprobs_TV[:-1].gather(1, ids_1T[0, 1:, None]).flatten().tolist()
    return found


def _close(found: Sequence[float], expected: Sequence[float], part: str, what: str) -> None:
    error = max((abs(a - b) for a, b in zip(found, expected, strict=True)), default=0.0)
    demand(error < TOLERANCE, part, f"{what}: the model's own, to {TOLERANCE:g} nats", error)
