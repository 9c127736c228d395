r"""Writes responses to pocket tasks: perfect ones, and ones of deliberately mixed quality.

Reinforcement learning selects among behaviours that a policy already has. The warm start therefore
has to show every behaviour, good and bad, with a set probability (`Habits`): careful, hasty and
unboxed sums; each constraint met or missed; texts with the flaws that the reward model marks down.

All responses have the form `<think>short scratch</think><response>text</response>`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mgsrl.data.pocket.tasks import Constraint, MathTask, Task, TopicTask
from mgsrl.data.pocket.topics import TOPICS, Topic
from mgsrl.errors import InvariantError


@dataclass(frozen=True, slots=True)
class Habits:
    """How often the writer does what; probabilities."""

    hasty_sum: float = 0.36
    """The answer without the calculation, mostly wrong."""
    hasty_right: float = 0.15
    """A hasty answer is right all the same."""
    unboxed_sum: float = 0.24
    """The right answer, spelt out in words and without a box."""
    missed_constraint: float = 0.50
    off_topic: float = 0.15
    """An instruction is followed on another topic."""
    swapped: float = 0.20
    repeated: float = 0.25
    cut: float = 0.20
    curt: float = 0.22
    sloppy: float = 0.30


DEFAULT_HABITS = Habits()


def wrap(scratch: str, response: str) -> str:
    """The response format of every pocket task."""
    return f"<think>{scratch}</think><response>{response}</response>"


# --- math -----------------------------------------------------------------------------------------

# fmt: off
_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen",
    "sixteen", "seventeen", "eighteen", "nineteen",
)
# fmt: on
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def number_in_words(number: int) -> str:
    """English for 0 to 99."""
    if number < 20:
        return _SMALL[number]
    tens = _TENS[number // 10 - 2]
    return f"{tens} {_SMALL[number % 10]}" if number % 10 else tens


def _careful(task: MathTask) -> str:
    scratch = ", ".join(f"{a} {operator} {b} = {c}" for a, operator, b, c in task.steps)
    return wrap(scratch, f"The answer is \\boxed{{{task.steps[-1][3]}}}.")


def _hasty(task: MathTask, rng: random.Random, right: float) -> str:
    answer = task.steps[-1][3]
    if rng.random() >= right:
        answer = rng.choice([n for n in range(max(0, answer - 6), answer + 7) if n != answer])
    return wrap("easy", f"The answer is \\boxed{{{answer}}}.")


def _unboxed(task: MathTask) -> str:
    return wrap("in words", f"It is {number_in_words(task.steps[-1][3])} {task.unit}".strip() + ".")


def _write_math(task: MathTask, rng: random.Random, habits: Habits) -> str:
    draw = rng.random()
    if draw < habits.hasty_sum:
        return _hasty(task, rng, habits.hasty_right)
    if draw < habits.hasty_sum + habits.unboxed_sum:
        return _unboxed(task)
    return _careful(task)


# --- sentences ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Style:
    """How a text is written: what constraints ask for, or what misses them."""

    sentences: int = 2
    commas: bool = False
    """Whether the text holds a comma."""
    pronouns: float = 0.5
    """How often the topic becomes "they" after the first sentence."""
    avoid: str = ""
    """A word (one of `tasks.FORBIDDEN`) that must not occur."""
    use: str = ""
    """A word (one of `tasks.FORBIDDEN`) that occurs if the number of sentences allows."""
    keyword: str = ""
    title: bool = False
    postscript: bool = False
    quotes: bool = False
    bullets: bool = False
    end_phrase: str = ""
    case: str = ""
    """`lower`, `upper` or empty."""


_KIND_WITH = {"can": "whereabouts", "many": "opinion", "they": "habit"}


def _sentence(kind: str, topic: Topic, they: bool, style: Style, rng: random.Random) -> str:
    subject, them = ("They", "them") if they else (topic.name.capitalize(), topic.name)
    if kind == "looks":
        first, second, third = rng.sample(topic.adjectives, 3)
        listed = f"{first}, {second} and {third}" if style.commas else f"{first} and {second}"
        return f"{subject} are {listed}."
    if kind == "whereabouts":
        you_find = "You find" if style.avoid == "can" else "You can find"
        return f"{you_find} {them} {rng.choice(topic.places)}."
    if kind == "habit":
        return f"{subject} {rng.choice(topic.actions)}."
    if kind == "opinion":
        return f"{'Most' if style.avoid == 'many' else 'Many'} people like {them}."
    return f"{subject} go well with {style.keyword}."


def sentences_about(topic: Topic, style: Style, rng: random.Random) -> list[str]:
    """`style.sentences` (1 to 4) sentences of different kinds; the first names the topic."""
    needed = ["keyword"] if style.keyword else []
    # In one case only, few words are left by which the checkers can tell that it is English.
    needed += ["looks"] if style.commas or style.case else []
    needed += [_KIND_WITH[style.use]] if style.use else []
    others = [k for k in ("looks", "whereabouts", "habit", "opinion") if k not in needed]
    kinds = [*needed, *rng.sample(others, len(others))][: style.sentences]
    rng.shuffle(kinds)
    if rng.random() < 0.75:
        kinds.sort(key=lambda kind: kind != "looks")
    if style.use == "they":
        kinds.sort(key=lambda kind: kind == "habit")
    sentences: list[str] = []
    for kind in kinds:
        they = rng.random() < style.pronouns or (style.use == "they" and kind == "habit")
        they = they and bool(sentences) and style.avoid != "they"
        sentences.append(_sentence(kind, topic, they, style, rng))
    return sentences


def lay_out(sentences: Sequence[str], topic: Topic, style: Style) -> str:
    """The sentences with the style's title, bullets, postscript, end phrase, quotes and case."""
    if style.bullets:
        text = "\n".join(f"* {sentence}" for sentence in sentences)
    elif style.postscript and len(sentences) > 1:
        text = f"{' '.join(sentences[:-1])}\nP.S. {sentences[-1]}"
    else:
        text = " ".join(sentences)
    if style.title:
        text = f"<<{topic.name.capitalize()}>>\n{text}"
    if style.end_phrase:
        text = f"{text} {style.end_phrase}"
    if style.quotes:
        text = f'"{text}"'
    return {"lower": text.lower(), "upper": text.upper()}.get(style.case, text)


# --- instruction following ------------------------------------------------------------------------


def _restyle(style: Style, constraint: Constraint, met: bool, rng: random.Random) -> Style:
    """`style` changed so that it meets the constraint, or misses it."""
    kwargs: dict[str, Any] = dict(constraint.kwargs)
    match constraint.id:
        case "keywords:existence":
            return replace(style, keyword=kwargs["keywords"][0] if met else "")
        case "keywords:forbidden_words":
            word = kwargs["forbidden_words"][0]
            return replace(style, avoid=word) if met else replace(style, use=word)
        case "keywords:frequency":
            return replace(style, pronouns=0.0 if met else 1.0)
        case "length_constraints:number_sentences":
            number = kwargs["num_sentences"]
            short = met == (kwargs["relation"] == "less than")
            return replace(style, sentences=1 if short else rng.randint(number, 3))
        case "length_constraints:number_words":
            short = met == (kwargs["relation"] == "less than")
            return replace(style, sentences=1 if short else 3)
        case "detectable_format:number_bullet_lists":
            wrong = 5 - kwargs["num_bullets"]
            count = kwargs["num_bullets"] if met else wrong
            return replace(style, sentences=count, bullets=met or rng.random() < 0.5)
        case "punctuation:no_comma":
            return replace(style, commas=not met)
        case "change_case:english_lowercase":
            return replace(style, case="lower" if met else "")
        case "change_case:english_capital":
            return replace(style, case="upper" if met else "")
        case "startend:quotation":
            return replace(style, quotes=met)
        case "startend:end_checker":
            return replace(style, end_phrase=kwargs["end_phrase"] if met else "")
        case "detectable_format:title":
            return replace(style, title=met)
        case "detectable_content:postscript":
            return replace(style, postscript=met)
    raise InvariantError(f"the pocket writer has no way to meet {constraint.id!r}")


def _write_instruction(
    task: TopicTask, rng: random.Random, missed_share: float, off_topic_share: float
) -> str:
    topic = TOPICS[task.topic]
    if rng.random() < off_topic_share:
        topic = other_topic(topic, rng)
    style = Style(sentences=rng.choice((2, 3)), commas=rng.random() < 0.25)
    for constraint in task.constraints:
        style = _restyle(style, constraint, rng.random() >= missed_share, rng)
    if style.commas and any(c.id == "punctuation:no_comma" for c in task.constraints):
        # The comma needs its sentence; a keyword that was asked for needs another one.
        room = 2 if style.keyword else 1
        style = replace(style, sentences=max(style.sentences, room))
    return wrap(topic.name, lay_out(sentences_about(topic, style, rng), topic, style))


def other_topic(topic: Topic, rng: random.Random) -> Topic:
    """A random topic that is not `topic`."""
    return rng.choice([candidate for candidate in TOPICS.values() if candidate != topic])


# --- chat and its flaws ---------------------------------------------------------------------------


def free_style(rng: random.Random) -> Style:
    """The style of a good text of which nobody has asked anything special."""
    return Style(sentences=rng.choice((2, 3)), commas=rng.random() < 0.4)


def curt(topic: Topic, rng: random.Random) -> list[str]:
    """One meagre sentence."""
    name = topic.name.capitalize()
    return [rng.choice((f"{name} are {rng.choice(topic.adjectives)}.", f"I like {topic.name}."))]


def repeat(sentences: Sequence[str], topic: Topic, rng: random.Random) -> list[str]:
    """The same said twice: a sentence instead of another or once more, or an adjective."""
    result = list(sentences)
    source = rng.randrange(len(result))
    draw = rng.random()
    if draw < 0.3:
        adjective = rng.choice(topic.adjectives)
        result[0] = f"{topic.name.capitalize()} are {adjective} and {adjective}."
    elif draw < 0.7 and len(result) > 1:
        result[(source + 1) % len(result)] = result[source]
    else:
        result.insert(source, result[source])
    return result


def make_sloppy(sentences: Sequence[str], rng: random.Random) -> list[str]:
    """Lower-case starts, missing full stops, doubled words or wrong grammar; at least one of it."""
    result = list(sentences)
    for kind in rng.sample(("start", "stop", "double", "grammar"), rng.choice((1, 2))):
        if kind == "start":
            result = [sentence[0].lower() + sentence[1:] for sentence in result]
        elif kind == "stop":
            result = [sentence.rstrip(".") for sentence in result]
        else:
            index = rng.randrange(len(result))
            words = result[index].split()
            if kind == "double":
                word = rng.randrange(1, len(words))
                words.insert(word, words[word].rstrip("."))
            elif "are" in words:
                words[words.index("are")] = rng.choice(("is", "be"))
            else:
                words.insert(1, "are")
            result[index] = " ".join(words)
    return result


def cut_short(text: str, rng: random.Random) -> str:
    """The text without its last one to three words (and without the full stop)."""
    words = text.split(" ")
    return " ".join(words[: max(1, len(words) - rng.randint(1, 3))]).rstrip(".,")


def _write_chat(task: TopicTask, rng: random.Random, habits: Habits) -> str:
    topic = TOPICS[task.topic]
    if rng.random() < habits.swapped:
        topic = other_topic(topic, rng)
    if rng.random() < habits.curt:
        sentences = curt(topic, rng)
    else:
        sentences = sentences_about(topic, free_style(rng), rng)
    if rng.random() < habits.repeated:
        sentences = repeat(sentences, topic, rng)
    if rng.random() < habits.sloppy:
        sentences = make_sloppy(sentences, rng)
    text = " ".join(sentences)
    if rng.random() < habits.cut:
        text = cut_short(text, rng)
    return wrap(topic.name, text)


# --- entry points ---------------------------------------------------------------------------------


def write_mixed(task: Task, rng: random.Random, habits: Habits = DEFAULT_HABITS) -> str:
    """A response of mixed quality, as the warm start is trained on."""
    if isinstance(task, MathTask):
        return _write_math(task, rng, habits)
    if task.constraints:
        return _write_instruction(task, rng, habits.missed_constraint, habits.off_topic)
    return _write_chat(task, rng, habits)


def write_perfect(task: Task, rng: random.Random) -> str:
    """A response that earns the full reward."""
    if isinstance(task, MathTask):
        return _careful(task)
    if task.constraints:
        return _write_instruction(task, rng, missed_share=0.0, off_topic_share=0.0)
    topic = TOPICS[task.topic]
    return wrap(topic.name, " ".join(sentences_about(topic, free_style(rng), rng)))
