"""Tulu 3's IFEval-like prompts with one check each, to train on; its checks are ours renamed."""

import ast
import json
from collections.abc import Mapping
from typing import Any

from mgsrl.tasks import RowProblem, Split, Task

FUNCTIONS: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
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
    "verify_paragraph_count": ("length_constraints:number_paragraphs", {"N": "num_paragraphs"}, {}),
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


def rlvr_constraints(record: dict[str, Any]) -> dict[str, Any]:
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
    if not isinstance(name, str) or name not in FUNCTIONS:
        raise RowProblem("a check that is one of our constraints", repr(name))
    id_, renamed, implied = FUNCTIONS[name]
    given = {
        renamed.get(key, key): value
        for key, value in truth.items()
        if key != "func_name" and value is not None
    }
    changed: dict[str, Any] = {"instruction_id_list": [id_], "kwargs": [{**given, **implied}]}
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


TASK = Task(
    about="instruction following: one IFEval constraint each (Tulu 3)",
    reward={"kind": "constraints"},
    train=Split("allenai/RLVR-IFeval", "train", rows=14_973),
    convert=rlvr_constraints,
    columns={"messages": "messages"},
    licence="ODC-BY-1.0",
    citation="Lambert et al., arXiv 2411.15124",
)
