"""One question to the hub: names that it does not know and no way to it are told at once."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from mgsrl.config import PolicyConfig, RewardConfig, SourceConfig, hub
from mgsrl.config.hub import check_on_hub
from mgsrl.config.task import find_task
from mgsrl.data.prepare import prepare
from mgsrl.data.sources import load_rows
from mgsrl.errors import MissingPathError
from mgsrl.evaluate.tasks import load_task, parse_tasks
from mgsrl.learner.policy import load_tokenizer
from mgsrl.rewards.factory import check_reward


class Hub(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 - emptied by the fixture

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/") or self.path.startswith("/api/datasets/"):
            Hub.asked.append(self.path)  # and not what the client asks of its own accord
        if "there" in self.path:
            body = json.dumps({"id": "a/there", "sha": "0" * 40}).encode()
            self.send_response(200)
        elif "mirror" in self.path:
            body = b"no such interface"
            self.send_response(501)
        else:
            body = b"{}"
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub._ask.cache_clear()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    httpd = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{httpd.server_port}")
    Hub.asked = []
    yield Hub.asked
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def test_what_the_hub_knows_passes_and_is_asked_for_once(server: list[str]) -> None:
    for _ in range(3):
        check_on_hub("a/there", "model", "policy.path", "x")
    assert server == ["/api/models/a/there"]
    check_on_hub("a/mirror", "dataset", "k", "x")


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_name_that_the_hub_does_not_know(server: list[str], kind: hub.Kind) -> None:
    with pytest.raises(MissingPathError) as caught:
        check_on_hub("modles/X", kind, "policy.path", "give a folder")
    message = str(caught.value)
    assert f"policy.path: the hub has no {kind} 'modles/X'" in message
    assert "RepositoryNotFoundError" in message
    assert "give a folder" in message


def test_what_is_in_the_cache_is_not_asked_for(unreachable: None, tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match="ConnectError"):
        check_on_hub("a/b", "model", "policy.path", "x")
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    check_on_hub("a/b", "model", "policy.path", "x")


def test_offline_mode_asks_nobody(server: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingPathError, match="HF_HUB_OFFLINE"):
        check_on_hub("a/there", "model", "policy.path", "x")
    assert server == []


def no_policy() -> None:
    load_tokenizer(PolicyConfig(path="modles/X"))


def no_reward_model() -> None:
    check_reward(RewardConfig.of("reward_model", path="modles/X"), "domains.chat.reward")


def no_extra_reward_model() -> None:
    extra = {"x": RewardConfig.of("reward_model", path="modles/X")}
    check_reward(RewardConfig(extra=extra), "domains.math.reward")


def no_data() -> None:
    load_rows(SourceConfig(kind="hub", path="a/b:c"), "math", key="domains.math.source")


def no_task() -> None:
    load_task(parse_tasks("gsm8k")[0])


def nothing_to_prepare() -> None:
    prepare(find_task("simplerl", "NAME"), Path("nowhere"))


@pytest.mark.parametrize(
    "use",
    [no_policy, no_reward_model, no_extra_reward_model, no_data, no_task, nothing_to_prepare],
)
def test_everything_that_loads_from_the_hub_asks_first(use: object, unreachable: None) -> None:
    begin = time.monotonic()
    with pytest.raises(MissingPathError, match=r"(?s)expected:.*found:.*to do:"):
        use()  # type: ignore[operator]
    assert time.monotonic() - begin < 20  # what is imported takes most; retries take longer
