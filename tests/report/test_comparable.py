"""What is behind equal paths: rows and users' code, as `run.json` has them."""

import json
import re
import shutil
from pathlib import Path

import pytest

from mgsrl.compare.words import read_words
from mgsrl.errors import ConfigError
from mgsrl.obs.run_record import read_run_record
from mgsrl.report.load import read_run_data
from tests.report.synthetic import make_runs
from tests.report.test_compare import compared


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("runs"), steps=1)


def recorded(run_dir: Path, to: Path, **facts) -> Path:
    """A copy of the run with these facts in its record."""
    shutil.copytree(run_dir, to)
    record = read_run_record(to) | facts
    (to / "run.json").write_text(json.dumps(record))
    return to


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ("math (held out)", "domains.math.heldout"),
        ("math", "domains.math.source"),
        ("math/more", "domains.math.extra_sources.more"),
    ],
)
def test_rows_behind_equal_paths_are_compared(tmp_path, run_dirs, data, key):
    one, other = (
        recorded(run_dirs[i], tmp_path / str(i), data={data: {"kept": 1, "digest": f"{i}abc"}})
        for i in (0, 2)
    )
    with pytest.raises(ConfigError, match=rf"{re.escape(key)}: rows 0abc \(0\); rows 2abc"):
        compared(one, other)
    assert [each.key for each in compared(one, other, allow=[key]).allowed] == [key]
    older = recorded(run_dirs[3], tmp_path / "older", data={data: {"kept": 1}})
    assert not compared(one, older, run_dirs[1]).allowed


@pytest.mark.parametrize(
    ("old", "new", "key", "explains"),
    [
        ("prompts_per_domain: 128", "prompts_per_domain: 64", "evaluate.prompts_per_domain", True),
        ("max_prompt_tokens: ", "max_prompt_tokens: 1", "data.max_prompt_tokens", True),
        ("format_bonus: 0.0", "format_bonus: 0.5", "domains.math.reward.format_bonus", True),
        ("num_workers: 1", "num_workers: 2", "domains.math.reward.num_workers", False),
    ],
)
def test_a_setting_that_decides_which_rows_are_used_says_why_they_differ(
    tmp_path, run_dirs, old, new, key, explains
):
    one, other = (
        recorded(run_dirs[i], tmp_path / str(i), data={"math (held out)": {"digest": f"{i}abc"}})
        for i in (0, 2)
    )
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace(old, new, 1))
    settings = [read_run_data(path).settings[key] for path in (one, other)]
    assert settings[0] != settings[1]
    if explains:
        found = compared(one, other, allow=[key.rpartition(".")[0]])
        assert "domains.math.heldout" not in {each.key for each in found.allowed}
        again = recorded(other, tmp_path / "again", data={"math (held out)": {"digest": "other"}})
        with pytest.raises(ConfigError, match=r"domains\.math\.heldout: rows 2abc \(2\)"):
            compared(one, other, again, allow=[key.rpartition(".")[0]])
    else:
        with pytest.raises(ConfigError, match=r"expected:.*\n *found: *domains\.math\.heldout"):
            compared(one, other)


def test_users_code_behind_equal_names_is_compared(tmp_path, run_dirs):
    """But not what makes no numbers, nor the package's own files: its version is remarked upon."""

    def with_code(i: int, name: str) -> Path:
        plugins = {name: {"file": "/lab/mine.py", "sha256": str(i) * 64}}
        return recorded(run_dirs[i], tmp_path / f"{len(list(tmp_path.iterdir()))}", plugins=plugins)

    pair = [with_code(i, "lab/mine.py:drop") for i in (0, 2)]
    key = "plugins.lab/mine.py:drop"
    shown = rf"{re.escape(key)}: code 0{{16}} \(0\); code 2{{16}} \(1\)"
    with pytest.raises(ConfigError, match=shown) as told:
        compared(*pair)
    (words,) = re.findall(r"'(allow=.*)'", str(told.value))
    assert read_words([words]).allow == [key]
    assert [each.key for each in compared(*pair, allow=[key]).allowed] == [key]
    assert not compared(pair[0], with_code(2, "other.py:drop"), run_dirs[1]).allowed
    own = [with_code(i, "mgsrl.rewards.pocket_conflict:Conflict") for i in (0, 2)]
    assert not compared(*own).allowed
    watching = [with_code(i, "mine.py:Watch") for i in (0, 2)]
    for path in watching:
        text = (path / "config.yaml").read_text()
        assert "also: []" in text
        (path / "config.yaml").write_text(text.replace("also: []", "also: ['mine.py:Watch']"))
    assert not compared(*watching).allowed
