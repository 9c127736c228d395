"""Rewards that a server computes: how it is asked, and what its troubles cost."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mgsrl.config.require import at_least, not_empty, seconds
from mgsrl.rewards.protocol import BaseReward, Surroundings

if TYPE_CHECKING:
    from mgsrl.rewards.endpoint import Endpoint


@dataclass
class RemoteConfig:
    url: str = ""
    """The server's address: for a `judge` the base that OpenAI clients take (http://HOST:PORT/v1),
    for `http` the address that is posted to."""
    api_key_env: str = ""
    """Environment variable of the workers that holds the token; empty sends none."""
    concurrency: int = 8
    """Requests under way at once, per reward actor."""
    max_retries: int = 3
    """Further attempts after a time-out, a lost connection, 429 or 5xx."""
    request_limit_s: float = 60.0
    """Seconds for one attempt."""

    def validate(self, key: str) -> None:
        not_empty(f"{key}.url", self.url, "the address of the server, http://HOST:PORT/...")
        at_least(f"{key}.concurrency", self.concurrency, 1)
        at_least(f"{key}.max_retries", self.max_retries, 0)
        seconds(f"{key}.request_limit_s", self.request_limit_s)


class RemoteReward(BaseReward):
    """Connected by `load`."""

    Config = RemoteConfig
    remote = True
    accepts = ("answer",)
    endpoint: "Endpoint"

    def check(self, key: str) -> Any:
        from mgsrl.rewards.endpoint import check_url

        check_url(self.config.url, f"{key}.url")
        return self.config

    def load(self, surroundings: Surroundings) -> None:
        from mgsrl.rewards.endpoint import Endpoint

        self.endpoint = Endpoint(
            self.config.url,
            model=getattr(self.config, "model", ""),
            api_key_env=self.config.api_key_env,
            time_limit_s=self.config.request_limit_s,
            max_retries=self.config.max_retries,
            concurrency=self.config.concurrency,
        )

    def close(self) -> None:
        self.endpoint.close()

    def limit_s(self, count: int) -> float:
        rounds = math.ceil(count / self.config.concurrency)
        return float(rounds * (self.config.max_retries + 1) * self.config.request_limit_s)
