"""The endpoint and the judge against vLLM's own OpenAI-compatible server on the bundled policy."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config import RewardConfig
from mgsrl.config.model_path import POCKET_POLICY, resolve_model_path
from mgsrl.errors import EndpointError
from mgsrl.rewards.actor import RewardWorker
from mgsrl.rewards.endpoint import Endpoint
from mgsrl.rewards.protocol import Response

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

CHATS = [[{"role": "user", "content": f"What is {n} plus {n + 1}?"}] for n in range(6)]
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_API_KEY": "sk-local",
    "JUDGE_KEY": "sk-local",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log: Path = tmp_path_factory.mktemp("server") / "log"
    options = ["--model", resolve_model_path("pocket", "policy.path", POCKET_POLICY)]
    options += ["--served-model-name", "pocket", "--host", "127.0.0.1", "--port", str(port)]
    options += ["--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT},
        )
    try:
        deadline = time.monotonic() + 240
        while True:
            assert server.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)


def endpoint(url: str, **options: Any) -> Endpoint:
    defaults = {"model": "pocket", "api_key_env": "JUDGE_KEY", "max_retries": 2, "concurrency": 4}
    return Endpoint(url, **{"time_limit_s": 60.0, **defaults, **options})


def test_vllms_server_is_understood(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-local")
    with endpoint(f"{url}/v1") as good:
        together = good.chat_many(CHATS, temperature=0.0, max_tokens=24)
        assert [good.chat(chat, temperature=0.0, max_tokens=24) for chat in CHATS] == together
        with pytest.raises(EndpointError, match="HTTP 400"):
            good.chat([{"role": "user", "content": "x " * 3000}])
    assert len(set(map(str, together))) > 2
    for change, status in (({"api_key_env": ""}, "401"), ({"model": "other"}, "404")):
        with endpoint(url, **change) as bad, pytest.raises(EndpointError, match=f"HTTP {status}"):
            bad.chat(CHATS[0])


def test_the_judge_scores_or_abstains(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-local")
    config = RewardConfig.of(
        "judge",
        url=url,
        model="pocket",
        api_key_env="JUDGE_KEY",
        judge_template="{response}",
        judge_pattern=r"(\d+)",
        judge_min=0.0,
        judge_max=100.0,
        judge_max_tokens=24,
    )
    items = [Response((), f"<response>What is {n} plus 3?</response>") for n in range(8)]
    worker = RewardWorker(config)
    try:
        rewards = worker.score(items)
        assert worker.score(items) == rewards
    finally:
        worker.close()
    for reward in rewards:
        assert reward.abstained or 0.0 <= (reward.value or 0.0) <= 1.0
        assert reward.details["judge"]
    assert not all(reward.abstained for reward in rewards)
