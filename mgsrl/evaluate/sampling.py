"""Responses for an evaluation, from one engine in this process.

Prompts go to the engine in batches a few times larger than what it decodes at once: large enough
to keep it full, small enough that a killed evaluation loses little. Seeds depend on (seed, task,
prompt, sample) alone, so a continued evaluation gives the responses of an uninterrupted one,
beyond floating-point rounding.

Left out: several engines (`CUDA_VISIBLE_DEVICES` and `--tasks` split an evaluation over GPUs) and
tensor parallelism.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mgsrl.config import DataConfig, PolicyConfig
from mgsrl.config.model_facts import model_facts
from mgsrl.config.rollout import RolloutConfig
from mgsrl.data.rows import Row
from mgsrl.data.templates import PromptTokenizer
from mgsrl.errors import ConfigError
from mgsrl.evaluate.store import SampleRow
from mgsrl.rollout.actor import check_engine, cpu_threads, make_engine
from mgsrl.rollout.decoding import Decoder
from mgsrl.rollout.engine import Engine, EngineSpec
from mgsrl.rollout.sampler import EVALUATION_STEP, request_seed
from mgsrl.types import GenerationRequest, Prompt, Rollout, Sampling

IN_FLIGHT = {"cpu": 64, "cuda": 256}
"""Sequences decoded at once. On a few CPU cores larger batches only take more memory."""
BATCH = 2
"""Requests handed to the engine at a time, in multiples of `IN_FLIGHT`."""
CPU_CACHE_SHARE = 0.25
"""Share of the free memory that vLLM's KV cache may take on a CPU; it takes no more than all
sequences in flight need."""
MIN_PROMPT_TOKENS = 64
UNLIMITED_POSITIONS = 32768
"""Prompt and response of a model whose configuration names no limit."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One response to make."""

    row: Row
    sample: int
    prompt_cut: bool
    """Whether the prompt lost its beginning."""
    request: GenerationRequest


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def engine_dtype(dtype: str) -> str:
    """`auto` is float32 on a CPU and bfloat16 on a GPU."""
    if dtype != "auto":
        return dtype
    return "float32" if device() == "cpu" else "bfloat16"


def rollout_config(engine: str, dtype: str) -> RolloutConfig:
    """The engine's settings on this machine."""
    import psutil

    where = device()
    free_gib = psutil.virtual_memory().available / GIB
    return RolloutConfig(
        engine=engine,
        dtype=engine_dtype(dtype),
        max_prompts_in_flight=IN_FLIGHT[where],
        kv_cache_gib=max(0.1, CPU_CACHE_SHARE * free_gib),
    )


@contextmanager
def running_engine(
    engine: str, dtype: str, model_path: str, max_model_len: int
) -> Iterator[Engine]:
    """An engine, and its memory back at the end.

    Raises:
        ConfigError: the engine cannot start on this machine.
    """
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    # vLLM's of its own dependencies, a screen full; actors get this through their environment.
    warnings.filterwarnings("ignore", category=FutureWarning)
    config, where = rollout_config(engine, dtype), device()
    check_engine(config, where)
    threads = torch.get_num_threads()
    if where == "cpu":
        torch.set_num_threads(cpu_threads(model_path, 1))
    running = make_engine(EngineSpec(config, model_path, max_model_len, where))
    try:
        yield running
    finally:
        running.close()
        torch.set_num_threads(threads)


def positions_of(model_path: str) -> int:
    """Tokens of prompt and response that a model takes."""
    return model_facts(model_path).positions or UNLIMITED_POSITIONS


def new_tokens(task: str, wanted: int | None, default: int, positions: int) -> int:
    """The longest response: `wanted`, or the task's default as far as it fits.

    The default takes at most half of the model's context; what is wanted may leave as little as
    `MIN_PROMPT_TOKENS` to the prompt.

    Raises:
        ConfigError: it leaves less.
    """
    if wanted is None:
        return min(default, positions // 2)
    longest = positions - MIN_PROMPT_TOKENS
    if wanted > longest:
        raise ConfigError(
            f"{task}: the responses leave no room for the prompt.",
            expected=f"--max-new-tokens of at most {longest} (the model has {positions} positions)",
            found=str(wanted),
            todo="lower --max-new-tokens, or leave it out",
        )
    return wanted


class PromptMaker:
    """Rows -> requests, in the policy's template.

    Args:
        policy: folder or hub id with the tokenizer, and the template.
        seed: of the evaluation.
    """

    def __init__(self, policy: PolicyConfig, seed: int) -> None:
        self._policy = policy
        self._tokenizer = Decoder(policy.path).tokenizer
        self._positions = positions_of(policy.path)
        self._seed = seed

    def requests(
        self, task: str, missing: Sequence[tuple[Row, int]], sampling: Sampling
    ) -> list[SampleRequest]:
        """One request per missing sample; prompts that leave no room for the response lose their
        beginning."""
        room = self._positions - sampling.max_new_tokens
        data = DataConfig(max_prompt_tokens=room, overlong="truncate_left")
        templated = PromptTokenizer(self._policy, self._tokenizer, data)
        prompts: dict[str, tuple[Prompt, bool]] = {}
        made = []
        for row, sample in missing:
            if row.id not in prompts:
                prompt = templated.prompt(task, row)
                assert prompt is not None  # nothing is dropped under truncate_left
                cut = templated.counts[task].truncated > sum(cut for _, cut in prompts.values())
                prompts[row.id] = prompt, cut
            prompt, cut = prompts[row.id]
            seed = request_seed(self._seed, EVALUATION_STEP, f"{task}/{row.id}", sample)
            id_ = f"{task}/{row.id}/{sample}"
            request = GenerationRequest(id_, prompt.token_ids, seed, sampling)
            made.append(SampleRequest(row, sample, cut, request))
        return made


def generate(
    engine: Engine, requests: Sequence[SampleRequest], on_done: Callable[[list[SampleRow]], None]
) -> None:
    """All responses, handed on batch by batch."""
    for batch in _batches(requests, BATCH * IN_FLIGHT[device()]):
        begin = time.monotonic()
        rollouts = engine.generate([item.request for item in batch])
        seconds = (time.monotonic() - begin) / len(batch)
        on_done([_row(item, rollout, seconds) for item, rollout in zip(batch, rollouts)])


def _batches(requests: Sequence[SampleRequest], size: int) -> Iterator[Sequence[SampleRequest]]:
    for start in range(0, len(requests), size):
        yield requests[start : start + size]


def _row(item: SampleRequest, rollout: Rollout, seconds: float) -> SampleRow:
    return {
        "id": item.row.id,
        "sample": item.sample,
        "messages": [dict(message) for message in item.row.messages],
        "response": rollout.text,
        "finish_reason": rollout.finish_reason,
        "prompt_tokens": len(item.request.token_ids),
        "prompt_cut": item.prompt_cut,
        "num_tokens": len(rollout.token_ids),
        "seconds": round(seconds, 4),
    }
