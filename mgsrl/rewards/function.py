"""A reward that is a plain function of yours: `reward.function=my_rewards.py:score`.

    def score(prompt, response, answer, **columns) -> float | None:
        return float(answer in response)            # None abstains

It is handed what its signature names: `prompt` (the user's last message), `messages` (the whole
conversation), `response` (the text to judge, tags taken off), `format_ok`, `finish_reason`, and
columns of the row, which must have those without a default (but for `answer`, None where there is
none); with `**columns` it gets everything, columns that are mapped to `reference.NAME` included.
An `async def` is asked for `concurrency` responses at once. A function written for TRL's trainers,
told by its parameter `completions`, is called with lists of one element each and returns such a
list; `conversational` says that it reads messages rather than texts.

It runs in a process of its own (`child.py`) that is killed with all that it started when a response
takes longer than `time_limit_s`; that response abstains, and so does one on which it raises. The
process may write files and open connections: it is your code. Left out: a sandbox for code that a
policy wrote; start one from the function.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mgsrl.config.require import at_least, not_empty
from mgsrl.errors import ConfigError, WorkerDiedError, one_line, shortened
from mgsrl.rewards.child import ChildProcess, ProcessLostError
from mgsrl.rewards.function_process import FUNCTIONS, PROVIDED, TRL, Caller
from mgsrl.rewards.in_child import RESTART_S, ChildConfig, ChildReward
from mgsrl.rewards.protocol import RewardItem, Surroundings
from mgsrl.types import Reward

GATHER_S = 1.0
"""What gathering an async function's answers may take beyond the limit of each."""


@dataclass
class FunctionConfig(ChildConfig):
    function: str = ""
    """`file.py:name` or `module:name`: `name(prompt, response, answer, **columns)` gives a score,
    or None to abstain."""
    conversational: bool = False
    """A function of TRL's kind: `completions` and `prompts` are lists of messages, not texts."""
    concurrency: int = 16
    """An async function: calls under way at once, per reward actor."""
    memory_limit_mib: int = 8192
    """Address space of the function's process."""

    def validate(self, key: str) -> None:
        super().validate(key)
        not_empty(f"{key}.function", self.function, "file.py:name or module:name of a function")
        at_least(f"{key}.concurrency", self.concurrency, 1)
        at_least(f"{key}.memory_limit_mib", self.memory_limit_mib, 64)


class FunctionReward(ChildReward):
    """See the module."""

    Config = FunctionConfig
    process_module = "mgsrl.rewards.function_process"
    items_per_call = 64

    def __init__(self, config: FunctionConfig) -> None:
        super().__init__(config)
        self._caller: Caller | None = None

    def check(self, key: str) -> FunctionConfig:
        assert self.caller  # loaded
        return replace(self.config, function=FUNCTIONS.located(self.config.function))

    @property
    def requires(self) -> tuple[str, ...]:  # type: ignore[override]  # of this function
        return tuple(name for name in self.caller.required() if name not in PROVIDED)

    @property
    def accepts(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("answer", *(name for name in self.caller.parameters if name not in PROVIDED))

    @property
    def caller(self) -> Caller:
        """The function, loaded here to read its signature. Raises ConfigError."""
        if self._caller is None:
            function = FUNCTIONS.load(self.config.function, f"{self.key}.function")
            self._caller = _caller(function, self.config, self.key)
        return self._caller

    def load(self, surroundings: Surroundings) -> None:
        config = self.config
        slack_s = GATHER_S if self.caller.is_async else 0.0
        told = [config.function, config.conversational, config.time_limit_s, sys.path]
        self.process = ChildProcess(
            self.process_module,
            time_limit_s=config.time_limit_s + slack_s,
            memory_limit_mib=config.memory_limit_mib,
            name="reward function's",
            may_write=True,
            arguments=[json.dumps(told)],
        )
        try:
            self.process.start()
        except WorkerDiedError as error:  # it loads in the driver, which has no such limit
            raise ConfigError(
                f"{self.key}.function={config.function} cannot be used.",
                expected=f"a process that loads it in {config.memory_limit_mib} MiB "
                "(memory_limit_mib)",
                found=one_line(error, 600),
                todo=f"raise {self.key}.memory_limit_mib, or mend the module",
            ) from error

    def score(self, items: Sequence[RewardItem]) -> list[Reward]:
        size = self.config.concurrency if self.caller.is_async else 1
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        return [reward for batch in batches for reward in self._batch(batch)]

    def limit_s(self, count: int) -> float:
        return float(count * (self.config.time_limit_s + GATHER_S + RESTART_S))

    def describe(self) -> str:
        return str(self.config.function)

    def request(self, item: RewardItem) -> dict[str, Any]:
        users = [m["content"] for m in item.messages if m["role"] == "user"]
        return {
            "answer": None,
            **item.reference,
            "prompt": users[-1] if users else "",
            "messages": list(item.messages),
            "response": item.text,
            "format_ok": item.format_ok,
            "finish_reason": item.finish_reason,
        }

    def verdict(self, reply: Mapping[str, Any]) -> Reward:
        if "error" in reply:
            return Reward(None, error=reply["error"])
        if reply["value"] is None:
            return Reward(None, error="the reward function returned None")
        return Reward(reply["value"])

    def _batch(self, items: Sequence[RewardItem]) -> list[Reward]:
        try:
            reply = self.process.ask({"items": [self.request(item) for item in items]})
        except ProcessLostError as error:
            if len(items) > 1:  # one of them may have ended it for all
                return [reward for item in items for reward in self._batch([item])]
            return [Reward(None, error=str(error))]
        scores = reply["scores"] if "scores" in reply else [reply] * len(items)  # its one error
        return [self.verdict(each) for each in scores]


def _caller(function: Any, config: FunctionConfig, key: str) -> Caller:
    """Raises ConfigError for what cannot be called as a reward."""
    problem = f"{function!r}"
    if callable(function) and not isinstance(function, type):
        try:
            caller = Caller(function, config.conversational, config.time_limit_s)
        except ValueError as error:  # written in C
            problem = str(error)
        else:
            if not (problem := caller.problem()):
                return caller
    raise ConfigError(
        f"{key}.function cannot be used.",
        expected="a function: score(prompt, response, answer, **columns), or TRL's "
        f"reward({TRL}, **columns)",
        found=shortened(problem),
        todo="name such a function; a class of rewards goes into reward.kind",
    )
