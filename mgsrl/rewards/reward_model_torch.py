"""A one-logit sequence classifier on transformers: token ids in, logits out."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from mgsrl.config.model_path import POCKET_REWARD_MODEL, resolve_model_path
from mgsrl.errors import ConfigError, UserError


class Classifier:
    """Tokenizer and model.

    Args:
        path: `pocket`, a local folder or a hub id.
        batch_size: sequences per forward pass.
        max_length: tokens of conversation and response; the model may take fewer.
        trust_remote_code: run Python code that comes with the model.
        num_gpus: 0 computes on the CPU (float32), else bfloat16 on the GPU; above 1 the model is
            spread over all that the process sees.

    Raises:
        ConfigError: GPUs are wanted where torch sees no GPU.
        MissingPathError: there is no model at `path`.
        UserError: it has other than one logit, no trained head, or no chat template.
    """

    def __init__(
        self,
        path: str,
        *,
        batch_size: int = 32,
        max_length: int = 4096,
        trust_remote_code: bool = False,
        num_gpus: float = 0.0,
    ) -> None:
        self.batch_size = batch_size
        self.trust_remote_code = trust_remote_code
        _check_gpu(num_gpus)
        folder = resolve_model_path(path, "reward.path", POCKET_REWARD_MODEL)
        self.tokenizer = _load(AutoTokenizer, folder, trust_remote_code)
        if not self.tokenizer.chat_template:
            raise UserError(
                f"The reward model {folder} has no chat template.",
                expected="a tokenizer whose chat template renders the conversation to judge",
                found="no chat_template in its tokenizer",
                todo="add the template the model was trained with (chat_template.jinja)",
            )
        network = _load(AutoConfig, folder, trust_remote_code)
        if network.num_labels != 1:
            raise not_a_reward_model(folder, f"num_labels={network.num_labels}")
        positions = getattr(network, "max_position_embeddings", None) or max_length
        self.max_length = min(max_length, positions)
        self.load(folder, network, num_gpus)

    def load(self, folder: str, network: Any, num_gpus: float) -> None:
        """Load the weights; `network` is the model's own configuration."""
        device_map = "auto" if num_gpus > 1 else "cuda" if num_gpus > 0 else "cpu"
        self.model: Any = load_model(
            folder, network, device_map, trust_remote_code=self.trust_remote_code
        ).eval()

    def logits(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """One logit per sequence of token ids, `batch_size` of them at a time."""
        size = self.batch_size
        starts = range(0, len(sequences), size)
        return [each for start in starts for each in self._batch(sequences[start : start + size])]

    @torch.inference_mode()
    def _batch(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """One right-padded forward pass."""
        pad = self.tokenizer.pad_token_id
        if pad is None:
            # Transformers finds a sequence's last token by the padding id, which must therefore
            # occur in none of them.
            used = {token for sequence in sequences for token in sequence}
            pad = next(id_ for id_ in range(len(used) + 1) if id_ not in used)
        self.model.config.pad_token_id = pad
        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        device = self.model.device  # of the embeddings, when spread over several
        output = self.model(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
        )
        return [float(value) for value in output.logits.float().squeeze(-1).cpu()]


def _check_gpu(num_gpus: float) -> None:
    if num_gpus > 0 and not torch.cuda.is_available():
        raise ConfigError(
            "The reward model is to run on a GPU.",
            expected="a GPU that torch can use",
            found="none",
            todo="set the reward's num_gpus=0, or install a build of torch that fits the GPU",
        )


def load_model(
    folder: str, config: Any, device_map: str, *, trust_remote_code: bool = False
) -> Any:
    """The classifier on `cpu`, on `cuda` or, `auto`, spread over all GPUs by accelerate."""
    model, report = _load(
        AutoModelForSequenceClassification,
        folder,
        trust_remote_code,
        config=config,
        dtype=torch.float32 if device_map == "cpu" else torch.bfloat16,
        device_map=device_map,
        output_loading_info=True,
    )
    # from_pretrained fills what the file lacks with random numbers: fatal for a reward.
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise not_a_reward_model(folder, f"no weights for {', '.join(missing[:3])}")
    return model


def _load(kind: Any, folder: str, trust_remote_code: bool, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, trust_remote_code=trust_remote_code, **options)
    except (OSError, ValueError) as error:
        raise cannot_load(folder, error) from error


def not_a_reward_model(folder: str, found: str) -> UserError:
    """The error for a model that has no single trained logit."""
    return UserError(
        f"{folder} is not a reward model.",
        expected="a sequence classifier with one logit (num_labels=1) and a trained head",
        found=found,
        todo="choose another reward.path",
    )


def cannot_load(folder: str, error: Exception) -> ConfigError:
    """The error for a model that its library refuses."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    own_code = "trust_remote_code" in str(error)
    return ConfigError(
        f"The reward model {folder} cannot be loaded.",
        expected="a Hugging Face folder or hub id of a sequence classifier",
        found=lines[0][:300],
        todo="read that code and, if you trust it, set the reward's trust_remote_code=true"
        if own_code
        else "correct the reward's path",
    )
