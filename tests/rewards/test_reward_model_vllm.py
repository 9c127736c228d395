"""The bundled reward model on vLLM's pooling runner and on transformers: the same numbers.

In a process of its own: vLLM sets the process up for itself.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from mgsrl.rewards.protocol import Response
from tests.rewards.loaded import worker

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

PROMPT = ({"role": "user", "content": "Name a fruit."},)
RESPONSES = ["An apple.", "", "The sea is wide and blue. " * 80, "a b c", "An apple is a fruit."]
SCRIPT = """
import json, sys
from mgsrl.config import RewardConfig
from mgsrl.errors import UserError
from mgsrl.rewards.protocol import Response
from mgsrl.rewards.actor import RewardWorker
items = [Response(tuple(messages), response) for messages, response in json.load(sys.stdin)]
refused = RewardWorker(RewardConfig.of("reward_model", path=sys.argv[1], backend="vllm"))
try:
    refused.ready()
except UserError as error:
    message = str(error)
worker = RewardWorker(RewardConfig.of("reward_model", path="pocket", backend="vllm"))
worker.ready()
scores = [[reward.value for reward in worker.score(items)] for _ in range(2)]
print(json.dumps([message, *scores]))
"""


def test_both_backends_give_the_same_scores(tiny_model: Path, tmp_path: Path) -> None:
    headless = AutoModelForCausalLM.from_pretrained(tiny_model)
    headless.config.num_labels = 1
    headless.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    items = [Response(PROMPT, f"<response>{text}</response>") for text in RESPONSES]
    items.append(Response(PROMPT, "no block"))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        input=json.dumps([[list(item.messages), item.response] for item in items]),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    message, first, second = json.loads(done.stdout.splitlines()[-1])
    assert "is not a reward model" in message
    expected = [reward.value for reward in worker("reward_model", path="pocket").score(items)]
    assert len(set(expected[:-1])) == len(RESPONSES)
    assert first == pytest.approx(expected, abs=1e-4)
    assert first == second
