"""The process in which a user's reward function runs; see `function.py`.

A request is `{"items": [{"prompt": str, "messages": [...], "response": str, "answer": ..., ...},
...]}`, its reply `{"scores": [{"value": float | None} | {"error": str}, ...]}`. The function gets
of an item what its signature names, and everything if it takes `**columns`. One written for TRL's
trainers (it names `completions`) gets lists of one element each and returns such a list.
"""

import asyncio
import inspect
import json
import math
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from mgsrl.errors import one_line, shortened
from mgsrl.plugins import Registry
from mgsrl.rewards.child_serve import serve

FUNCTIONS = Registry("reward function", "mgsrl.reward_functions", {})
TRL = "completions"
"""The parameter by which a function of TRL's kind is told."""
PROVIDED = (
    *("prompt", "messages", "response", "answer", "format_ok", "finish_reason"),
    *(TRL, "prompts"),
)
"""What a function may name that need not be a column of the row; `answer` is None without one."""
TRL_ALONE = ("completion_ids", "prompt_ids", "trainer_state", "environments")
"""What TRL's trainers hand over and is not to be had here."""
JUDGED = ("response", TRL, "format_ok", "finish_reason")
"""A function that names none of these cannot tell one response from another."""
Item = Mapping[str, Any]


class Caller:
    """A user's function as this project calls it: one item -> its score.

    Args:
        function: `score(prompt, response, answer, **columns) -> float | None`, or TRL's
            `reward(completions, **columns) -> list[float | None]`; sync or async.
        conversational: TRL's: completions and prompts are lists of messages, not texts.
        time_limit_s: for one item of an async function.
    """

    def __init__(
        self, function: Callable[..., Any], conversational: bool, time_limit_s: float
    ) -> None:
        self.function = function
        self.parameters = inspect.signature(function).parameters
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())
        self.trl = TRL in self.parameters
        self.conversational = conversational
        self.time_limit_s = time_limit_s
        call = getattr(function, "__call__", function)  # noqa: B004  an object with an async call
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)

    def problem(self) -> str:
        """Why it cannot be called as a reward; empty if it can."""
        kinds = {each.kind for each in self.parameters.values()}
        if inspect.isasyncgenfunction(self.function) or inspect.isgeneratorfunction(self.function):
            return "it yields, and should return"
        if inspect.Parameter.POSITIONAL_ONLY in kinds:
            return "it takes arguments by position only, and is called by their names"
        if missing := [name for name in self.required() if name in TRL_ALONE]:
            return f"{missing[0]} is what TRL's trainers alone have"
        if self.takes_all or not self.parameters.keys().isdisjoint(JUDGED):
            return ""
        return f"it names none of {', '.join(JUDGED)}"

    def required(self) -> list[str]:
        """Parameters without a default, by which it says what it needs."""
        plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return [
            name
            for name, parameter in self.parameters.items()
            if parameter.kind in plain and parameter.default is inspect.Parameter.empty
        ]

    def scores(self, items: list[Item]) -> list[dict[str, Any]]:
        """One reply per item; an async function is asked for all at once."""
        if not self.is_async:
            return [_reply(partial(self._call, item)) for item in items]
        return asyncio.run(self._gather(items))

    async def _gather(self, items: list[Item]) -> list[dict[str, Any]]:
        async def one(item: Item) -> dict[str, Any]:
            try:
                value = await asyncio.wait_for(self._awaitable(item), self.time_limit_s)
            except TimeoutError:
                return {"error": f"no score within {self.time_limit_s:g} s"}
            except Exception as error:
                return {"error": _reason(error)}
            return _reply(lambda: value)

        return list(await asyncio.gather(*map(one, items)))

    async def _awaitable(self, item: Item) -> Any:
        result: Awaitable[Any] = self.function(**self._arguments(item))
        return self._unpacked(await result)

    def _call(self, item: Item) -> Any:
        result = self.function(**self._arguments(item))
        if inspect.isawaitable(result):  # a decorator of an async function need not be one
            result = asyncio.run(_awaited(result))
        return self._unpacked(result)

    def _arguments(self, item: Item) -> dict[str, Any]:
        given = dict(item)
        if self.trl:
            prompt, response = given.pop("prompt"), given.pop("response")
            messages = given.pop("messages")
            completion = [{"role": "assistant", "content": response}]
            given["prompts"] = messages if self.conversational else prompt
            given[TRL] = completion if self.conversational else response
            given = {name: [value] for name, value in given.items()}
        if self.takes_all:
            return given
        return {name: value for name, value in given.items() if name in self.parameters}

    def _unpacked(self, result: Any) -> Any:
        if not self.trl:
            return result
        try:
            (score,) = result
        except (TypeError, ValueError):
            raise TypeError(
                f"a list with one score per completion is expected, found {result!r}"
            ) from None
        return score


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _reply(value_of: Callable[[], Any]) -> dict[str, Any]:
    try:
        value = value_of()
        if value is None:
            return {"value": None}
        try:
            number = math.nan if isinstance(value, str | bytes) else float(value)  # numpy's, too
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise TypeError(f"a finite number or None is expected, found {shortened(repr(value))}")
    except Exception as error:
        return {"error": _reason(error)}
    return {"value": number}


def _reason(error: Exception) -> str:
    """What was raised, with the line of the user's file."""
    own = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__
    ]
    where = f" (line {own[-1].lineno} of {own[-1].filename})" if own else ""
    return f"{type(error).__name__}: {one_line(error)}{where}"


def main() -> None:
    """Serve the function that the arguments name; it is loaded before any clock runs."""
    reference, conversational, limit_s, path = json.loads(sys.argv[4])
    sys.path.extend(folder for folder in path if folder not in sys.path)
    callers: list[Caller] = []

    def load() -> None:
        function = FUNCTIONS.load(reference, "reward.function")
        callers.append(Caller(function, conversational, limit_s))

    serve(lambda request: {"scores": callers[0].scores(request["items"])}, load)
