"""The chat reward: one logit of a sequence classifier on (conversation, response).

Works with any `AutoModelForSequenceClassification` with a single output and a chat template of its
own (Skywork-Reward-V2, Llama, Qwen, ..., and the bundled `pocket`). The model reads the
conversation and the extracted response in *its* template and *its* tokens. Control tokens that the
policy wrote out as text are removed first, so that it cannot open a turn of its own and praise
itself.

Left out for now: vLLM's pooling runner, running statistics, remote judges.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from mgsrl.config.model_path import POCKET_REWARD_MODEL, resolve_model_path
from mgsrl.errors import ConfigError, UserError, explain
from mgsrl.rewards.extract import extract_response
from mgsrl.rewards.protocol import RewardItem
from mgsrl.types import Reward

CONTROL_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<s>",
    "</s>",
)
"""Of common policies; the reward model's own and those given to `RewardModel` come on top."""


class RewardModel:
    """See the module.

    Args:
        path: `pocket`, a local folder or a hub id.
        transform: `none` keeps the logit, `sigmoid` maps it to 0..1.
        batch_size: sequences per forward pass.
        max_length: tokens of conversation and response; longer inputs lose their oldest tokens.
        missing_tag: what a response without a `<response>` block gets, see `extract.py`.
        special_tokens: the policy's special tokens, removed from the response's text.
        device: `cpu` (float32) or `cuda` (bfloat16).

    Raises:
        ConfigError: `cuda` where torch sees no GPU.
        MissingPathError: there is no model at `path`.
        UserError: it has other than one logit, no trained head, or no chat template.
    """

    def __init__(
        self,
        path: str,
        *,
        transform: str = "none",
        batch_size: int = 32,
        max_length: int = 4096,
        missing_tag: str = "zero",
        special_tokens: Sequence[str] = (),
        device: str = "cpu",
    ) -> None:
        self.transform = transform
        self.batch_size = batch_size
        self.missing_tag = missing_tag
        self.device = device
        _check_device(device)
        folder = resolve_model_path(path, "reward.path", POCKET_REWARD_MODEL)
        self.tokenizer = _load_tokenizer(folder)
        self.model = _load_model(folder, device).to(device).eval()
        positions = getattr(self.model.config, "max_position_embeddings", None) or max_length
        self.max_length = min(max_length, positions)
        tokens = {*CONTROL_TOKENS, *self.tokenizer.all_special_tokens, *special_tokens}
        self._removed = sorted((token for token in tokens if token), key=len, reverse=True)

    def close(self) -> None:
        """Free the model's memory."""
        del self.model

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        rewards: list[Reward | None] = [None] * len(items)
        format_ok = [True] * len(items)
        sequences: dict[int, list[int]] = {}
        for index, item in enumerate(items):
            extraction = extract_response(item.response, self.missing_tag)
            format_ok[index] = extraction.format_ok
            if extraction.verdict is not None:
                rewards[index] = extraction.verdict
                continue
            try:
                sequences[index] = self.encode(item, extraction.text or "")
            except TemplateError as error:
                reason = f"the reward model's chat template refused the conversation: {error}"
                rewards[index] = Reward(None, extraction.format_ok, error=reason)
        # Neighbours in length share a batch, so little is computed on padding. The order is the
        # same whenever the items are, so the scores are too.
        order = sorted(sequences, key=lambda index: (len(sequences[index]), index))
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            logits = self.logits([sequences[index] for index in chunk])
            for index, logit in zip(chunk, logits, strict=True):
                rewards[index] = self._reward(logit, format_ok[index])
        return [reward for reward in rewards if reward is not None]

    def encode(self, item: RewardItem, response: str) -> list[int]:
        """Token ids of the conversation and the response, the oldest cut away when too long."""
        messages = [
            *map(dict, item.messages),
            {"role": "assistant", "content": self.clean(response)},
        ]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(ids[-self.max_length :])

    def clean(self, response: str) -> str:
        """`response` without control tokens; again and again, since removing one can form one."""
        before = None
        while before != response:
            before = response
            for token in self._removed:
                response = response.replace(token, "")
        return response

    @torch.inference_mode()
    def logits(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """One logit per sequence of token ids; one right-padded forward pass."""
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
        output = self.model(
            input_ids=ids.to(self.device), attention_mask=mask.to(self.device), use_cache=False
        )
        return [float(value) for value in output.logits.float().squeeze(-1).cpu()]

    def _reward(self, logit: float, format_ok: bool) -> Reward:
        if not math.isfinite(logit):
            return Reward(None, format_ok, error=f"the reward model gave {logit}")
        value = 1.0 / (1.0 + math.exp(-logit)) if self.transform == "sigmoid" else logit
        return Reward(value, format_ok, details={"raw_score": logit})


def _load_tokenizer(folder: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise _cannot_load(folder, error) from error
    if not tokenizer.chat_template:
        raise UserError(
            explain(
                f"The reward model {folder} has no chat template.",
                expected="a tokenizer whose chat template renders the conversation to judge",
                found="no chat_template in its tokenizer",
                todo="add the template the model was trained with (chat_template.jinja)",
            )
        )
    return tokenizer


def _check_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            explain(
                "The reward model is to run on a GPU.",
                expected="a GPU that torch can use",
                found="none",
                todo="set the reward's num_gpus=0, or install a build of torch that fits the GPU",
            )
        )


def _load_model(folder: str, device: str) -> Any:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    try:
        config = AutoConfig.from_pretrained(folder)
        if config.num_labels != 1:
            raise _not_a_reward_model(folder, f"num_labels={config.num_labels}")
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise _cannot_load(folder, error) from error
    # from_pretrained fills what the file lacks with random numbers: fatal for a reward.
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise _not_a_reward_model(folder, f"no weights for {', '.join(missing[:3])}")
    return model


def _not_a_reward_model(folder: str, found: str) -> UserError:
    return UserError(
        explain(
            f"{folder} is not a reward model.",
            expected="a sequence classifier with one logit (num_labels=1) and a trained head",
            found=found,
            todo="choose another reward.path",
        )
    )


def _cannot_load(folder: str, error: Exception) -> ConfigError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ConfigError(
        explain(
            f"The reward model {folder} cannot be loaded.",
            expected="a Hugging Face folder or hub id of a sequence classifier",
            found=lines[0][:300],
            todo="correct the reward's path",
        )
    )
