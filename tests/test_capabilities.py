"""The page of capabilities is what its records say, and every record's test is still there.

Also the refusals themselves: a combination that cannot be stops before any actor starts.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mgsrl.config.compose import compose_config
from mgsrl.errors import ConfigError
from mgsrl.training.machine import check_fits
from mgsrl.training.plan import plan
from scripts.capability_table import PAGE, page, read, status
from tests.documented import ROOT

refused = pytest.mark.capability
OFFLOAD = ["learner.offload_optimizer=true", "learner.device=auto"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        pytest.param(
            ["learner.dtype=bfloat16", "learner.zero_stage=0"],
            "no fp32 master weights",
            marks=refused(zero=0, dtype="bfloat16", refused=True),
        ),
        pytest.param(
            [*OFFLOAD, "learner.zero_stage=0"],
            "a part of ZeRO",
            marks=refused(feature="optimizer offload", zero=0, refused=True),
        ),
        pytest.param(
            ["rollout.engine=transformers", "rollout.tensor_parallel_size=2"],
            "splits one engine over several GPUs",
            marks=refused(feature="tensor parallelism", engine="transformers", refused=True),
        ),
        pytest.param(
            ["rollout.top_p=0.9"],
            "must be 1 for training",
            marks=[
                refused(feature="training on a nucleus", engine=engine, refused=True)
                for engine in ("vllm", "transformers")
            ],
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_actor(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        start(overrides)


def start(overrides: list[str]) -> None:
    """What `mgsrl train` does before it starts Ray."""
    config = compose_config(overrides)
    check_fits(config)
    plan(config)


def test_the_page_is_what_the_records_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read()), "run scripts/capability_table.py"


def test_every_record_has_its_test() -> None:
    """Collected anew: the test is there, and its marks still say what the record says."""
    files = sorted({record["test"].partition("::")[0] for record in read()})
    collect = (
        "import json, sys, pytest\nfrom tests.capabilities import shown\n"
        "class Seen:\n"
        "    def pytest_collection_finish(self, session):\n"
        "        json.dump([r for i in session.items for r in shown(i)], open(sys.argv[1], 'w'))\n"
        "sys.exit(pytest.main(['--collect-only', '-qq', '-m', '', *sys.argv[2:]], [Seen()]))\n"
    )
    out = ROOT / ".pytest_cache" / "capabilities.json"
    out.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-c", collect, str(out), "-p", "no:cacheprovider", *files]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=120)
    now = [json.dumps(record, sort_keys=True) for record in json.loads(out.read_text())]
    out.unlink()
    gone = {json.dumps(record, sort_keys=True) for record in read()} - set(now)
    assert not gone, f"run `make capabilities`: {sorted(gone)[:5]}"


def test_passing_tests_are_written_down_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.mark.capability(feature='a', zero=1)\n"
        "def test_good(): pass\n"
        "@pytest.mark.capability(feature='b', zero=1)\n"
        "def test_bad(): assert False\n"
        "@pytest.mark.capability(feature='c', zero=1)\n"
        "def test_skipped(): pytest.skip('not here')\n"
    )
    found = tmp_path / "found.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.capabilities", "-n", "2"]
    options = ["--capabilities", str(found), "-c", "/dev/null", "--rootdir", str(tmp_path)]
    subprocess.run([*command, *options, str(tmp_path)], cwd=ROOT, timeout=120, capture_output=True)
    rows = [json.loads(line) for line in found.read_text().splitlines()]
    assert [(row["feature"], row["status"]) for row in rows] == [("a", "tested")]
    assert rows[0]["test"] == "test_some.py::test_good"


def record(**facts: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("feature", "zero", "lora", "engine", "dtype"))
    return {**empty, "status": "tested", "test": "t", **facts}


def test_a_combination_is_tested_refused_or_untested() -> None:
    records = [
        record(feature="x", zero=1, lora=False, dtype="float32"),
        record(zero=0, dtype="bfloat16", status="refused"),
    ]
    place = {"feature": "x", "lora": False}
    assert status(records, **place, zero=1, dtype="float32") == "tested"
    assert status(records, **place, zero=1, dtype="bfloat16") == "untested"
    assert status(records, **place, zero=0, dtype="bfloat16") == "refused"
    assert status(records, feature="y", lora=True, zero=0, dtype="bfloat16") == "refused"
    assert status(records, feature="y", lora=False, zero=1, dtype="float32") == "untested"
    text = page(records)
    assert "| x | **1**, 0 2 3 untested | 0 refused, 1 2 3 untested |" in text
