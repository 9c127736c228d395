"""The chat reward: one logit of a sequence classifier on (conversation, response).

Works with any `AutoModelForSequenceClassification` with a single output and a chat template of its
own (Skywork-Reward-V2, Llama, Qwen, ..., and the bundled `pocket`). The model reads the
conversation and the extracted response in *its* template and *its* tokens. Control tokens that the
policy wrote out as text are removed first, so that it cannot open a turn of its own and praise
itself.

Here it runs on transformers, spread over several GPUs by accelerate where it is given several;
`reward_model_vllm.py` runs the same on vLLM. Judges that write text are in `judge.py`, what is made
of the scores (clipping, running statistics) in `shaping.py`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from mgsrl.config.model_path import POCKET_REWARD_MODEL, resolve_model_path
from mgsrl.config.policy import template_clock
from mgsrl.errors import ConfigError, UserError, explain
from mgsrl.rewards.control_tokens import CONTROL_TOKENS as CONTROL_TOKENS
from mgsrl.rewards.control_tokens import longest_first, without_tokens
from mgsrl.rewards.extract import extract_response
from mgsrl.rewards.protocol import RewardItem
from mgsrl.types import Reward


class RewardModel:
    """See the module.

    Args:
        path: `pocket`, a local folder or a hub id.
        transform: `none` keeps the logit, `sigmoid` maps it to 0..1.
        batch_size: sequences per forward pass.
        max_length: tokens of conversation and response; longer inputs lose their oldest tokens.
        missing_tag: what a response without a `<response>` block gets, see `extract.py`.
        trust_remote_code: run Python code that comes with the model.
        special_tokens: the policy's special tokens, removed from the response's text.
        date: the day that the template takes for today, as `2026-11-26`; None is today.
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
        transform: str = "none",
        batch_size: int = 32,
        max_length: int = 4096,
        missing_tag: str = "zero",
        special_tokens: Sequence[str] = (),
        date: str | None = None,
        num_gpus: float = 0.0,
        trust_remote_code: bool = False,
    ) -> None:
        self.transform = transform
        self.batch_size = batch_size
        self.missing_tag = missing_tag
        self._clock = template_clock(date)
        self.trust_remote_code = trust_remote_code
        _check_gpu(num_gpus)
        folder = resolve_model_path(path, "reward.path", POCKET_REWARD_MODEL)
        self.tokenizer = _load_tokenizer(folder, trust_remote_code)
        config = _load_config(folder, trust_remote_code)
        positions = getattr(config, "max_position_embeddings", None) or max_length
        self.max_length = min(max_length, positions)
        self._removed = longest_first(*self.tokenizer.all_special_tokens, *special_tokens)
        self._load(folder, config, num_gpus)

    def _load(self, folder: str, config: Any, num_gpus: float) -> None:
        device_map = "auto" if num_gpus > 1 else "cuda" if num_gpus > 0 else "cpu"
        model = load_model(folder, config, device_map, trust_remote_code=self.trust_remote_code)
        self.model = model.eval()

    def close(self) -> None:
        """Free the model's memory."""
        del self.model

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        rewards: list[Reward | None] = [None] * len(items)
        format_ok = [True] * len(items)
        sequences: dict[tuple[int, ...], list[int]] = {}
        """Token ids -> the items that they are of."""
        for index, item in enumerate(items):
            extraction = extract_response(item.response, self.missing_tag)
            format_ok[index] = extraction.format_ok
            if extraction.verdict is not None:
                rewards[index] = extraction.verdict
                continue
            try:
                ids = tuple(self.encode(item, extraction.text or ""))
                sequences.setdefault(ids, []).append(index)
            except TemplateError as error:
                reason = f"the reward model's chat template refused the conversation: {error}"
                rewards[index] = Reward(None, extraction.format_ok, error=reason)
        # Equal sequences are scored once: in two batches they would differ by rounding. Neighbours
        # in length share a batch, so little is computed on padding. The order is the same whenever
        # the items are, so the scores are too.
        order = sorted(sequences, key=lambda ids: (len(ids), sequences[ids]))
        for chunk in self.score_chunks(order):
            for ids, logit in zip(chunk, self.logits(chunk), strict=True):
                for index in sequences[ids]:
                    rewards[index] = self._reward(logit, format_ok[index])
        return [reward for reward in rewards if reward is not None]

    def score_chunks(self, order: Sequence[tuple[int, ...]]) -> list[Sequence[tuple[int, ...]]]:
        """`order` in pieces for `logits`."""
        size = self.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def encode(self, item: RewardItem, response: str) -> list[int]:
        """Token ids of the conversation and the response, the oldest cut away when too long."""
        messages = [
            *map(dict, item.messages),
            {"role": "assistant", "content": self.clean(response)},
        ]
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, strftime_now=self._clock
        )
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(ids[-self.max_length :])

    def clean(self, response: str) -> str:
        """`response` without control tokens."""
        return without_tokens(response, self._removed)

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
        device = self.model.device  # of the embeddings, when spread over several
        output = self.model(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
        )
        return [float(value) for value in output.logits.float().squeeze(-1).cpu()]

    def _reward(self, logit: float, format_ok: bool) -> Reward:
        if not math.isfinite(logit):
            return Reward(None, format_ok, error=f"the reward model gave {logit}")
        value = 1.0 / (1.0 + math.exp(-logit)) if self.transform == "sigmoid" else logit
        return Reward(value, format_ok, details={"raw_score": logit})


def _load_tokenizer(folder: str, trust_remote_code: bool) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise cannot_load(folder, error) from error
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


def _check_gpu(num_gpus: float) -> None:
    if num_gpus > 0 and not torch.cuda.is_available():
        raise ConfigError(
            explain(
                "The reward model is to run on a GPU.",
                expected="a GPU that torch can use",
                found="none",
                todo="set the reward's num_gpus=0, or install a build of torch that fits the GPU",
            )
        )


def _load_config(folder: str, trust_remote_code: bool) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise cannot_load(folder, error) from error
    if config.num_labels != 1:
        raise not_a_reward_model(folder, f"num_labels={config.num_labels}")
    return config


def load_model(
    folder: str, config: Any, device_map: str, *, trust_remote_code: bool = False
) -> Any:
    """The classifier on `cpu`, on `cuda` or, `auto`, spread over all GPUs by accelerate."""
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32 if device_map == "cpu" else torch.bfloat16,
            device_map=device_map,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise cannot_load(folder, error) from error
    # from_pretrained fills what the file lacks with random numbers: fatal for a reward.
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise not_a_reward_model(folder, f"no weights for {', '.join(missing[:3])}")
    return model


def not_a_reward_model(folder: str, found: str) -> UserError:
    """The error for a model that has no single trained logit."""
    return UserError(
        explain(
            f"{folder} is not a reward model.",
            expected="a sequence classifier with one logit (num_labels=1) and a trained head",
            found=found,
            todo="choose another reward.path",
        )
    )


def cannot_load(folder: str, error: Exception) -> ConfigError:
    """The error for a model that its library refuses."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    own_code = "trust_remote_code" in str(error)
    return ConfigError(
        explain(
            f"The reward model {folder} cannot be loaded.",
            expected="a Hugging Face folder or hub id of a sequence classifier",
            found=lines[0][:300],
            todo="read that code and, if you trust it, set the reward's trust_remote_code=true"
            if own_code
            else "correct the reward's path",
        )
    )
