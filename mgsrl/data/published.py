r"""The published training sets: where they are, what their columns are called, how to read them.

`mgsrl data prepare` reads this table, and `configs/domains/published.yaml` repeats the ids and
columns of those it names (a test holds them equal).

The hub could not be reached where this was written. Ids, columns, licences and rows are from the
data sets' cards as other pages quote them and from public code that loads them; `unverified` says
what rests on less than that.
"""

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mgsrl.data.layouts import RowProblem, last_boxed
from mgsrl.files.records import Record


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """One data set on the hub."""

    about: str
    hub: str
    """`owner/name`, `owner/name:configuration` or `owner/name/file`, as `source.path`."""
    reward_kind: str
    """`math`, `constraints` or `reward_model`: what a row must hold."""
    rows: int
    """Of the training split, as published."""
    licence: str
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our column -> theirs, after `convert`."""
    answer_pattern: str = ""
    convert: Callable[[Record], Record] | None = None
    """For rows that no mapping of columns can read; raises `RowProblem`."""
    unverified: str = ""


def boxed_answer(record: Record) -> Record:
    r"""MATH: the answer is what the solution's last `\boxed{}` holds, unless it has a column.

    >>> boxed_answer({"solution": r"So $x=\boxed{\frac{1}{2}}$."})["answer"]
    '\\frac{1}{2}'
    """
    if "answer" in record:
        return record
    solution = record.get("solution")
    boxed = last_boxed(solution) if isinstance(solution, str) else None
    if boxed is None:
        raise RowProblem(
            r"an `answer`, or a `solution` with a closed \boxed{}", repr(solution)[:80]
        )
    return {**record, "answer": boxed}


_RLVR_FUNCTIONS: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "verify_keywords": ("keywords:existence", {"keyword_list": "keywords"}, {}),
    "verify_keyword_frequency": (
        "keywords:frequency",
        {"word": "keyword", "N": "frequency"},
        {"relation": "exactly"},
    ),
    "validate_forbidden_words": ("keywords:forbidden_words", {}, {}),
    "verify_letter_frequency": (
        "keywords:letter_frequency",
        {"N": "let_frequency"},
        {"let_relation": "exactly"},
    ),
    "validate_response_language": ("language:response_language", {}, {}),
    "verify_paragraph_count": (
        "length_constraints:number_paragraphs",
        {"N": "num_paragraphs"},
        {},
    ),
    "validate_word_constraint": (
        "length_constraints:number_words",
        {"N": "num_words", "quantifier": "relation"},
        {},
    ),
    "verify_sentence_constraint": (
        "length_constraints:number_sentences",
        {"N": "num_sentences", "quantifier": "relation"},
        {},
    ),
    "validate_paragraphs": (
        "length_constraints:nth_paragraph_first_word",
        {"N": "num_paragraphs", "i": "nth_paragraph"},
        {},
    ),
    "verify_postscript": ("detectable_content:postscript", {}, {}),
    "validate_placeholders": (
        "detectable_content:number_placeholders",
        {"N": "num_placeholders"},
        {},
    ),
    "verify_bullet_points": ("detectable_format:number_bullet_lists", {"N": "num_bullets"}, {}),
    "validate_title": ("detectable_format:title", {}, {}),
    "validate_highlighted_sections": (
        "detectable_format:number_highlighted_sections",
        {"N": "num_highlights"},
        {},
    ),
    "validate_sections": (
        "detectable_format:multiple_sections",
        {"N": "num_sections", "section_splitter": "section_spliter"},
        {},
    ),
    "validate_json_format": ("detectable_format:json_format", {}, {}),
    "validate_repeat_prompt": (
        "combination:repeat_prompt",
        {"original_prompt": "prompt_to_repeat"},
        {},
    ),
    "validate_two_responses": ("combination:two_responses", {}, {}),
    "validate_uppercase": ("change_case:english_capital", {}, {}),
    "validate_lowercase": ("change_case:english_lowercase", {}, {}),
    "validate_frequency_capital_words": (
        "change_case:capital_word_frequency",
        {"N": "capital_frequency", "quantifier": "capital_relation"},
        {},
    ),
    "validate_end": ("startend:end_checker", {}, {}),
    "validate_quotation": ("startend:quotation", {}, {}),
    "validate_no_commas": ("punctuation:no_comma", {}, {}),
}
"""Tulu 3's check -> our constraint, its arguments' names where they differ, arguments it implies.

Left out: `validate_choice`, whose options are free (IFEval's are three fixed sentences).
"""


def rlvr_constraints(record: Record) -> Record:
    """RLVR-IFeval and its successor: `ground_truth` is text, one check or a list of constraints.

    A check asks for "around" so many words or sentences in some rows; no constraint says that,
    and the reward's validation refuses the relation. Its paragraphs are divided by `* * *`, which
    becomes IFEval's `***` in the request too.
    """
    truth = _parsed(record.get("ground_truth"))
    if isinstance(truth, list) and len(truth) == 1:
        truth = truth[0]
    if isinstance(truth, Mapping) and "func_name" not in truth:
        ids, kwargs = truth.get("instruction_id"), truth.get("kwargs")
        return {**record, "instruction_id_list": ids, "kwargs": kwargs}
    name = truth.get("func_name") if isinstance(truth, Mapping) else None
    if not isinstance(name, str) or name not in _RLVR_FUNCTIONS:
        raise RowProblem("a check that is one of our constraints", repr(name))
    id_, renamed, implied = _RLVR_FUNCTIONS[name]
    given = {
        renamed.get(key, key): value
        for key, value in truth.items()
        if key != "func_name" and value is not None
    }
    changed: Record = {"instruction_id_list": [id_], "kwargs": [{**given, **implied}]}
    messages = record.get("messages")
    if name == "verify_paragraph_count" and isinstance(messages, list):
        changed["messages"] = [_with_our_divider(message) for message in messages]
    return {**record, **changed}


def _parsed(text: object) -> Any:
    """JSON, or a literal of Python as the successor has it."""
    if isinstance(text, str):
        try:
            return json.loads(text)
        except ValueError:
            pass
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    raise RowProblem("`ground_truth`, constraints as JSON or a Python literal", repr(text)[:80])


def _with_our_divider(message: Any) -> Any:
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
        return message  # the reader of the row refuses it
    return {**message, "content": message["content"].replace("* * *", "***")}


PUBLISHED: dict[str, PublishedSet] = {
    "wildchat_if": PublishedSet(
        about="chat: real users' requests, the WildChat part of Tulu 3's preferences",
        hub="allenai/tulu-3-wildchat-if-on-policy-8b",
        reward_kind="reward_model",
        rows=10_792,
        licence="ODC-BY-1.0",
        columns={"prompt": "prompt", "id": ""},
        unverified="the licence is that of the mixture it belongs to",
    ),
    "simplerl": PublishedSet(
        about="math: MATH of levels 3 to 5, as SimpleRL-Zoo trains on it",
        hub="hkust-nlp/SimpleRL-Zoo-Data/simplelr_qwen_level3to5/train.parquet",
        reward_kind="math",
        rows=8_523,
        licence="Apache-2.0",
        columns={"prompt": "question", "answer": "reward_model.ground_truth"},
        unverified="the answer's column; public code also reads `gt_answer`",
    ),
    "nemotron_if": PublishedSet(
        about="instruction following: WildChat requests with IFEval's and IFEvalG's constraints",
        hub="nvidia/Nemotron-RL-instruction_following",
        reward_kind="constraints",
        rows=46_391,
        licence="ODC-BY-1.0",
        unverified="the split's name",
    ),
    "gsm8k": PublishedSet(
        about="math: grade school word problems",
        hub="openai/gsm8k:main",
        reward_kind="math",
        rows=7_473,
        licence="MIT",
        columns={"prompt": "question", "answer": "answer"},
        answer_pattern="#### (.+)",
    ),
    "math": PublishedSet(
        about="math: competition problems of five levels (Hendrycks et al. 2021)",
        hub="DigitalLearningGmbH/MATH-lighteval",
        reward_kind="math",
        rows=7_500,
        licence="MIT",
        columns={"prompt": "problem", "answer": "answer"},
        convert=boxed_answer,
        unverified="the licence is that of the original",
    ),
    "rlvr_ifeval": PublishedSet(
        about="instruction following: one IFEval constraint each (Tulu 3)",
        hub="allenai/RLVR-IFeval",
        reward_kind="constraints",
        rows=14_973,
        licence="ODC-BY-1.0",
        columns={"messages": "messages"},
        convert=rlvr_constraints,
    ),
    "if_multi": PublishedSet(
        about="instruction following: up to five of IFEval's and IFEvalG's constraints (IFBench)",
        hub="allenai/IF_multi_constraints_upto5",
        reward_kind="constraints",
        rows=95_373,
        licence="ODC-BY-1.0",
        columns={"messages": "messages", "id": "key"},
        convert=rlvr_constraints,
        unverified="that every row's `ground_truth` is a literal",
    ),
}
