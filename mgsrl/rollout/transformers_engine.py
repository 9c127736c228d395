"""A light engine on `transformers.generate`: starts in a second, exact, slow on long responses.

For tests and for models that vLLM does not know. Sampling is Gumbel-max: argmax of
`log softmax(logits / T)` plus seeded Gumbel noise IS a draw from that softmax (Gumbel 1954;
Maddison et al., arXiv 1411.0030). Every request has its own noise, so its tokens do not depend
on which other requests share its batch, beyond floating-point rounding of the logits.
New weights come between two batches of `max_prompts_in_flight` requests: a response is of one
version.
Left out: continuous batching, prefix caching, tensor parallelism: that is what vLLM is for.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch

from mgsrl.config.model_facts import model_facts
from mgsrl.config.model_load import load_causal_lm
from mgsrl.config.rollout import RolloutConfig
from mgsrl.errors import InvariantError, StaleWeightsError
from mgsrl.rollout.decoding import Decoder
from mgsrl.rollout.engine import Engine, EngineSpec, check_request
from mgsrl.rollout.residency import WEIGHTS
from mgsrl.sync.fingerprint import Seen, fingerprint
from mgsrl.sync.wire import unpack_group
from mgsrl.types import FinishReason, GenerationRequest, Rollout, Sampling


class GumbelSampler:
    """A `LogitsProcessor`: draws each row's token itself and leaves `generate` no choice.

    Keeps log p of every drawn token under the distribution it was drawn from, in `logprobs`:
    one float32 [B] per step.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.sampling = sampling
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        greedy = self.sampling.temperature == 0.0
        temperature = 1.0 if greedy else self.sampling.temperature
        logprobs_BV = torch.log_softmax(scores.float() / temperature, dim=-1)
        if greedy:
            chosen_B = logprobs_BV.argmax(dim=-1)
        else:
            logprobs_BV = _nucleus(logprobs_BV, self.sampling.top_p)
            chosen_B = (logprobs_BV.double() + self._noise(logprobs_BV)).argmax(dim=-1)
        self.logprobs.append(logprobs_BV.gather(1, chosen_B[:, None]).squeeze(1).cpu())
        forced_BV = torch.full_like(scores, -torch.inf)
        return forced_BV.scatter_(1, chosen_B[:, None], 0.0)

    def _noise(self, like_BV: torch.Tensor) -> torch.Tensor:
        """float64 [B, V] Gumbel noise. In float32 one draw in 2**24 would be exactly zero
        before the logarithm and force an arbitrary token."""
        vocab = like_BV.shape[1]
        rows = [
            torch.empty(vocab, dtype=torch.float64).exponential_(generator=generator)
            for generator in self.generators
        ]
        return -torch.stack(rows).log().to(like_BV.device)


class TransformersEngine(Engine):
    """`Engine` on a plain Hugging Face model.

    Args:
        model_path: folder or hub id of the weights.
        config: `dtype` and `max_prompts_in_flight` are used.
        decoder: the policy's tokenizer.
        device: `"cpu"` or `"cuda"`.
        trust_remote_code: run Python code that comes with the model.
    """

    @classmethod
    def load(cls, spec: EngineSpec, decoder: Decoder) -> Self:
        if spec.threads:
            torch.set_num_threads(spec.threads)
        return cls(
            spec.model_path,
            spec.config,
            decoder,
            device=spec.device,
            trust_remote_code=spec.trust_remote_code,
        )

    def __init__(
        self,
        model_path: str,
        config: RolloutConfig,
        decoder: Decoder,
        *,
        device: str = "cpu",
        trust_remote_code: bool = False,
    ) -> None:
        from transformers import GenerationConfig

        self.config = config
        self.decoder = decoder
        self.device = torch.device(device)
        self.model: Any = load_causal_lm(
            model_path, getattr(torch, config.dtype), trust_remote_code=trust_remote_code
        )
        self.model.to(self.device).eval().requires_grad_(False)
        # The model's own generation defaults (top-k 20, repetition penalty, ...) would bend the
        # distribution behind the log-probabilities.
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            eos_token_id=list(decoder.stop_token_ids),
            pad_token_id=decoder.pad_token_id,
        )
        self.positions = model_facts(model_path, trust_remote_code=trust_remote_code).positions
        self._received: set[str] | None = None
        self._shapes: dict[str, torch.Size] = {}  # of sleeping weights
        self._host: dict[str, torch.Tensor] = {}

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Rollout]:
        """Requests of equal sampling settings run together, in batches, in their order."""
        for request in requests:
            check_request(request, self.positions)
        made: dict[int, Rollout] = {}
        for batch in self.batches(requests):
            made.update(zip(map(id, batch), self._generate(batch), strict=True))
        return [made[id(request)] for request in requests]

    def batches(self, requests: Sequence[GenerationRequest]) -> Iterator[list[GenerationRequest]]:
        by_sampling: dict[Sampling, list[GenerationRequest]] = {}
        for request in requests:
            by_sampling.setdefault(request.sampling, []).append(request)
        size = self.config.max_prompts_in_flight
        for alike in by_sampling.values():
            for start in range(0, len(alike), size):
                yield alike[start : start + size]

    @torch.inference_mode()
    def _generate(self, batch: list[GenerationRequest]) -> list[Rollout]:
        sampling = batch[0].sampling
        sampler = GumbelSampler([request.seed for request in batch], sampling)
        token_ids_BL, mask_BL = self._padded([request.token_ids for request in batch], left=True)
        output_BL = self.model.generate(
            input_ids=token_ids_BL,
            attention_mask=mask_BL,
            logits_processor=[sampler],
            max_new_tokens=sampling.max_new_tokens,
        )
        sampled = output_BL[:, token_ids_BL.shape[1] :].tolist()
        logprobs = torch.stack(sampler.logprobs, dim=1).tolist()
        stops = set(self.decoder.stop_token_ids)
        responses: list[list[int]] = []
        for row in sampled:
            end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
            responses.append(row[:end])
        reasons: list[FinishReason] = ["stop" if r[-1] in stops else "length" for r in responses]
        return [
            Rollout(
                request_id=request.id,
                token_ids=tuple(response),
                logprobs=tuple(row[: len(response)]),
                text=text,
                finish_reason=reason,
                weight_version=self.weight_version,
            )
            for request, response, row, text, reason in zip(
                batch, responses, logprobs, self.decoder.texts(responses), reasons, strict=True
            )
        ]

    @torch.inference_mode()
    def logprobs(
        self, sequences: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        token_ids_BL, mask_BL = self._padded(sequences, left=False)
        logits_BLV = self.model(input_ids=token_ids_BL, attention_mask=mask_BL).logits
        logprobs_BLV = torch.log_softmax(logits_BLV[:, :-1].float() / temperature, dim=-1)
        chosen_BL = logprobs_BLV.gather(2, token_ids_BL[:, 1:, None]).squeeze(2).tolist()
        return [[0.0, *row[: len(s) - 1]] for s, row in zip(sequences, chosen_BL, strict=True)]

    def _padded(
        self, sequences: Sequence[Sequence[int]], *, left: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 [B, L] tokens and mask; padded on the left (prompts) or the right."""
        length = max(len(sequence) for sequence in sequences)
        token_ids_BL = torch.full((len(sequences), length), self.decoder.pad_token_id)
        mask_BL = torch.zeros_like(token_ids_BL)
        for row, sequence in enumerate(sequences):
            where = slice(length - len(sequence), length) if left else slice(0, len(sequence))
            token_ids_BL[row, where] = torch.tensor(sequence)
            mask_BL[row, where] = 1
        return token_ids_BL.to(self.device), mask_BL.to(self.device)

    def _parameters(self) -> dict[str, torch.Tensor]:
        return dict(self.model.named_parameters())

    def probe(self, version: int, published: Sequence[str]) -> list[Seen]:
        return [
            Seen(name, (name,), whole=fingerprint(value, version).whole)
            for name, value in self._parameters().items()
        ]

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Nothing to open: payloads arrive with the calls."""

    def start_weight_update(self) -> None:
        self._received = set()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Copy one layer group (`sync.wire.UpdateInfo`) into the parameters."""
        if self._received is None:
            raise InvariantError("update_weights was called before start_weight_update")
        parameters = self._parameters()
        for name, value in unpack_group(**update_info):
            if name not in parameters and name == "lm_head.weight":
                continue  # tied to the embedding, which is published under its own name
            if name not in parameters or parameters[name].shape != value.shape:
                known = tuple(parameters[name].shape) if name in parameters else "no such name"
                raise StaleWeightsError(
                    f"the learner published {name} {tuple(value.shape)}, the engine has {known}: "
                    "they do not hold the same model"
                )
            parameters[name].data.copy_(value)
            self._received.add(name)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        missing = sorted(set(self._parameters()) - (self._received or set()))
        if missing:
            raise StaleWeightsError(
                f"weight version {weight_version} is incomplete: {missing[0]} and "
                f"{len(missing) - 1} more parameters were not published"
            )
        self._received = None
        if weight_version is not None:
            self.weight_version = int(weight_version)

    def sleep(self, level: int) -> None:
        """Real on every device: the weights' memory goes back (there is no cache between calls)."""
        parameters = self._parameters()
        self._shapes = {name: value.shape for name, value in parameters.items()}
        self._host = {n: v.data.cpu() for n, v in parameters.items()} if level == 1 else {}
        for value in parameters.values():
            value.data = value.data.new_empty(0)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def wake_up(self, tags: Sequence[str]) -> None:
        """Dropped weights come back as NaN, so that no response can be made of them unseen."""
        if WEIGHTS not in tags:
            return
        for name, value in self._parameters().items():
            kept = self._host.pop(name, None)
            value.data = (
                value.data.new_full(self._shapes[name], torch.nan)
                if kept is None
                else kept.to(self.device)
            )

    def close(self) -> None:
        self.model = None


def _nucleus(logprobs_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Log-probabilities renormalized over the smallest set of tokens of mass >= top_p."""
    if top_p >= 1.0:
        return logprobs_BV
    sorted_BV, order_BV = logprobs_BV.sort(dim=-1, descending=True)
    before_BV = sorted_BV.exp().cumsum(dim=-1) - sorted_BV.exp()
    sorted_BV = sorted_BV.masked_fill(before_BV >= top_p, -torch.inf)
    kept_BV = torch.empty_like(sorted_BV).scatter_(1, order_BV, sorted_BV)
    return torch.log_softmax(kept_BV, dim=-1)
