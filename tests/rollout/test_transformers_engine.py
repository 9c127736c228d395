"""The light engine: exact sampling, per-request seeds, log-probabilities, weights in place."""

from pathlib import Path

import pytest
import torch

from mgsrl.config import RolloutConfig
from mgsrl.errors import InvariantError, StaleWeightsError
from mgsrl.rollout.decoding import Decoder
from mgsrl.rollout.transformers_engine import GumbelSampler, TransformersEngine
from mgsrl.sync.canary import compare_logprobs
from mgsrl.sync.fingerprint import Proof, compare, fingerprint
from mgsrl.sync.wire import pack_group
from mgsrl.types import GenerationRequest, Sampling


def make_engine(path: Path, dtype: str = "float32") -> TransformersEngine:
    config = RolloutConfig(engine="transformers", max_prompts_in_flight=8, dtype=dtype)
    return TransformersEngine(str(path), config, Decoder(str(path)))


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TransformersEngine:
    return make_engine(tiny_model)


def request(
    seed: int, prompt: tuple[int, ...] = (5, 9, 30), **sampling: float
) -> GenerationRequest:
    settings = {"temperature": 1.0, "max_new_tokens": 12, **sampling}
    return GenerationRequest(f"r{seed}", prompt, seed, Sampling(**settings))


def reference_logprobs(
    path: Path, prompt: tuple[int, ...], response: tuple[int, ...], temperature: float
) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokens = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(tokens).logits[0] / temperature, dim=-1)
    start = len(prompt) - 1
    return logprobs[start:-1].gather(1, tokens[0, start + 1 :, None]).squeeze(1)


def test_no_responses_are_no_texts(tiny_model: Path) -> None:
    decoder = Decoder(str(tiny_model))
    assert decoder.texts([]) == []
    assert decoder.texts([()]) == [""]


def test_gumbel_max_draws_from_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    draws = 20000
    sampler = GumbelSampler(range(draws), Sampling(temperature=0.7, max_new_tokens=1))
    chosen = sampler(torch.zeros(draws, 1), logits.expand(draws, 4)).argmax(dim=-1)
    frequency = torch.bincount(chosen, minlength=4) / draws
    expected = torch.softmax(logits / 0.7, dim=-1)
    assert torch.allclose(frequency, expected, atol=4 * (0.25 / draws) ** 0.5)
    assert torch.allclose(sampler.logprobs[0].exp(), expected[chosen])


@pytest.mark.capability(feature="nucleus in evaluation", engine="transformers", dtype="float32")
def test_nucleus_samples_only_the_nucleus_and_reports_its_distribution() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    sampler = GumbelSampler(range(500), Sampling(temperature=1.0, max_new_tokens=1, top_p=0.7))
    chosen = sampler(torch.zeros(500, 1), logits.expand(500, 4)).argmax(dim=-1)
    assert set(chosen.tolist()) == {0, 1}
    expected = torch.tensor([0.5, 0.3])[chosen] / 0.8
    assert torch.allclose(sampler.logprobs[0].exp(), expected)


@pytest.mark.capability(
    feature="log-probabilities of what was sampled", engine="transformers", dtype="float32"
)
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_logprobs_are_of_the_sampling_distribution(
    engine: TransformersEngine, tiny_model: Path, temperature: float
) -> None:
    rollouts = engine.generate(
        [request(s, (5, 9, 30)[: 1 + s], temperature=temperature) for s in range(3)]
    )
    assert len(rollouts) == 3
    for index, rollout in enumerate(rollouts):
        prompt = (5, 9, 30)[: 1 + index]
        expected = reference_logprobs(tiny_model, prompt, rollout.token_ids, temperature)
        assert torch.allclose(torch.tensor(rollout.logprobs), expected, atol=1e-4)


@pytest.mark.capability(
    feature="equal requests, equal bits", engine="transformers", dtype="float32"
)
def test_the_same_batch_gives_the_same_bits(engine: TransformersEngine) -> None:
    batch = [request(seed, (7,) * (1 + seed % 4)) for seed in range(11)]
    assert engine.generate(batch) == engine.generate(batch)


def test_a_request_does_not_depend_on_its_batch(engine: TransformersEngine) -> None:
    batch = [request(seed, (7,) * (1 + seed % 4)) for seed in range(6)]
    together = [r.token_ids for r in engine.generate(batch)]
    alone = [engine.generate([r])[0].token_ids for r in reversed(batch)][::-1]
    assert together == alone
    assert len(set(together)) > 1


def test_mixed_settings_keep_the_order_of_the_requests(engine: TransformersEngine) -> None:
    batch = [request(s, max_new_tokens=3 if s % 2 else 6) for s in range(10)]
    rollouts = engine.generate(batch)
    assert [r.request_id for r in rollouts] == [r.id for r in batch]
    assert max(len(r.token_ids) for r in rollouts[1::2]) <= 3


def test_greedy_at_temperature_zero(engine: TransformersEngine) -> None:
    first, second = engine.generate([request(1, temperature=0.0), request(2, temperature=0.0)])
    assert first.token_ids == second.token_ids


def test_stops_at_the_end_of_sequence_token(engine: TransformersEngine) -> None:
    rollouts = engine.generate([request(seed, max_new_tokens=200) for seed in range(8)])
    stop = engine.decoder.stop_token_ids[0]
    stopped = [r for r in rollouts if r.finish_reason == "stop"]
    assert stopped, "a random model over 300 tokens meets <eos> within 200 tokens now and then"
    for rollout in stopped:
        assert rollout.token_ids[-1] == stop
        assert stop not in rollout.token_ids[:-1]
        assert "<eos>" not in rollout.text
    for rollout in rollouts:
        assert len(rollout.logprobs) == len(rollout.token_ids)


def test_score_is_the_logprob_of_each_token(engine: TransformersEngine, tiny_model: Path) -> None:
    sequences = [(5, 9, 30, 31, 32), (8, 9, 10)]
    for sequence, scores in zip(sequences, engine.logprobs(sequences, 0.7), strict=True):
        assert scores[0] == 0.0
        expected = reference_logprobs(tiny_model, sequence[:1], sequence[1:], 0.7)
        assert torch.allclose(torch.tensor(scores[1:]), expected, atol=1e-5)


@pytest.mark.capability(feature="new weights in place", engine="transformers", dtype="float32")
@pytest.mark.parametrize("tied", [True, False])
def test_weights_arrive_in_place(tied: bool, tiny_model: Path, tiny_untied_model: Path) -> None:
    engine = make_engine(tiny_model if tied else tiny_untied_model)
    generator = torch.Generator().manual_seed(3)
    new = {
        name: value + 0.05 * torch.randn(value.shape, generator=generator)
        for name, value in engine.model.named_parameters()
    }
    before = engine.logprobs([(5, 9, 30, 31)])
    engine.start_weight_update()
    for name, value in new.items():
        engine.update_weights(pack_group([name], [value]))
    engine.finish_weight_update("7")
    assert engine.weight_version == 7
    assert engine.logprobs([(5, 9, 30, 31)]) != before
    assert engine.generate([request(0)])[0].weight_version == 7
    published = {name: (fingerprint(value, 7),) for name, value in new.items()}
    assert compare(engine.probe(7, list(published)), published) == Proof((), (), len(new))


def test_incomplete_and_foreign_weights_are_refused(tiny_model: Path) -> None:
    engine = make_engine(tiny_model)
    with pytest.raises(InvariantError):
        engine.update_weights(pack_group([], []))
    engine.start_weight_update()
    with pytest.raises(StaleWeightsError, match=r"published nonsense"):
        engine.update_weights(pack_group(["nonsense"], [torch.zeros(2)]))
    with pytest.raises(StaleWeightsError, match=r"incomplete: lm_head|incomplete: model"):
        engine.finish_weight_update("1")


def test_a_version_that_is_one_small_step_old_is_caught(tiny_model: Path) -> None:
    """bfloat16, learning rate 1e-6: the log-probabilities hardly show it, the weights do."""
    engine = make_engine(tiny_model, dtype="bfloat16")
    masters = {n: v.detach().float().requires_grad_() for n, v in engine.model.named_parameters()}
    optimizer = torch.optim.AdamW(masters.values(), lr=1e-6, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for value in masters.values():
        value.grad = torch.randn(value.shape, generator=generator)
    optimizer.step()
    new = {name: value.detach().bfloat16() for name, value in masters.items()}
    moved = {n for n, v in engine.model.named_parameters() if not torch.equal(v, new[n])}
    assert moved  # most weights are larger than what such a step can move in bfloat16
    share = sum(int((v != new[n]).sum()) for n, v in engine.model.named_parameters())
    assert share < 0.05 * sum(v.numel() for v in new.values())
    published = {name: (fingerprint(value, 1),) for name, value in new.items()}
    proof = compare(engine.probe(1, list(published)), published)
    assert set(proof.stale) == moved
    before = engine.logprobs([(5, 9, 30, 31)])
    engine.start_weight_update()
    engine.update_weights(pack_group(list(new), list(new.values())))
    engine.finish_weight_update("1")
    error = compare_logprobs(before, engine.logprobs([(5, 9, 30, 31)]))
    assert error.mean < 0.02  # below any threshold that bfloat16 allows
    assert compare(engine.probe(1, list(published)), published).stale == ()
