"""The reward model that is trained: a causal model's body with one logit; its text, its loss.

Text is turned into tokens by `RewardModel.encode`, the code that uses the model later, so the two
cannot differ: chat template, control tokens removed, the oldest tokens cut from what is too long.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bradley_terry.pairs import Pair
from mgsrl.errors import ConfigError, DataError, UserError, explain
from mgsrl.rewards.protocol import RewardItem, Surroundings
from mgsrl.rewards.reward_model import RewardModel, RewardModelConfig


class Encoder(RewardModel):
    """The encoding half of `RewardModel`, for a model whose head is not trained yet."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        super().__init__(RewardModelConfig())
        # Today's date, as whoever trains the model has it.
        self.read_with(tokenizer, max_length, Surroundings())

    def pair(self, pair: Pair, group: int = -1) -> "EncodedPair":
        """Token ids of both conversations; lengths are of the whole answers, in tokens."""
        answers = [pair.chosen, pair.rejected]
        try:
            chosen, rejected = (self.encode(RewardItem(pair.messages, a)) for a in answers)
        except TemplateError as error:
            raise DataError(
                explain(
                    f"{pair.place}: the chat template refuses the conversation.",
                    expected="roles that the model's chat template knows, in its order",
                    found=str(error),
                    todo="remove the row, or train a model with another template",
                )
            ) from error
        ids = self.tokenizer(answers, add_special_tokens=False).input_ids
        lengths = len(ids[0]), len(ids[1])
        return EncodedPair(chosen, rejected, *lengths, pair.margin, pair.source, group)


@dataclass(frozen=True, slots=True)
class EncodedPair:
    chosen: list[int]
    rejected: list[int]
    chosen_length: int
    """Tokens of the answer alone, before anything was cut."""
    rejected_length: int
    margin: float
    source: str
    group: int
    """Held-out pairs: see `pairs.group_numbers`."""

    @property
    def longest(self) -> int:
        """Tokens of the longer conversation: what a batch is padded to."""
        return max(len(self.chosen), len(self.rejected))


class Collator:
    """Pairs to tensors: the B chosen conversations, then the B rejected ones, right-padded."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, pairs: Sequence[EncodedPair]) -> dict[str, Tensor]:
        sequences = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        ids = torch.full((len(sequences), max(map(len, sequences))), self.pad)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        margins = torch.tensor([pair.margin for pair in pairs])
        return {"input_ids": ids, "attention_mask": mask, "margins": margins}


def pair_rewards(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """[B] logits of the chosen and of the rejected answers, float32, in one forward pass."""
    output = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    )
    chosen, rejected = output.logits.float().squeeze(-1).chunk(2)
    return chosen, rejected


def pair_loss(chosen: Tensor, rejected: Tensor, margins: Tensor, center_coef: float) -> Tensor:
    """Mean of `-log sigmoid(r_c - r_r - margin)`, plus the pull of the rewards towards 0.

    Bradley-Terry with the margin of Llama 2 (arXiv:2307.09288, eq. 2). Preferences leave the zero
    point of the rewards free; `center_coef * mean((r_c + r_r)^2)` fixes it (Eisenstein et al.
    2023, arXiv:2312.09244).

    Args:
        chosen, rejected, margins: [B].
    """
    preference = -F.logsigmoid(chosen - rejected - margins).mean()
    return preference + center_coef * ((chosen + rejected) ** 2).mean()


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a model, with a padding token.

    Raises:
        ConfigError: no such tokenizer, or one without a chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _bad_model(path, "a model that transformers loads", str(error)[:300]) from error
    if not tokenizer.chat_template:
        found = "a tokenizer without chat_template"
        raise _bad_model(path, "a model with a chat template", found)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(path: str, pad: int) -> Any:
    """A model with one logit; its head is random unless `path` has one.

    The weights are float32: mixed precision computes in bfloat16 and updates these.

    Raises:
        ConfigError: no such model.
    """
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            path, num_labels=1, dtype=torch.float32, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise _bad_model(path, "a model that transformers loads", str(error)[:300]) from error
    # The reward is read at the last token that is not padding.
    model.config.pad_token_id = pad
    return model


def _bad_model(path: str, expected: str, found: str) -> UserError:
    todo = "name a chat model's folder or hub id"
    return ConfigError(
        explain(f"--model {path} cannot be used.", expected=expected, found=found, todo=todo)
    )


def freeze(model: Any, count: int) -> None:
    """Fix the embeddings and the lowest `count` layers; 0 trains everything.

    Raises:
        ConfigError: there are not that many layers.
    """
    if count == 0:
        return
    lists = [part for part in model.base_model.modules() if isinstance(part, nn.ModuleList)]
    layers = max(lists, key=len)
    if count > len(layers):
        raise ConfigError(
            explain(
                "--freeze-layers is too large.",
                expected=f"at most {len(layers)}, the model's layers",
                found=str(count),
                todo="choose a smaller number",
            )
        )
    for part in (model.get_input_embeddings(), *layers[:count]):
        part.requires_grad_(False)


def save(folder: Path, model: Any, tokenizer: Any, state: dict[str, Tensor]) -> None:
    """A plain Hugging Face folder that `mgsrl.rewards.reward_model` loads."""
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
    # safetensors writes for the owner only, but a reward model is read by others too.
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o666 & ~umask)
