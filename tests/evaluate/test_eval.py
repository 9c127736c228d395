"""`mgsrl eval` as a user runs it, on the pocket model: scores, continuing, mistakes."""

import json
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from mgsrl.cli import main
from mgsrl.config.model_path import ASSETS, POCKET_POLICY, POCKET_REWARD_MODEL, resolve_model_path
from mgsrl.config.task import find_task
from mgsrl.data.pocket import pocket_rows
from mgsrl.errors import ConfigError
from mgsrl.evaluate import sampling, scoring
from mgsrl.rewards import actor
from mgsrl.rewards.extract import Extraction, extract_response
from mgsrl.rewards.judge import Judge, JudgeConfig
from mgsrl.rewards.protocol import Surroundings
from tests.evaluate.judge_server import judge_server
from tests.oracle import published_file, published_rows
from tests.training import runs

POCKET = ("--model", "pocket", "--engine", "transformers", "--max-new-tokens", "48")


def pocket_file(folder: Path, domain: str, count: int) -> Path:
    file = folder / f"{domain}.jsonl"
    rows = islice(pocket_rows(domain, "heldout", count, 0), count)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def evaluate(output: Path, tasks: str, *options: str) -> dict[str, Any]:
    arguments = ["eval", *POCKET, "--tasks", tasks, "--output", str(output), *options]
    assert main(arguments) == 0
    return json.loads((output / "results.json").read_text())


def samples(output: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "samples" / f"{task}.jsonl").open()]


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Mathematics with four samples a prompt, and constraints."""
    folder = tmp_path_factory.mktemp("verified")
    files = {name: pocket_file(folder, name, 8) for name in ("math", "instruction_following")}
    tasks = ",".join(f"{name}={file}" for name, file in files.items())
    output = folder / "out"
    options = ("--samples", "4", "--temperature", "1", "--limit", "instruction_following=4")
    return {
        "results": evaluate(output, tasks, *options),
        "output": output,
        "tasks": tasks,
        "options": options,
    }


def test_scores_counts_and_report(verified: dict[str, Any]) -> None:
    results, output = verified["results"], verified["output"]
    math, constraints = results["tasks"]["math"], results["tasks"]["instruction_following"]
    assert (math["prompts"], math["responses"]) == (8, 32)
    assert (constraints["prompts"], constraints["responses"]) == (4, 16)
    rows = samples(output, "math")
    assert [(row["id"], row["sample"]) for row in rows[:5]] == [
        ("math-heldout-00000", 0),
        ("math-heldout-00000", 1),
        ("math-heldout-00000", 2),
        ("math-heldout-00000", 3),
        ("math-heldout-00001", 0),
    ]
    right = [row["score"]["value"] for row in rows]
    by_prompt = [right[at : at + 4] for at in range(0, 32, 4)]
    assert math["metrics"]["avg@4"]["value"] == pytest.approx(sum(right) / 32)
    assert 0.2 < math["metrics"]["avg@4"]["value"] < 0.95  # the pocket model is half trained
    assert math["metrics"]["pass@4"]["value"] == pytest.approx(sum(map(any, by_prompt)) / 8)
    assert list(math["metrics"]) == ["avg@4", "pass@2", "maj@2", "pass@4", "maj@4"]
    for metric in [*math["metrics"].values(), *constraints["metrics"].values()]:
        assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
    found = constraints["metrics"]
    assert found["prompt_strict"]["value"] <= found["instruction_strict"]["value"]
    assert found["prompt_strict"]["value"] <= found["prompt_loose"]["value"]
    assert found["instruction_strict"]["value"] > 0
    assert math["seconds"] > 0
    assert math["tokens_per_second"] > 0
    assert results["versions"]["mgsrl"]
    html = (output / "report.html").read_text()
    for text in ("avg@4", "prompt_strict", "<svg", "Tom has 5 stamps"):
        assert text in html
    assert not (output / "scores").exists()


def test_a_finished_evaluation_is_not_done_again(
    verified: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("everything was stored")

    monkeypatch.setattr(sampling, "running_engine", forbidden)
    monkeypatch.setattr(scoring, "scorer", forbidden)
    again = evaluate(verified["output"], verified["tasks"], *verified["options"])
    assert again["tasks"] == verified["results"]["tasks"]
    one = evaluate(verified["output"], verified["tasks"].split(",")[0], *verified["options"][:4])
    assert one["tasks"] == verified["results"]["tasks"]  # those of other calls stay


def test_a_killed_evaluation_continues(verified: dict[str, Any], tmp_path: Path) -> None:
    """Its files: some responses, one of them cut short, and half of the scores."""
    output, tasks = tmp_path / "out", f"math={verified['tasks'].split(',')[0].partition('=')[2]}"
    whole = samples(verified["output"], "math")
    (output / "samples").mkdir(parents=True)
    (output / "scores").mkdir()
    bare = [{name: row[name] for name in row if name != "score"} for row in whole]
    text = "".join(json.dumps(row) + "\n" for row in bare[:21])
    (output / "samples" / "math.jsonl").write_text(text[:-30])
    scores = [{"id": r["id"], "sample": r["sample"], "score": r["score"]} for r in whole[:10]]
    scores[0]["score"] = {"value": 0.0, "extracted": "kept", "format_ok": True}
    (output / "scores" / "math.jsonl").write_text("".join(json.dumps(s) + "\n" for s in scores))
    evaluate(output, tasks, "--samples", "4", "--temperature", "1")
    continued = samples(output, "math")
    assert [row["response"] for row in continued] == [row["response"] for row in whole]
    assert continued[:20] == [{**bare[0], "score": scores[0]["score"]}, *whole[1:20]]
    assert [row["score"] for row in continued[1:]] == [row["score"] for row in whole[1:]]


BARE = ("eval", "--model", "pocket", "--engine", "transformers")


def test_the_default_length_fits_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1,024 new tokens are more than the bundled model has positions."""
    tasks = f"math={pocket_file(tmp_path, 'math', 1)}"
    output = tmp_path / "out"
    assert main([*BARE, "--tasks", tasks, "--output", str(output)]) == 0
    positions = sampling.positions_of(resolve_model_path("pocket", "--model", POCKET_POLICY))
    settings = json.loads((output / "eval.json").read_text())
    assert settings["tasks"]["math"]["max_new_tokens"] == positions // 2
    assert f"at most {positions // 2} new tokens instead of 1024" in capsys.readouterr().out


def test_a_refused_evaluation_leaves_nothing_in_the_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, output = f"math={pocket_file(tmp_path, 'math', 1)}", tmp_path / "out"
    command = [*BARE, "--tasks", tasks, "--output", str(output), "--max-new-tokens"]
    assert main([*command, "4000"]) == 2
    assert "lower --max-new-tokens" in capsys.readouterr().err
    assert not output.exists()

    def broken(*_: Any) -> Any:
        raise ConfigError("the engine cannot start")

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "make_engine", broken)
        assert main([*command, "40"]) == 2
    assert not output.exists() or not any(output.iterdir())
    # Settings under which no response was made, as a kill in the engine's first batch leaves them.
    output.mkdir(exist_ok=True)
    (output / "eval.json").write_text(
        json.dumps({"model": {}, "seed": 7, "tasks": {"math": {"rows": 9}}})
    )
    assert main([*command, "16"]) == 0
    assert json.loads((output / "eval.json").read_text())["seed"] == 0
    assert main([*command, "17"]) == 2
    assert "start again with --force" in capsys.readouterr().err
    (output / "eval.json").write_text("{")
    assert main([*command, "17"]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_force_starts_again_and_other_folders_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks, output = f"math={pocket_file(tmp_path, 'math', 1)}", tmp_path / "out"
    command = ["eval", *POCKET, "--tasks", tasks, "--output", str(output)]
    assert main(command) == 0
    before = samples(output, "math")
    (output / "notes.txt").write_text("mine")
    again = [*command, "--temperature", "1", "--samples", "2"]
    assert main([*again, "--max-new-tokens", "4000", "--force"]) == 2
    assert samples(output, "math") == before  # what cannot begin removes nothing
    assert main([*again, "--force"]) == 0
    assert len(samples(output, "math")) == 2
    assert (output / "notes.txt").read_text() == "mine"
    capsys.readouterr()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "report.html").write_text("years")
    (other / "thesis.tex").write_text("years")
    for force in ((), ("--force",)):
        assert main([*command[:-1], str(other), *force]) == 2
        assert "thesis.tex" in capsys.readouterr().err
        assert main([*command[:-1], str(tmp_path), *force]) == 2  # the data are in there
        assert "which is read" in capsys.readouterr().err
    assert (other / "report.html").read_text() == "years"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--temperature", "0.5", "--samples", "4"), ["temperature = 1.0", "0.5"]),
        (("--samples", "2", "--temperature", "1"), ["samples_per_prompt = 4"]),
        (("--samples", "4", "--temperature", "1", "--seed", "1"), ["seed = 0"]),
        (("--samples", "4", "--temperature", "1", "--limit", "3"), ["rows = 8"]),
    ],
)
def test_other_settings_do_not_mix(
    verified: dict[str, Any],
    options: tuple[str, ...],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tasks = verified["tasks"].split(",")[0]
    arguments = ["eval", *POCKET, "--tasks", tasks, "--output", str(verified["output"]), *options]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    for word in ["other settings", "--output", *words]:
        assert word in message


def test_reward_model_against_a_baseline(tmp_path: Path) -> None:
    """Against its own answers every comparison is a tie; against nonsense it wins."""
    tasks = f"chat={pocket_file(tmp_path, 'chat', 4)}"
    model = ("--reward-model", "pocket")
    first = evaluate(tmp_path / "first", tasks, *model)
    metrics = first["tasks"]["chat"]["metrics"]
    assert list(metrics) == ["rm_score"]
    itself = evaluate(tmp_path / "itself", tasks, *model, "--baseline", str(tmp_path / "first"))
    tie = itself["tasks"]["chat"]["metrics"]["rm_win_rate"]
    assert tie["value"] == 0.5
    rows = samples(tmp_path / "first", "chat")
    file = tmp_path / "nonsense.json"
    file.write_text(
        json.dumps([{"instruction": r["messages"][0]["content"], "output": "zx"} for r in rows])
    )
    better = evaluate(tmp_path / "better", tasks, *model, "--baseline", str(file))
    assert better["tasks"]["chat"]["metrics"]["rm_win_rate"]["value"] > 0.9
    differences = [r["score"]["length_difference"] for r in samples(tmp_path / "better", "chat")]
    assert all(difference > 0 for difference in differences)


def test_the_reward_model_is_told_the_day_of_the_evaluation(tmp_path: Path) -> None:
    model = shutil.copytree(ASSETS / POCKET_REWARD_MODEL, tmp_path / "model")
    template = model / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}" + template.read_text())
    tasks, told = f"chat={pocket_file(tmp_path, 'chat', 2)}", list[list[Any]]()
    for day in ("2024-07-26", "1999-01-02"):
        evaluate(tmp_path / day, tasks, "--reward-model", str(model), "--date", day)
        rows = samples(tmp_path / day, "chat")
        told.append([(row["response"], row["score"]["reward"]) for row in rows])
    assert [response for response, _ in told[0]] == [response for response, _ in told[1]]
    assert told[0] != told[1]


def test_judge_counts_abstentions_and_asks_again_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "chat.jsonl"
    rows = [{"prompt": f"Say {word}.", "baseline": word} for word in ("yes", "odd", "fail")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "judge.yaml"
    config.write_text(
        "mode: pairwise\nuser: '{prompt} A: {answer_a} B: {answer_b}'\npattern: '(A wins|B wins)'\n"
        "verdicts: {A wins: 1, B wins: 0}\nlength_control: true\n"
    )
    broken = True

    def reply(request: dict[str, Any]) -> str | None:
        text = request["messages"][-1]["content"]
        if "odd" in text:
            return "no idea"
        if "fail" in text and broken:
            return None
        return "B wins" if text.endswith(("B: yes", "B: fail")) else "A wins"

    with judge_server(reply) as (url, requests):
        options = ("--judge-url", url, "--judge-model", "j", "--judge-config", str(config))
        first = evaluate(tmp_path / "out", f"chat={file}", *options)["tasks"]["chat"]
        assert (first["unscored"], first["abstained"]) == (1, 1)
        assert "1 responses were not judged (HTTP 400" in capsys.readouterr().out
        asked = len(requests)
        broken = False
        second = evaluate(tmp_path / "out", f"chat={file}", *options)["tasks"]["chat"]
        assert len(requests) == asked + 2  # one response in both orders
    assert (second["unscored"], second["abstained"]) == (0, 1)
    assert second["metrics"]["judge_win_rate"]["value"] == 0.0
    assert second["metrics"]["judge_win_rate"]["n"] == 2
    assert second["metrics"]["judge_win_rate_lc"]["n"] == 2


def test_a_dead_judge_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text('{"prompt": "Say yes."}\n')
    url = "http://127.0.0.1:9/v1"
    options = ("--judge-url", url, "--judge-model", "j", "--judge-config")
    config = tmp_path / "judge.yaml"
    config.write_text("mode: score\nuser: '{prompt} {answer}'\npattern: 'Score: (.)'\n")
    result = evaluate(tmp_path / "out", f"chat={file}", *options, str(config))["tasks"]["chat"]
    assert (result["responses"], result["unscored"], result["metrics"]) == (1, 1, {})
    assert "asks for them again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tasks", "gms8k"), ["did you mean 'gsm8k'"]),
        (("--tasks", "creative_writing"), ["--tasks creative_writing=FILE.jsonl"]),
        (("--tasks", "math=nowhere.jsonl"), ["no such data file"]),
        (("--tasks", "math={math}", "--model", "/nowhere"), ["--model", "found"]),
        (("--tasks", "math={math}", "--samples", "4"), ["greedy", "--temperature"]),
        (("--tasks", "math={math}", "--samples", "0"), ["--samples", "at least 1"]),
        (("--tasks", "math={math}", "--limit", "gsm8k=3"), ["--limit", "valid: math"]),
        (("--tasks", "math={math}", "--max-new-tokens", "9999"), ["512 positions"]),
        (("--tasks", "chat={math}"), ["--reward-model", "--judge-url"]),
        (("--tasks", "chat={math}", "--judge-url", "http://x/v1"), ["--judge-model"]),
        (
            ("--tasks", "alpaca_eval={math}", "--judge-url", "http://x/v1", "--judge-model", "j"),
            ["baseline"],
        ),
        (
            ("--tasks", "chat={math}", "--reward-model", "pocket", "--baseline", "{other}"),
            ["lacks responses for 2 of 2"],
        ),
    ],
)
def test_mistakes_are_one_message(
    options: tuple[str, ...], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "something else", "response": "x"}\n')
    files = {"math": str(pocket_file(tmp_path, "math", 2)), "other": str(other)}
    named = [option.format(**files) for option in options]
    if any("alpaca" in option for option in named):
        Path(files["math"]).write_text('{"prompt": "P"}\n')
    assert main(["eval", *POCKET, "--output", str(tmp_path / "out"), *named]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    for word in words:
        assert word in message, message


def test_a_prompt_that_does_not_fit_loses_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    rows = [{"prompt": "many words " * 400, "answer": "1"}, {"prompt": "few", "answer": "1"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = evaluate(tmp_path / "out", f"math={file}")["tasks"]["math"]
    assert result["prompts_cut"] == 1
    assert [row["prompt_cut"] for row in samples(tmp_path / "out", "math")] == [True, False]


def test_without_the_block_that_the_template_asks_for(tmp_path: Path) -> None:
    """Under `prompted` a response without its block is wrong, and loses without being judged."""
    tag = scoring.missing_tag("prompted")
    row = sampling.Row("0", ({"role": "user", "content": "P"},), {"answer": "5"})
    sample = {"id": "0", "sample": 0, "response": "The answer is 5."}
    scorer = scoring.scorer(find_task("math", "k"), tag)
    assert scorer.score([(row, sample)])[0] == {"value": 0.0, "extracted": None, "format_ok": False}
    scorer.close()
    whole = scoring.scorer(find_task("math", "k"), scoring.missing_tag("chat"))
    assert whole.score([(row, sample)])[0]["value"] == 1.0  # type: ignore[index]
    whole.close()


def test_the_response_is_extracted_once_whoever_judges_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `prompted` too a baseline that has no block is a whole answer, and can be beaten."""
    cut: Counter[str] = Counter()

    def counted(text: str, missing_tag: str) -> Extraction:
        cut[text] += 1
        return extract_response(text, missing_tag)

    monkeypatch.setattr(actor, "extract_response", counted)
    responses = ["<response>Plums are sweet.</response>", "No block."]
    question = ({"role": "user", "content": "Name a fruit."},)
    pairs = [
        (sampling.Row(str(n), question, {}), {"id": str(n), "sample": 0, "response": text})
        for n, text in enumerate(responses)
    ]
    baselines = {"0": " A plum. ", "1": "<response>An apple.</response>"}
    with judge_server(lambda _: "B wins") as (url, requests):
        config = JudgeConfig(
            judge_mode="pairwise",
            judge_template="{answer_a}|{answer_b}",
            judge_pattern="(A wins|B wins)",
            judge_verdicts={"A wins": 1, "B wins": 0},
            judge_swap_positions=False,
            url=url,
            model="j",
        )
        judge = Judge(config)
        judge.load(Surroundings())
        model = scoring.Rewards(scoring.reward_model_config("pocket"))
        scorer = scoring.ChatScorer("prompted", model, judge, baselines)
        with_block, without = scorer.score(pairs)
        scorer.close()
    assert cut == Counter([*responses, *baselines.values()])
    assert isinstance(with_block, dict)
    assert isinstance(without, dict)
    assert with_block["length_difference"] == len("Plums are sweet.") - len("A plum.")
    assert without["length_difference"] == -len("An apple.")
    (asked,) = (request["messages"][-1]["content"] for request in requests)
    assert set(asked.split("|")) == {"Plums are sweet.", "A plum."}
    assert (without["judge_wins"], without["judge_games"]) == (0, 1)
    assert (without["reward"], without["format_ok"]) == (None, False)
    assert "no complete" in without["error"]
    assert all(isinstance(each["baseline_reward"], float) for each in (with_block, without))


GPT_4 = "if/labelled_gpt4_20231107.jsonl"
MISTRAL = "if/mifeval_en/mistralai__Mistral-7B-Instruct-v0.3.jsonl"


def test_ifeval_agrees_with_the_published_verdicts(tmp_path: Path) -> None:
    """A model's stored responses, scored here; of GPT-4's the paper has a table."""
    name = GPT_4 if published_file(GPT_4).is_file() else MISTRAL
    labelled = published_rows(name)
    prompts = {row["key"]: row for row in published_rows("if/ifeval_input.jsonl")}
    questions = tmp_path / "ifeval_input.jsonl"
    lines = [json.dumps(prompts[row["key"]]) + "\n" for row in labelled]
    questions.write_text("".join(lines))
    made = {"sample": 0, "messages": [], "finish_reason": "stop", "prompt_cut": False}
    made |= {"prompt_tokens": 1, "num_tokens": 1, "seconds": 1.0}
    (tmp_path / "out" / "samples").mkdir(parents=True)
    (tmp_path / "out" / "samples" / "ifeval.jsonl").write_text(
        "".join(
            json.dumps({"id": str(row["key"]), "response": row["response"], **made}) + "\n"
            for row in labelled
        )
    )
    results = evaluate(tmp_path / "out", f"ifeval={questions}")["tasks"]["ifeval"]
    expected = {
        "prompt_strict": mean(all(row["strict"]) for row in labelled),
        "instruction_strict": mean(each for row in labelled for each in row["strict"]),
        "prompt_loose": mean(all(row["loose"]) for row in labelled),
        "instruction_loose": mean(each for row in labelled for each in row["loose"]),
    }
    if name == GPT_4:  # scored by the published checker of its day
        expected = dict(zip(expected, (0.7689, 0.8357, 0.7930, 0.8537), strict=True))
    disputed = sum(not row["consensus"] for row in labelled)  # among the published checkers
    for metric, value in expected.items():
        found = results["metrics"][metric]
        assert found["value"] == pytest.approx(value, abs=(disputed + 0.1) / len(labelled))
        assert found["n"] == len(labelled)
    assert results["reading"] == "official"


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.ray_cluster
@pytest.mark.timeout(900)
def test_a_run_folder_on_real_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    runs.train(folder, "train.num_steps=1")
    tasks = f"math={pocket_file(tmp_path, 'math', 8)}"
    output = tmp_path / "out"
    arguments = ["eval", "--model", str(folder), "--tasks", tasks, "--output", str(output)]
    assert main([*arguments, "--max-new-tokens", "48"]) == 0
    results = json.loads((output / "results.json").read_text())
    assert results["model"]["step"] == 1
    assert results["tasks"]["math"]["responses"] == 8
    assert not (output / "model").exists()
