"""Whole runs on a composite reward whose score comes from a real server."""

from pathlib import Path
from typing import Any

import pytest

from tests.rewards.local_server import Answer, local_server
from tests.training.runs import metrics, start, train

pytestmark = [pytest.mark.ray_cluster, pytest.mark.slow, pytest.mark.timeout(900)]


def sizes(body: Any) -> Answer:
    return Answer(body={"rewards": [float(len(each["response"])) for each in body["items"]]})


def overrides(url: str) -> list[str]:
    return [
        "domains.chat.reward.kind=http",
        f"domains.chat.reward.url={url}",
        "domains.chat.reward.standardise=true",
        "domains.chat.reward.clip=[0,200]",
        "domains.chat.reward.overlong_buffer=8",
        "domains.chat.reward.format_bonus=0.1",
        "domains.chat.reward.max_retries=0",
        "+domains.chat.reward.extra={model:{kind:reward_model,path:pocket,weight:0.5}}",
    ]


def test_running_statistics_survive_resuming_to_the_bit(tmp_path: Path) -> None:
    with local_server(sizes) as server:
        options = overrides(server.url)
        train(tmp_path / "whole", *options, "train.num_steps=4", limit_s=600)
        train(tmp_path / "parts", *options, "train.num_steps=2", limit_s=600)
        train(tmp_path / "parts", *options, "train.num_steps=4", limit_s=600)
    whole, parts = metrics(tmp_path / "whole"), metrics(tmp_path / "parts")
    assert len(whole) == 4
    assert whole == parts


def test_a_server_that_goes_down_ends_the_run_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MGSRL_TEST_KEY", "sk-very-secret")
    with local_server(lambda _body: Answer(503, b"busy: sk-very-secret")) as server:
        key = "domains.chat.reward.api_key_env=MGSRL_TEST_KEY"
        process = start(tmp_path / "run", *overrides(server.url), key, "train.num_steps=2")
        assert process.wait(timeout=600) == 1
        assert server.requests[0][1]["Authorization"] == "Bearer sk-very-secret"
    output = (tmp_path / "run.log").read_text()
    assert "Too many rewards of domain 'chat' abstained" in output
    assert "HTTP 503: busy: ***" in output
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"sk-very-secret" in path.read_bytes() for path in files)
