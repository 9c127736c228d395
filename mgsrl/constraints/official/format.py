"""IFBench's `format:` family as its checker decides it."""

import re
import string
from itertools import pairwise

from mgsrl.constraints.official.registry import official
from mgsrl.constraints.official.text import PUNCTUATION, SPLIT, bare, split_sentences, trim
from mgsrl.constraints.tokens import word_tokens

_EMOJI_CODES = """
a9 ae 203c 2049 2122 2139 2194-2199 21a9-21aa 231a-231b 2328 23cf 23e9-23f3 23f8-23fa 24c2
25aa-25ab 25b6 25c0 25fb-25fe 2600-2604 260e 2611 2614-2615 2618 261d 2620 2622-2623 2626 262a
262e-262f 2638-263a 2640 2642 2648-2653 265f-2660 2663 2665-2666 2668 267b 267e-267f 2692-2697
2699 269b-269c 26a0-26a1 26a7 26aa-26ab 26b0-26b1 26bd-26be 26c4-26c5 26c8 26ce-26cf 26d1
26d3-26d4 26e9-26ea 26f0-26f5 26f7-26fa 26fd 2702 2705 2708-270d 270f 2712 2714 2716 271d 2721
2728 2733-2734 2744 2747 274c 274e 2753-2755 2757 2763-2764 2795-2797 27a1 27b0 27bf 2934-2935
2b05-2b07 2b1b-2b1c 2b50 2b55 3030 303d 3297 3299 1f004 1f0cf 1f170-1f171 1f17e-1f17f 1f18e
1f191-1f19a 1f201-1f202 1f21a 1f22f 1f232-1f23a 1f250-1f251 1f300-1f321 1f324-1f393 1f396-1f397
1f399-1f39b 1f39e-1f3f0 1f3f3-1f3f5 1f3f7-1f4fd 1f4ff-1f53d 1f549-1f54e 1f550-1f567 1f56f-1f570
1f573-1f57a 1f587 1f58a-1f58d 1f590 1f595-1f596 1f5a4-1f5a5 1f5a8 1f5b1-1f5b2 1f5bc 1f5c2-1f5c4
1f5d1-1f5d3 1f5dc-1f5de 1f5e1 1f5e3 1f5e8 1f5ef 1f5f3 1f5fa-1f64f 1f680-1f6c5 1f6cb-1f6d2
1f6d5-1f6d8 1f6dc-1f6e5 1f6e9 1f6eb-1f6ec 1f6f0 1f6f3-1f6fc 1f7e0-1f7eb 1f7f0 1f90c-1f93a
1f93c-1f945 1f947-1f9ff 1fa70-1fa7c 1fa80-1fa8a 1fa8e-1fac6 1fac8 1facd-1fadc 1fadf-1faea
1faef-1faf8
"""
"""Code points, and ranges of them, that the `emoji` package calls emoji."""
_EMOJI = re.compile(
    "["
    + "".join(re.sub("[0-9a-f]+", lambda code: chr(int(code[0], 16)), _EMOJI_CODES).split())
    + "]"
)


@official(
    "format:quotes",
    "Every straight quote counts, apostrophes too; curly ones do not; the depth at which all "
    "quotes close is that of the whole text.",
)
def quotes(text: str) -> bool:
    marks: list[str] = []
    deepest = 0
    for mark in re.findall("[\"']", text):
        if marks[-1:] == [mark]:
            marks.pop()
            if deepest - len(marks) >= 3:
                return True
        else:
            marks.append(mark)
            deepest = max(deepest, len(marks))
    return False


@official(
    "format:quote_unquote",
    "Two quotes next to each other fail; so does a text that ends in one. Words are not asked for: "
    "a digit or a mark explains.",
)
def quote_unquote(text: str) -> bool:
    straight = re.sub("[“”]", '"', text).replace("'\"'", "")
    packed = "".join(straight.split())
    core = packed.strip(string.digits + PUNCTUATION.replace('"', ""))
    return '""' not in packed and core != "" and not core.endswith('"')


@official(
    "format:options",
    "Options part at `or` inside words too; letters are compared with all white space.",
)
def options(text: str, options: str) -> bool:
    separator = next((each for each in ("/", "or") if each in options), ",")
    allowed = [option.strip() for option in options.split(separator)]
    if re.match(r"\W*[aA]\W*[bB]\W*[cC]\W*", options):
        return text in allowed
    return trim(text).lower() in [trim(option).lower() for option in allowed]


@official(
    "format:title_case",
    "Small words (`of`, `the`) must begin with a capital too; a small letter alone passes, and so "
    "does a text without letters.",
)
def title_case(text: str) -> bool:
    return not any(
        word[0].islower() and (word[1:].islower() or word[1:].isupper())
        for word in word_tokens(text)
    )


@official(
    "format:output_template",
    "The three labels occur anywhere, in any order, with anything between.",
)
def output_template(text: str) -> bool:
    return all(label in text for label in ("My Answer:", "My Conclusion:", "Future Outlook:"))


@official(
    "format:emoji",
    f"{SPLIT}. An emoji may stand last or last but one, ASCII punctuation aside; flags, keycaps "
    "and long sequences are none.",
)
def emoji(text: str) -> bool:
    found = [bare(sentence).strip() for sentence in split_sentences(text)]
    return all(
        sentence != "" and (_EMOJI.search(sentence[-2:]) or _EMOJI.match(following))
        for sentence, following in zip(found, [*found[1:], ""], strict=True)
    )


# --- lines and bullets ----------------------------------------------------------------------------


@official(
    "format:newline",
    "Lines of white space count as words, and long dashes and curly quotes do not part words.",
)
def newline(text: str) -> bool:
    text = bare(text).strip()
    return len([line for line in text.split("\n") if line]) == len(text.split())


@official(
    "format:line_indent",
    "One line passes; tabs are no indentation; of two empty lines in a row the second one stays "
    "and counts as a line.",
)
def line_indent(text: str) -> bool:
    depths = [len(line) - len(line.lstrip(" ")) for line in _lines_as_listed(text.split("\n"))]
    return all(shallow < deep for shallow, deep in pairwise(depths))


def _lines_as_listed(lines: list[str]) -> list[str]:
    """What is left when empty lines are removed from a list while it is walked.

    Deeper and deeper lines need more and more characters, and at most every second line is
    removed: too many lines cannot be stairs, and are not walked.
    """
    if len(lines) ** 2 > 16 * sum(map(len, lines)) + 64:
        return ["", ""]
    place = 0
    while place < len(lines):
        if not lines[place].strip():
            lines.remove(lines[place])  # the first that is equal to it
        place += 1
    return lines


@official("format:list", "The marker has to occur twice, anywhere.")
def list_(text: str, sep: str) -> bool:
    return text.count(sep) >= 2


@official(
    "format:sub-bullets",
    "A hyphen anywhere after each asterisk will do, and a text without asterisks passes.",
)
def sub_bullets(text: str) -> bool:
    return all("-" in part for part in text.split("*")[1:])


@official(
    "format:no_bullets_bullets",
    "Sentences may end in any mark or none; emphasis at the start of a line is a bullet; nothing, "
    "not even an empty line, may follow one but bullets.",
)
def no_bullets_bullets(text: str) -> bool:
    sentences = bullets = 0
    before = True
    for line in map(str.strip, text.split("\n")):
        if line.startswith("*"):
            before = False
            bullets += 1
            if sentences < 2:
                return False
        elif not before:
            return False
        else:
            found = len(split_sentences(line))
            sentences += found
            before = found > 0
    return bullets >= 2


@official(
    "format:thesis",
    "The first italics need words in them and text behind; sections are not looked at.",
)
def thesis(text: str) -> bool:
    start = text.find("<i>") if "<i>" in text else text.find("<em>")
    end = text.find("</i>", start) if text.find("</i>", start) >= 0 else text.find("</em>", start)
    if start < 0 or end < 0:
        return False
    # Three and four characters are the tags' lengths, also where they are <em> and </em>.
    return text[start + 3 : end].strip() != "" and text[end + 4 :].strip() != ""
