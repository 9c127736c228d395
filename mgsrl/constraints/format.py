"""IFEval's `detectable_format:` and `detectable_content:` families."""

import json
import re

from mgsrl.constraints.spec import COUNT, TEXT, constraint

CONSTRAINED_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


@constraint(
    "detectable_format:number_bullet_lists",
    "Exactly so many markdown bullet lines (* or -).",
    arguments={"num_bullets": COUNT},
    statement=(
        "Your answer must contain exactly {num_bullets} bullet points. Use the markdown bullet "
        "points such as:\n* This is point 1. \n* This is point 2"
    ),
    draw=lambda rng: {"num_bullets": rng.randint(2, 6)},
)
def number_bullet_lists(text: str, num_bullets: int) -> bool:
    # IFEval writes ^\s*, which says the same but is quadratic in a run of empty lines.
    stars = re.findall(r"^[^\S\n]*\*[^\*].*$", text, flags=re.MULTILINE)
    dashes = re.findall(r"^[^\S\n]*-.*$", text, flags=re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


@constraint(
    "detectable_format:constrained_response",
    "One of IFEval's three fixed answers occurs.",
    statement=f"Answer with one of these options: {' | '.join(CONSTRAINED_RESPONSES)}",
)
def constrained_response(text: str) -> bool:
    return any(option in text for option in CONSTRAINED_RESPONSES)


@constraint(
    "detectable_format:number_highlighted_sections",
    "At least so many *highlighted* or **highlighted** stretches (a ** one counts as IFEval does).",
    arguments={"num_highlights": COUNT},
    statement=(
        "Highlight at least {num_highlights} sections in your answer with markdown, "
        "i.e. *highlighted section*."
    ),
    draw=lambda rng: {"num_highlights": rng.randint(2, 4)},
)
def number_highlighted_sections(text: str, num_highlights: int) -> bool:
    single = re.findall(r"\*[^\n\*]*\*", text)
    double = re.findall(r"\*\*[^\n\*]*\*\*", text)
    count = sum(bool(stretch.strip("*").strip()) for stretch in single)
    count += sum(bool(stretch[2:-2].strip()) for stretch in double)
    return count >= num_highlights


@constraint(
    "detectable_format:multiple_sections",
    "At least so many sections, each opened by the splitter and a number.",
    arguments={"section_spliter": TEXT, "num_sections": COUNT},
    statement=(
        "Your response must have {num_sections} sections. Mark the beginning of each section "
        "with {section_spliter} X, such as:\n{section_spliter} 1\n[content of section 1]\n"
        "{section_spliter} 2\n[content of section 2]"
    ),
    draw=lambda rng: {
        "section_spliter": rng.choice(("Section", "SECTION")),
        "num_sections": rng.randint(2, 4),
    },
)
def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    pattern = rf"\s?{re.escape(section_spliter.strip())}\s?\d+\s?"
    return len(re.split(pattern, text)) - 1 >= num_sections


@constraint(
    "detectable_format:json_format",
    "The whole response is one JSON value, code fences allowed.",
    statement=(
        "Entire output should be wrapped in JSON format. You can use markdown ticks such as ```."
    ),
)
def json_format(text: str) -> bool:
    value = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        value = value.removeprefix(fence)
    try:
        json.loads(value.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


@constraint(
    "detectable_format:title",
    "A title in double angular brackets.",
    statement=(
        "Your answer must contain a title, wrapped in double angular brackets, "
        "such as <<poem of joy>>."
    ),
)
def title(text: str) -> bool:
    # re.findall(r"<<[^\n]+>>") is quadratic on a line of many "<<"; the first "<<" and the last
    # ">>" of a line say the same.
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if start >= 0 and end > start + 2 and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


@constraint(
    "detectable_content:number_placeholders",
    "At least so many placeholders in square brackets.",
    arguments={"num_placeholders": COUNT},
    statement=(
        "The response must contain at least {num_placeholders} placeholders represented by "
        "square brackets, such as [address]."
    ),
    draw=lambda rng: {"num_placeholders": rng.randint(2, 4)},
)
def number_placeholders(text: str, num_placeholders: int) -> bool:
    return sum(map(_placeholders, text.split("\n"))) >= num_placeholders


def _placeholders(line: str) -> int:
    # re.findall(r"\[.*?\]") is quadratic on a line of many "[".
    count = position = 0
    while (start := line.find("[", position)) >= 0 and (end := line.find("]", start)) >= 0:
        count, position = count + 1, end + 1
    return count


@constraint(
    "detectable_content:postscript",
    "A postscript that starts with the marker, in any case, anywhere.",
    arguments={"postscript_marker": TEXT},
    statement=(
        "At the end of your response, please explicitly add a postscript "
        "starting with {postscript_marker}"
    ),
    draw=lambda rng: {"postscript_marker": rng.choice(("P.S.", "P.P.S"))},
)
def postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    spaced = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    pattern = spaced.get(marker, re.escape(marker.lower()))
    return re.search(pattern, text.lower()) is not None
