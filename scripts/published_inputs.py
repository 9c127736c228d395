"""What `mgsrl eval` found, for `published_table.py`: whose it is, and whether it goes together."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mgsrl.commands.eval import evaluation_name
from mgsrl.errors import ConfigError, DataError, MissingPathError, nearest, one_line
from mgsrl.evaluate.store import RESULTS
from mgsrl.report.comparable import Differing
from mgsrl.report.load import RunData, read_run_data


class Benchmark(NamedTuple):
    """The suite's number is `factor * metric + plus`."""

    title: str
    metric: str
    factor: float = 100.0
    plus: float = 0.0


BENCHMARKS = {
    "math500": Benchmark("MATH-500", "avg@1"),
    "gsm8k": Benchmark("GSM8K", "avg@1"),
    "aime24": Benchmark("AIME", "avg@4"),
    "ifbench": Benchmark("IFBench", "prompt_strict"),
    "wildbench": Benchmark("WildBench", "judge_win_rate", 200.0, -100.0),
    "alpaca_eval": Benchmark("AlpacaEval 2", "judge_win_rate_lc"),
    "creative_writing": Benchmark("Creative Writing v3", "judge_score", 5.0),
}
ALIKE = (
    *("prompts", "rows_sha256", "samples_per_prompt", "temperature", "top_p", "max_new_tokens"),
    *("prompt_template", "chat_template_kwargs", "engine", "dtype"),
    *("reading", "judge", "judge_model", "baseline_sha256"),
)
"""What decides a benchmark's number besides the weights, as results.json calls it."""
NAME = re.compile(r"(?P<arm>.+)-seed(?P<seed>\d+)(-step_\d+)?")
NO_SEED = -1
"""Of a model that no run made."""


@dataclass(frozen=True)
class Evaluated:
    """One evaluation, and of what."""

    folder: Path
    results: dict[str, Any]
    scores: dict[str, float]
    """By benchmark, as the suite has them; NaN for what is missing."""
    run: RunData | None
    """None where its folder is not here."""
    arm: str
    strategy: str
    seed: int

    def called(self, arm: str) -> str:
        return arm if self.seed == NO_SEED else f"{arm} seed {self.seed}"


def read(word: Path, evals: Path) -> Evaluated:
    """The evaluation of a run, a checkpoint or a model below `evals`, or the one in `word` itself.

    Raises:
        MissingPathError: there is none.
        DataError: it cannot be read.
    """
    own = word.parent if word.name == RESULTS else word
    folders = [own, evals / evaluation_name(str(own))]
    folder = next((each for each in folders if (each / RESULTS).is_file()), None)
    if folder is None:
        raise MissingPathError(
            f"{word} has no results.",
            expected=" or ".join(str(each / RESULTS) for each in folders),
            found="neither" if word.exists() else f"neither, nor {word}",
            todo=f"mgsrl eval --model {word} ... (scripts/reproduce.md, 4), or leave it out",
        )
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        weights = Path(results["model"]["path"])
        scores = {name: _score(results["tasks"].get(name), name) for name in BENCHMARKS}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{folder / RESULTS} is damaged.",
            expected="what mgsrl eval writes",
            found=one_line(error),
            todo="move it away and give its mgsrl eval again, which keeps the responses",
        ) from error
    trained = weights.parent.parent if weights.parent.name == "checkpoints" else None
    homes = [home for home in (trained, own) if home and _is_run(home)]
    run = read_run_data(homes[0]) if homes else None
    name = (homes[0] if homes else trained or folder).resolve().name
    return Evaluated(folder, results, scores, run, *_whose(name, run))


def _score(task: Mapping[str, Any] | None, name: str) -> float:
    benchmark = BENCHMARKS[name]
    metric = None if task is None else task["metrics"].get(benchmark.metric)
    if metric is None or metric["value"] is None:
        return math.nan
    int(metric["n"]), int(task["prompts"])  # both are read again, in the notes
    return benchmark.factor * float(metric["value"]) + benchmark.plus


def _is_run(folder: Path) -> bool:
    """Of a run and not of one of its checkpoints, which have its configuration too."""
    return (folder / "config.yaml").is_file() and not (folder / "manifest.json").exists()


def _whose(name: str, run: RunData | None) -> tuple[str, str, int]:
    """Arm, strategy and seed, by the configuration and the folder's name: `ARM-seedN`."""
    match = NAME.fullmatch(name)
    arm, seed = (match["arm"], int(match["seed"])) if match else (name, NO_SEED)
    if run is None:
        return arm, arm.rpartition("-")[2] if match else name, seed
    strategy = str(run.setting("strategy.name", arm))
    arm = arm if match else f"{run.setting('run.name', name)}-{strategy}"
    own = run.setting("seed", seed)
    return arm, strategy, own if type(own) is int else seed


def by_arm(found: Sequence[Evaluated], baseline: str) -> dict[str, list[Evaluated]]:
    """By arm, called by its strategy where no other arm has the same; the baseline first. Runs of
    folders with one name are several arms where their strategies differ.

    Raises:
        ConfigError: there is no such baseline.
    """
    several = Counter(arm for arm, _ in {(each.arm, each.strategy) for each in found})
    found = [
        replace(each, arm=f"{each.arm} {each.strategy}") if several[each.arm] > 1 else each
        for each in found
    ]
    strategies = {each.arm: each.strategy for each in found}
    times = Counter([*strategies.values(), *strategies])
    names = {arm: arm if times[own] > 1 else own for arm, own in strategies.items()}
    if baseline not in names.values():
        raise ConfigError(
            "The baseline is no arm of the table.",
            expected="one of its arms",
            found=baseline,
            todo=f"--baseline ARM ({nearest(baseline, names.values())})",
        )
    order = sorted(names, key=lambda arm: names[arm] != baseline)
    return {names[arm]: [each for each in found if each.arm == arm] for arm in order}


def check_once(arms: Mapping[str, Sequence[Evaluated]]) -> None:
    """Raise ConfigError for a seed of an arm that is there twice."""
    for arm, own in arms.items():
        for each in own:
            same = [str(other.folder) for other in own if other.seed == each.seed]
            if len(same) > 1:
                raise ConfigError(
                    f"{each.called(arm)} is there more than once.",
                    expected="one evaluation of each seed of an arm",
                    found=", ".join(same),
                    todo="leave all but one out",
                )


def check_alike(found: Sequence[Evaluated]) -> None:
    """Raise ConfigError for a benchmark that was not measured in the same way everywhere."""
    for name, benchmark in BENCHMARKS.items():
        there = [each for each in found if name in each.results["tasks"]]
        for key in ALIKE:
            values = {
                str(each.folder): json.dumps(known[key])
                for each in there
                if key in (known := each.results | each.results["tasks"][name])
            }
            if len(set(values.values())) > 1:
                groups = Differing(key, values).groups.items()
                raise ConfigError(
                    f"{benchmark.title} was not measured alike: {key} differs.",
                    expected="one value of all evaluations",
                    found="; ".join(f"{value} ({who})" for value, who in groups),
                    todo="evaluate again with equal settings (--force), or leave some out",
                )
