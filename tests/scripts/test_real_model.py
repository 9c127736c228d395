"""`+experiment=smollm2`: the rows that are prepared, the chat reward, and what it composes to."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import pandas as pd
import real_model
import real_model_data
from brief_answer import score
from cell_rows import joined, write_rows

from mgsrl.compare.cells import differing_keys, plan_cells
from mgsrl.compare.words import read_words
from mgsrl.config.compose import compose_config
from mgsrl.constraints.check import bind
from mgsrl.files.jsonl import read_rows
from mgsrl.report.comparable import check_axes
from tests.oracle import WHOLE

DOMAINS = ("math", "chat", "instruction_following")
needs_data = pytest.mark.skipif(
    not all((WHOLE / name).is_file() for name in real_model_data.SOURCES.values()),
    reason="the public files are not there",
)


Files = dict[str, list[dict[str, Any]]]


def prepare(folder: Path, seed: int = 0) -> Files:
    options = ["--from", str(WHOLE), "--output", str(folder), "--seed", str(seed)]
    real_model_data.main(options)
    return {path.stem: read_rows(path) for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return prepare(tmp_path_factory.mktemp("prepared"))


@needs_data
def test_the_same_seed_prepares_the_same_rows(files: Files, tmp_path: Path) -> None:
    assert prepare(tmp_path / "again") == files
    assert prepare(tmp_path / "other", seed=1) != files


@needs_data
@pytest.mark.parametrize("domain", DOMAINS)
def test_there_is_enough_to_train_and_to_measure_on(files: Files, domain: str) -> None:
    training, heldout = files[f"{domain}_train"], files[f"{domain}_heldout"]
    assert len(training) >= 300
    assert len(heldout) >= 128
    assert len({row["id"] for row in (*training, *heldout)}) == len(training) + len(heldout)


@needs_data
def test_no_split_tells_of_another(files: Files) -> None:
    parts = [files[f"math_{part}"] for part in ("train", "heldout", "warm")]
    kinds = {real_model_data.kind_of(row) for rows in parts for row in rows}
    assert len(kinds) == sum(map(len, parts))
    requests = [
        {row["prompt"].rsplit("\n", 1)[0] for row in files[f"chat_{part}"]}
        | {row["request"] for row in files[f"instruction_following_{part}"]}
        for part in ("train", "heldout")
    ]
    assert not requests[0] & requests[1]


@needs_data
def test_the_rows_are_what_the_page_says(files: Files) -> None:
    for row in (*files["math_train"], *files["math_heldout"], *files["math_warm"]):
        sides, result = row["response"].split(".")[0].split("=")
        a, operator, b = sides.split()
        assert real_model_data.OPERATORS[operator](int(a), int(b)) == int(result)
        assert int(result) == int(row["answer"])
        assert max(int(a), int(b), int(result)) <= real_model_data.LARGEST
        assert row["response"].endswith(f"\\boxed{{{row['answer']}}}.")
    for row in files["instruction_following_train"]:
        for name, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            assert name in real_model_data.FIT
            bind(name, arguments)


def test_a_file_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        real_model_data.main(["--from", str(tmp_path), "--output", str(tmp_path / "out")])
    assert exit_.value.code == 2
    assert "mawps_singleop.jsonl" in capsys.readouterr().err


PROMPT = "How do trains brake on ice?" + real_model_data.BRIEF
GOOD = (
    "Trains brake slowly on ice, since steel wheels slide there; drivers therefore start braking "
    "earlier, pour sand onto rails and reduce speed before every station."
)


@pytest.mark.parametrize(
    ("response", "finish_reason", "low", "high"),
    [
        (GOOD, "stop", 0.9, 1.0),
        (GOOD, "length", 0.2, 0.25),
        (GOOD.rstrip("."), "stop", 0.2, 0.25),
        ("Trains brake. " * 12, "stop", 0.0, 0.15),
        ("How do trains brake on ice?", "stop", 0.5, 0.5),  # the subject alone
        ("Yes.", "stop", 0.0, 0.0),
        ("", "stop", 0.0, 0.0),
    ],
)
def test_a_brief_answer_is_whole_fresh_and_to_the_subject(
    response: str, finish_reason: str, low: float, high: float
) -> None:
    assert low <= score(PROMPT, response, finish_reason) <= high


def test_the_line_that_asks_for_brevity_is_no_subject() -> None:
    bare = "How do trains brake on ice?"
    assert score(PROMPT, GOOD, "stop") == score(bare, GOOD, "stop")


def test_the_strategies_differ_in_nothing_else(tmp_path: Path) -> None:
    words = read_words(
        [
            "+experiment=smollm2",
            "strategies=[mixed,normalized_advantage,global_surgery,mgs]",
            "seeds=[0,1,2]",
        ]
    )
    cells = plan_cells(tmp_path, words.arms(), words.common)
    assert len(cells) == 12
    check_axes(differing_keys(cells), allow=[])
    config = compose_config(["+experiment=smollm2"])
    assert tuple(config.domains) == DOMAINS
    assert config.rollout.max_new_tokens == 64
    function = config.domains["chat"].reward.options.function
    assert (Path(__file__).parents[2] / function.split(":")[0]).is_file()


def products(step: int, module: str, inner: dict[tuple[str, str], float]) -> pd.DataFrame:
    rows = [
        {
            "step": step,
            "module": module,
            "domain_a": a,
            "domain_b": b,
            "inner": value,
            "reliability": 0.5 if a == b else None,
            "stands_out": None if a == b else value < -1,
        }
        for (a, b), value in inner.items()
    ]
    return pd.DataFrame(rows)


def test_a_pair_s_cosine_is_that_of_the_sums_without_noise() -> None:
    own = {(d, d): 4.0 for d in DOMAINS}
    cross = {(DOMAINS[0], DOMAINS[1]): -2.0, (DOMAINS[0], DOMAINS[2]): 1.0}
    table = pd.concat(
        [
            products(step, module, {**own, **cross, (DOMAINS[1], DOMAINS[2]): step - 1.5})
            for step in (1, 2)
            for module in ("embedding", "layer")
        ]
    )
    pairs = real_model.pairs_of(table)
    assert pairs["math and chat"] == {"inner": -8.0, "negative": 1.0, "stands_out": 1.0}
    assert pairs["chat and instruction_following"]["negative"] == 0.5
    signal = real_model.signal_of(table)
    assert signal == {key: [16.0, 8.0] for key in DOMAINS}
    rows = [{"pairs": pairs, "signal": signal}] * 3
    assert [real_model.cosine(rows, a, b) for a, b in real_model.PAIRS] == [-1.0, 0.5, 0.0]
    assert real_model.reliability(rows, "math") == 0.5
    silent = table.assign(step=3, inner=9.0, reliability=None, stands_out=None)
    both = pd.concat([table, silent.astype({"reliability": float})])
    assert real_model.pairs_of(both) == pairs, "a step whose noise was not measured"
    assert real_model.signal_of(both) == signal
    noise = [{"pairs": pairs, "signal": signal | {"chat": [16.0, -1.0]}}]
    assert math.isnan(real_model.cosine(noise, "math", "chat"))


def row(arm: str, seed: int, gain: float) -> dict[str, Any]:
    shares = dict.fromkeys(DOMAINS, 0.25)
    pair = {"inner": -0.5, "negative": 0.5, "stands_out": 0.0}
    return {
        "arm": arm,
        "seed": seed,
        "before": shares,
        "pairs": {f"{a} and {b}": pair for a, b in real_model.PAIRS},
        "after": dict.fromkeys(DOMAINS, 0.25 + gain + 0.125 * seed),
        "signal": {key: [4.0, 1.0] for key in DOMAINS},
        **dict.fromkeys(("projected", "live"), shares),
    }


def test_the_tables_pair_seeds_and_mark_what_is_sure() -> None:
    rows = [row(arm, seed, gain) for arm, gain in (("mixed", 0.0), ("mgs", 0.5)) for seed in (0, 1)]
    rows[3]["after"] = {d: value + 1e-6 for d, value in rows[3]["after"].items()}  # a spread
    text = real_model.tables(rows)
    assert "| mgs | **+0.500 (+0.500 to +0.500)** |" in text
    assert "| mixed | 2 |" in text
    assert "Conflicts, of 4 runs" in text
    assert "| math and chat | 50.0% | 0.0% | -0.50 ± 0.00 |" in text
    assert "normalized_advantage" not in text


def test_runs_of_a_seed_that_began_with_other_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(arm, seed=0, gain=0.5) for arm in ("mixed", "mgs")]
    monkeypatch.setattr(real_model, "RESULTS", tmp_path / "rows.jsonl")
    write_rows(real_model.RESULTS, rows)
    assert len(real_model.known_rows(tmp_path / "none")) == 2
    unknown = rows[0] | {"pairs": {"math and chat": {"stands_out": math.nan}}}
    write_rows(real_model.RESULTS, [unknown, rows[1]])
    assert len(joined(real_model.RESULTS, [unknown], ("arm", "seed"))) == 2, "no other number"
    write_rows(real_model.RESULTS, rows)
    with pytest.raises(SystemExit, match="came to other numbers"):
        joined(real_model.RESULTS, [rows[1] | {"after": {}}], ("arm", "seed"))
    rows[1]["before"] = rows[1]["before"] | {"math": 0.5}
    write_rows(real_model.RESULTS, rows)
    with pytest.raises(SystemExit, match="seed 0 did not begin with the same weights"):
        real_model.known_rows(tmp_path / "none")
