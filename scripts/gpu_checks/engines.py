"""The transformers engine, the reward model and the learner agree on this device."""

import time
from dataclasses import replace
from pathlib import Path

import torch

from gpu_checks.beside import beside
from gpu_checks.models import pocket, start_worker
from gpu_checks.record import Record, Setting


def engines(setting: Setting, record: Record) -> None:
    for dtype in ("float32", "bfloat16"):
        with record.caught(f"engine and learner {dtype}"):
            engine_and_learner(setting, record, dtype)
    with record.caught("reward model"):
        reward_model(setting, record)
    with record.caught("transformers engine beside the learner"):
        beside(setting, record, "transformers")


def engine_and_learner(setting: Setting, record: Record, dtype: str) -> None:
    from mgsrl.config.rollout import RolloutConfig
    from mgsrl.rollout.decoding import Decoder
    from mgsrl.rollout.transformers_engine import TransformersEngine
    from mgsrl.sync.fingerprint import fingerprint
    from mgsrl.types import GenerationRequest, Sampling
    from tests.learner.parts import Case

    path = pocket()
    decoder = Decoder(path)
    engine = TransformersEngine(
        path,
        RolloutConfig(engine="transformers", dtype=dtype),
        decoder,
        device=setting.device.type,
    )
    sampling = Sampling(temperature=0.8, max_new_tokens=24)
    prompt = decoder.tokenizer("What is 2 plus 3?")["input_ids"]
    requests = [
        GenerationRequest(str(seed), tuple(prompt[: 3 + seed % 5]), seed, sampling)
        for seed in range(8 if setting.quick else 32)
    ]
    begin = time.perf_counter()
    rollouts = engine.generate(requests)
    record.measure(f"transformers engine {dtype}", time.perf_counter() - begin, "s")
    worker = start_worker(setting, Path(path), Case(dtype=dtype, kl_coef=0.0))
    sequences = [[*q.token_ids, *r.token_ids] for q, r in zip(requests, rollouts)]
    learned = worker.logprobs(sequences, sampling.temperature)
    differences = torch.tensor(
        [
            abs(a - b)
            for q, r, row in zip(requests, rollouts, learned)
            for a, b in zip(r.logprobs, row[len(q.token_ids) :], strict=True)
        ]
    )
    limit = 1e-4 if dtype == "float32" else 0.1
    name = f"engine against learner {dtype}"
    record.at_most(f"{name}, mean", differences.mean().item(), limit, "nats")
    record.measure(f"{name}, largest", differences.max().item(), "nats")
    held = {seen.name: seen.whole for seen in engine.probe(5, [])}
    sent = {name: fingerprint(value, 5).whole for name, value in worker.source}
    unequal = [name for name, whole in held.items() if sent.get(name, whole) != whole]
    record.equal(f"weights of engine and learner {dtype} that differ", unequal, [])


def reward_model(setting: Setting, record: Record) -> None:
    from mgsrl.config import RewardConfig
    from mgsrl.rewards.actor import RewardWorker
    from mgsrl.rewards.protocol import Response

    answers = ("It is 5.", "", "Five apples, since 2 + 3 = 5.", "No.", "5 5 5 5 5", "The sea.")
    items = [
        Response(({"role": "user", "content": "What is 2 + 3?"},), f"<response>{a}</response>")
        for a in answers
    ]
    config = RewardConfig.of("reward_model", path="pocket")
    scores = [
        torch.tensor([r.value for r in RewardWorker(replace(config, num_gpus=gpus)).score(items)])
        for gpus in ((0.0, 1.0) if setting.on_gpu else (0.0, 0.0))
    ]
    error = (scores[0] - scores[1]).abs().max().item()
    record.at_most(
        "reward model on this device against the CPU", error, 0.1 if setting.on_gpu else 0.0
    )
    record.measure("reward model: spread of its scores", scores[0].std().item())
