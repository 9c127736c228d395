"""vLLM in this process: tokens in, tokens and log-probabilities out, weights swapped in place.

What matters here:
- `logprobs_mode="processed_logprobs"`: the log-probability of a token under the distribution it
  was drawn from, temperature (and, in evaluation, the nucleus) included.
- `generation_config="vllm"`: the model's own generation defaults (top-k 20 in Qwen2.5, ...) do
  not bend that distribution. Stop tokens are passed explicitly instead.
- Every request has its own seed; the prefix cache is emptied before work begins, so equal batches
  give equal bits whatever ran before.
- Requests come and go while others run. New weights may come in between: running requests keep
  their tokens, lose their keys and values, and go on as the new weights would from those tokens
  (what AReaL does, arXiv 2505.24298), so every log-probability is exactly one version's.
  Left out: keeping keys and values of old weights (PipelineRL), which saves a prefill.
- One GPU or the CPU: one process. Several GPUs per engine: vLLM's `mp` executor, its workers
  children of this process (not run here).
- Sleep mode (`placement=colocated`) is vLLM's own: its allocator on GPUs; on the CPU it only pauses
  the scheduler, so that the same calls run there.
Left out: LoRA, speculative decoding.
"""

import logging
import math
import os
from collections.abc import Sequence
from typing import Any, Self, cast

from mgsrl.config.model_facts import ModelFacts, model_facts
from mgsrl.config.rollout import RolloutConfig
from mgsrl.errors import ConfigError, InvariantError
from mgsrl.rollout.decoding import Decoder
from mgsrl.rollout.engine import Engine, EngineSpec, check_fits, check_request
from mgsrl.rollout.support import check_libraries, check_model, lost_in_transfer
from mgsrl.sync.backend import choose_transfer
from mgsrl.sync.fingerprint import Seen, over_ranks
from mgsrl.types import FinishReason, GenerationRequest, Rollout, Sampling

GIB = 1 << 30
CPU_BLOCK_SIZE = 32
"""KV-cache block in tokens. vLLM's CPU default, 128, would share no prefix shorter than that."""
URGENT, PATIENT = 0, 1
"""vLLM's priorities: the smaller goes first."""
PREFILL_TOKENS = 8192
"""Prompt tokens per scheduler step: all prompts of a small batch at once."""


def vllm_environment(config: RolloutConfig, device: str) -> dict[str, str]:
    """Environment that vLLM reads when it is imported; values already set win."""
    env = {
        # vLLM, PyTorch: a screen of warnings about what the CPU lacks, on every start.
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONWARNINGS": "ignore::FutureWarning",
        "VLLM_NO_USAGE_STATS": "1",
        # Its core in this process, also over several GPUs: between two processes vLLM would take
        # fingerprints and handles of memory only as pickles of anybody's.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    if config.tensor_parallel_size == 1:
        # A process group of one: nobody else has to reach it.
        env |= {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    if device == "cpu":
        # Actors share the machine; binding would pile all of them on the same cores.
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if config.enforce_eager:
            # Saves 20 s: vLLM compiles one helper of its sampler at the first request.
            env["TORCHDYNAMO_DISABLE"] = "1"
    return {key: os.environ.get(key, value) for key, value in env.items()}


class VllmEngine(Engine):
    """`Engine` on vLLM.

    Args:
        model_path: folder or hub id of the weights.
        config: the rollout settings.
        decoder: the policy's tokenizer (vLLM gets none: nothing is tokenized there).
        max_model_len: longest prompt plus response; cut to what the model's positions allow.
        device: `"cpu"` or `"cuda"`.
        trust_remote_code: run Python code that comes with the model.
        sleeps: it will be put to sleep.
    """

    nccl = True
    ipc = True
    takes_checkpoints = True
    splits = True
    memory_gib = 1.5  # 1.8 resident, shared pages included (2026-11)
    hint = " (vLLM takes about half a minute)"
    environment = staticmethod(vllm_environment)
    check = staticmethod(check_libraries)
    check_model = staticmethod(check_model)
    lost_in_transfer = staticmethod(lost_in_transfer)

    @classmethod
    def check_memory(cls, config: RolloutConfig, device: str, memory_gib: float) -> None:
        if device == "cpu" and config.kv_cache_gib > memory_gib:
            raise ConfigError(
                "rollout.kv_cache_gib is more than the machine has.",
                expected=f"at most {memory_gib:.1f} GiB",
                found=f"{config.kv_cache_gib:g}",
                todo="set rollout.kv_cache_gib=1 or another size that fits",
            )

    @classmethod
    def load(cls, spec: EngineSpec, decoder: Decoder) -> Self:
        return cls(
            spec.model_path,
            spec.config,
            decoder,
            max_model_len=spec.max_model_len,
            device=spec.device,
            trust_remote_code=spec.trust_remote_code,
            sleeps=spec.sleeps,
        )

    def __init__(
        self,
        model_path: str,
        config: RolloutConfig,
        decoder: Decoder,
        *,
        max_model_len: int,
        device: str = "cpu",
        trust_remote_code: bool = False,
        sleeps: bool = False,
    ) -> None:
        os.environ.update(vllm_environment(config, device))
        # vLLM's import logs before it sets its own logger up.
        logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
        from vllm import LLM
        from vllm.config import WeightTransferConfig

        import mgsrl.sync.vllm_receiver  # noqa: F401  registers the `object_store` transfer

        self.config = config
        self.decoder = decoder
        facts = model_facts(model_path, trust_remote_code=trust_remote_code)
        # One token more than asked, so that full-length sequences can be scored, if it fits.
        self.max_model_len = min(max_model_len + 1, facts.positions or max_model_len + 1)
        parallel = config.tensor_parallel_size
        memory: dict[str, Any] = {"gpu_memory_utilization": config.gpu_memory_utilization}
        if device == "cpu":
            memory = _cpu_arguments(facts, config, self.max_model_len)
        self._running: dict[str, GenerationRequest] = {}
        """By vLLM's name of the request."""
        self._outputs: dict[str, Any] = {}
        """vLLM's, finished and not yet handed on, by the same name."""
        self.llm: Any = LLM(
            model=model_path,
            skip_tokenizer_init=True,
            trust_remote_code=trust_remote_code,
            dtype=config.dtype,
            max_model_len=self.max_model_len,
            max_num_seqs=config.max_prompts_in_flight,
            max_num_batched_tokens=max(PREFILL_TOKENS, self.max_model_len),
            tensor_parallel_size=parallel,
            distributed_executor_backend="uni" if parallel == 1 else "mp",
            enforce_eager=config.enforce_eager,
            # vLLM refuses it on the CPU, where there is nothing to give back.
            enable_sleep_mode=sleeps and device == "cuda",
            enable_prefix_caching=True,
            scheduling_policy="priority",
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            disable_log_stats=True,
            use_tqdm_on_load=False,
            weight_transfer_config=WeightTransferConfig(
                backend=choose_transfer(config.sync.transfer, device, colocated=sleeps)
            ),
            worker_extension_cls="mgsrl.sync.vllm_receiver.WorkerExtension",
            **memory,
        )
        if sleeps:
            self.llm.collective_rpc("keep_unpublished")

    def stream(self) -> Self:
        return self

    def submit(self, requests: Sequence[GenerationRequest], urgent: bool = False) -> None:
        self._submit(requests, URGENT if urgent else PATIENT)

    def step(self) -> list[Rollout]:
        """One token of each running request; `max_prompts_in_flight` run at a time."""
        if not self._outputs:
            self._advance()
        return self._rollouts(list(self._outputs))

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Rollout]:
        """All of them at once, and before others that wait."""
        names = self._submit(requests, URGENT)
        self._wait(names)
        return self._rollouts(names)

    def logprobs(
        self, sequences: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """At temperature 1 only: vLLM takes prompt log-probabilities from the raw logits.

        Running requests go on meanwhile, with the same weights; these come before all that wait.
        A sequence may have up to `max_model_len - 1` tokens.
        """
        if temperature != 1.0:
            raise InvariantError(f"vLLM scores prompts at temperature 1 only, not {temperature}")
        from vllm import SamplingParams

        for sequence in sequences:
            check_fits("a sequence to score", len(sequence), 1, self.max_model_len)
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        names = self._enqueue(sequences, [params] * len(sequences), URGENT)
        self._wait(names)
        prompts = [self._outputs.pop(name).prompt_logprobs for name in names]
        return [
            [
                0.0 if at is None else at[token].logprob
                for token, at in zip(sequence, prompt, strict=True)
            ]
            for sequence, prompt in zip(sequences, prompts, strict=True)
        ]

    def probe(self, version: int, published: Sequence[str]) -> list[Seen]:
        return over_ranks(
            self.llm.collective_rpc("probe_parameters", args=(version, list(published)))
        )

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.llm.shutdown_weight_transfer_engine()  # else a former NCCL group keeps its memory
        self.llm.init_weight_transfer_engine({"init_info": init_info})

    def start_weight_update(self) -> None:
        """Running requests are kept, and stand still until `finish_weight_update`."""
        if self._running:
            self.llm.sleep(level=0, mode="keep")
            core = getattr(self.llm.llm_engine.engine_core, "engine_core", None)
            while core is not None and core.batch_queue:  # on GPUs: what it works on ahead
                self._advance()
        self.llm.start_weight_update()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.llm.update_weights({"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Also empties the cache: its keys and values are of the old weights."""
        self.llm.finish_weight_update(weight_version)
        if not self.llm.reset_prefix_cache(reset_running_requests=bool(self._running)):
            raise InvariantError("the prefix cache could not be emptied: requests are running")
        if self._running:
            self.llm.wake_up(tags=["scheduling"])
        if weight_version is not None:
            self.weight_version = int(weight_version)

    def sleep(self, level: int) -> None:
        """Also empties the prefix cache."""
        self.llm.sleep(level=level, mode="abort")  # there are no requests

    def wake_up(self, tags: Sequence[str]) -> None:
        self.llm.wake_up(tags=list(tags))

    def close(self) -> None:
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None

    def _sampling_params(self, sampling: Sampling, seed: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=seed,
            stop_token_ids=list(self.decoder.stop_token_ids),
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,
            detokenize=False,
        )

    def _submit(self, requests: Sequence[GenerationRequest], priority: int) -> list[str]:
        for request in requests:
            check_request(request, self.max_model_len)
        if not self._running:
            self.llm.reset_prefix_cache()
        params = [self._sampling_params(request.sampling, request.seed) for request in requests]
        names = self._enqueue([request.token_ids for request in requests], params, priority)
        self._running.update(zip(names, requests, strict=True))
        return names

    def _enqueue(
        self, prompts: Sequence[Sequence[int]], params: Sequence[Any], priority: int
    ) -> list[str]:
        """The names under which their outputs come."""
        names = self.llm.enqueue(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            list(params),
            priority=[priority] * len(prompts),
            use_tqdm=False,
        )
        return [name.partition("-")[0] for name in names]  # vLLM adds random characters

    def _advance(self) -> None:
        """One step of vLLM's scheduler."""
        for output in self.llm.llm_engine.step():
            if output.finished:
                self._outputs[output.request_id] = output

    def _wait(self, names: Sequence[str]) -> None:
        while any(name not in self._outputs for name in names):
            self._advance()

    def _rollouts(self, names: Sequence[str]) -> list[Rollout]:
        """Of finished requests, which leave the engine."""
        requests = [self._running.pop(name) for name in names]
        outputs = [self._outputs.pop(name).outputs[0] for name in names]
        responses = [tuple(output.token_ids) for output in outputs]
        rollouts = []
        for request, output, response, text in zip(
            requests, outputs, responses, self.decoder.texts(responses), strict=True
        ):
            (_, version), *changes = [
                (span.start, _version(span.version)) for span in output.weight_versions
            ]
            rollouts.append(
                Rollout(
                    request_id=request.id,
                    token_ids=response,
                    logprobs=_sampled_logprobs(output.logprobs, response),
                    text=text,
                    finish_reason=cast(FinishReason, output.finish_reason),
                    weight_version=version,
                    version_changes=tuple(changes),
                )
            )
        return rollouts


def _version(label: str) -> int:
    """vLLM's label of weights that it loaded itself is a word."""
    return int(label) if label.isdigit() else -1


def _sampled_logprobs(flat: Any, response: Sequence[int]) -> tuple[float, ...]:
    """vLLM's `FlatLogprobs` with `logprobs=0`: one entry per position, the sampled token's."""
    if tuple(flat.token_ids) != tuple(response):
        raise InvariantError("vLLM returned log-probabilities of other tokens than it sampled")
    return tuple(flat.logprobs)


def _cpu_arguments(facts: ModelFacts, config: RolloutConfig, max_model_len: int) -> dict[str, Any]:
    return {
        "kv_cache_memory_bytes": _kv_cache_bytes(facts, config, max_model_len),
        "block_size": CPU_BLOCK_SIZE,
        # A prompt in pieces sets its request's generator back, which the CPU's cannot do.
        "enable_chunked_prefill": False,
    }


def _kv_cache_bytes(facts: ModelFacts, config: RolloutConfig, max_model_len: int) -> int:
    """`rollout.kv_cache_gib`, or less when all sequences in flight fit into less.

    vLLM takes the whole amount at the start; a small model would waste most of a GiB.
    """
    limit = int(config.kv_cache_gib * GIB)
    if facts.cache_per_token is None:  # an unknown layout: take what was granted
        return limit
    per_token = facts.cache_per_token * (4 if config.dtype == "float32" else 2)
    blocks = (math.ceil(max_model_len / CPU_BLOCK_SIZE) + 1) * (config.max_prompts_in_flight + 1)
    return min(limit, blocks * CPU_BLOCK_SIZE * per_token)
