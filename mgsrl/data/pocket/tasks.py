r"""Seeded prompts of the pocket world for the domains math, chat and instruction following.

- math: one- and two-step sums and word problems with small numbers, answer in `\boxed{}`.
- instruction_following: "write about TOPIC" with one to three IFEval constraints that can hold
  together, behind a gate: the response must name the topic.
- chat: the same kind of request without constraints, for a reward model to score.

A prompt belongs to exactly one split by the hash of its text, so the splits are disjoint whatever
the seeds are. Only train prompts are used in the warm start of the bundled policy.
"""

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mgsrl.data.pocket.topics import TOPICS
from mgsrl.errors import ConfigError, DataError, nearest

DOMAINS = ("math", "chat", "instruction_following")
SPLITS = ("train", "heldout")

_HELDOUT_SHARE = 8
"""One prompt in this many is held out."""


@dataclass(frozen=True, slots=True)
class MathTask:
    """A sum; `steps` are `(left, operator, right, result)` in the order of the calculation."""

    prompt: str
    steps: tuple[tuple[int, str, int, int], ...]
    unit: str
    """What is counted, or an empty string for bare sums."""

    def reference(self) -> dict[str, Any]:
        return {"answer": str(self.steps[-1][3])}


@dataclass(frozen=True, slots=True)
class Constraint:
    """One IFEval constraint with the words in which the prompt asks for it."""

    id: str
    text: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicTask:
    """A request to write about a topic; chat when there are no constraints."""

    prompt: str
    topic: str
    constraints: tuple[Constraint, ...] = ()

    def reference(self) -> dict[str, Any]:
        if not self.constraints:
            return {"topic": self.topic}
        return {
            "instruction_id_list": [constraint.id for constraint in self.constraints],
            "kwargs": [dict(constraint.kwargs) for constraint in self.constraints],
            "gates": [
                {"instruction_id": "keywords:existence", "kwargs": {"keywords": [self.topic]}}
            ],
        }


Task = MathTask | TopicTask

# --- math -----------------------------------------------------------------------------------------

_NAMES = ["Tom", "Anna", "Ben", "Mia", "Sam", "Lucy", "Max", "Emma", "Leo", "Nina", "Paul", "Ruth"]
_ITEMS = ["apples", "books", "coins", "pens", "eggs", "cards", "shells", "stamps", "cakes", "balls"]
_BOXED = r" Give the answer in \boxed{}."


def _apply(left: int, operator: str, right: int) -> tuple[int, str, int, int]:
    result = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return left, operator, right, result


def _bare_sum(rng: random.Random) -> MathTask:
    ask = rng.choice(("What is {}?", "Compute {}.", "Work out {}."))
    left, right, third = rng.randint(1, 10), rng.randint(1, 10), rng.randint(1, 9)
    kind = rng.choice(("+", "-", "*", "+-", "++", "*+"))
    if kind[0] == "*":
        left, right = rng.randint(2, 5), rng.randint(2, 5)
    elif kind[0] == "-":
        left, right = max(left, right), min(left, right)
    steps = [_apply(left, kind[0], right)]
    text = f"{left} {kind[0]} {right}"
    if len(kind) == 2:
        third = min(third, steps[0][3])
        steps.append(_apply(steps[0][3], kind[1], third))
        text += f" {kind[1]} {third}"
    return MathTask(ask.format(text) + _BOXED, tuple(steps), "")


_STORIES = (
    ("+", "{n} has {a} {i} and buys {b} more. How many {i} does {n} have now?"),
    ("-", "{n} has {a} {i} and gives away {b}. How many {i} are left?"),
    ("*", "There are {a} boxes with {b} {i} each. How many {i} are there?"),
    ("+-", "{n} has {a} {i}, buys {b} more and loses {c}. How many {i} are left?"),
    ("-+", "{n} has {a} {i}, loses {b} and finds {c}. How many {i} does {n} have now?"),
    ("*+", "{n} has {a} boxes with {b} {i} each and {c} more {i}. How many {i} are there?"),
)


def _word_problem(rng: random.Random) -> MathTask:
    kind, story = rng.choice(_STORIES)
    a, b = rng.randint(2, 10), rng.randint(2, 10)
    if kind[0] == "*":
        a, b = rng.randint(2, 5), rng.randint(2, 5)
    elif kind[0] == "-":
        a, b = max(a, b), min(a, b)
    steps = [_apply(a, kind[0], b)]
    c = rng.randint(2, 9)
    if len(kind) == 2:
        if kind[1] == "-":
            c = min(c, steps[0][3])
        steps.append(_apply(steps[0][3], kind[1], c))
    item = rng.choice(_ITEMS)
    text = story.format(n=rng.choice(_NAMES), i=item, a=a, b=b, c=c)
    return MathTask(text + _BOXED, tuple(steps), item)


def _math_task(rng: random.Random) -> MathTask:
    return rng.choice((_bare_sum, _word_problem))(rng)


# --- chat -----------------------------------------------------------------------------------------

_REQUESTS = (
    "Tell me about {}",
    "Please describe {}",
    "What should I know about {}",
    "Say something about {}",
    "Explain {} to me",
    "I want to hear about {}",
    "Give me some facts about {}",
    "Help me learn about {}",
)
_PURPOSES = ("", " in your own words", " for a school page", " for my sister", " today", " again")


def _chat_task(rng: random.Random) -> TopicTask:
    topic = rng.choice(tuple(TOPICS))
    request = rng.choice(_REQUESTS)
    stop = "?" if request.startswith("What") else "."
    return TopicTask(request.format(topic) + rng.choice(_PURPOSES) + stop, topic)


# --- instruction following ------------------------------------------------------------------------

KEYWORDS = [
    "music",
    "bread",
    "money",
    "window",
    "coffee",
    "paper",
    "sugar",
    "stone",
    "silver",
    "doctor",
]
"""Words that a response holds only when it is asked for them."""
FORBIDDEN = ("can", "many", "they")
"""Words that a response holds more often than not."""
END_PHRASES = ("That is all.", "Have a nice day.", "I hope this helps.")


def _draw_constraint(id_: str, topic: str, rng: random.Random) -> Constraint:
    """The constraint `id_` with random arguments and wording."""
    if id_ == "keywords:existence":
        word = rng.choice(KEYWORDS)
        return Constraint(id_, f"Include the word {word}.", {"keywords": [word]})
    if id_ == "keywords:forbidden_words":
        word = rng.choice(FORBIDDEN)
        return Constraint(id_, f"Do not use the word {word}.", {"forbidden_words": [word]})
    if id_ == "keywords:frequency":
        kwargs = {"keyword": topic, "frequency": 2, "relation": "at least"}
        return Constraint(id_, f"Use the word {topic} at least 2 times.", kwargs)
    if id_ == "length_constraints:number_sentences":
        relation, number = rng.choice((("at least", 2), ("at least", 3), ("less than", 2)))
        text = f"Use {relation} {number} sentences."
        return Constraint(id_, text, {"relation": relation, "num_sentences": number})
    if id_ == "length_constraints:number_words":
        relation, number = rng.choice((("at least", 10), ("at least", 12), ("less than", 9)))
        text = f"Use {relation} {number} words."
        return Constraint(id_, text, {"relation": relation, "num_words": number})
    if id_ == "detectable_format:number_bullet_lists":
        number = rng.choice((2, 3))
        return Constraint(id_, f"Use exactly {number} bullet points.", {"num_bullets": number})
    if id_ == "detectable_content:postscript":
        return Constraint(id_, "Add a postscript with P.S.", {"postscript_marker": "P.S."})
    if id_ == "startend:end_checker":
        phrase = rng.choice(END_PHRASES)
        return Constraint(id_, f'End with the words "{phrase}"', {"end_phrase": phrase})
    return Constraint(id_, rng.choice(_WORDINGS[id_]))


_WORDINGS = {
    "punctuation:no_comma": ("Do not use commas.", "Use no commas."),
    "change_case:english_lowercase": ("Use lowercase letters only.", "Use no capital letters."),
    "change_case:english_capital": ("Use capital letters only.", "Write in all capital letters."),
    "startend:quotation": ("Put it in double quotes.", "Wrap it in double quotes."),
    "detectable_format:title": ("Add a title like <<title>>.", "Start with a <<title>>."),
}

CONSTRAINT_IDS = (
    "keywords:existence",
    "keywords:forbidden_words",
    "keywords:frequency",
    "length_constraints:number_sentences",
    "length_constraints:number_words",
    "detectable_format:number_bullet_lists",
    "detectable_content:postscript",
    "startend:end_checker",
    *_WORDINGS,
)

_EXCLUSIVE = (
    # Each sets how much is written; together they can ask for what does not exist.
    {
        "length_constraints:number_sentences",
        "length_constraints:number_words",
        "detectable_format:number_bullet_lists",
        "keywords:frequency",
    },
    # Each adds something around the text, which would change its sentence and word counts.
    {
        "length_constraints:number_sentences",
        "length_constraints:number_words",
        "detectable_format:number_bullet_lists",
        "detectable_content:postscript",
        "detectable_format:title",
        "startend:end_checker",
        "startend:quotation",
    },
    {"change_case:english_lowercase", "change_case:english_capital"},
    # "P.S." cannot be written in lowercase letters.
    {"change_case:english_lowercase", "detectable_content:postscript"},
)


def compatible(first: str, second: str) -> bool:
    """Whether one response can meet both constraints whatever their arguments."""
    pair = {first, second}
    return len(pair) == 2 and not any(pair <= group for group in _EXCLUSIVE)


def _instruction_task(rng: random.Random) -> TopicTask:
    topic = rng.choice(tuple(TOPICS))
    wanted = rng.choice((1, 2, 2, 3))
    chosen: list[str] = []
    for id_ in rng.sample(CONSTRAINT_IDS, len(CONSTRAINT_IDS)):
        if len(chosen) < wanted and all(compatible(id_, other) for other in chosen):
            chosen.append(id_)
    constraints = tuple(_draw_constraint(id_, topic, rng) for id_ in chosen)
    request = rng.choice(("Write about {}.", "Write a few words about {}."))
    prompt = " ".join([request.format(topic), *(constraint.text for constraint in constraints)])
    return TopicTask(prompt, topic, constraints)


# --- splits and rows ------------------------------------------------------------------------------

_MAKERS: dict[str, Callable[[random.Random], Task]] = {
    "math": _math_task,
    "chat": _chat_task,
    "instruction_following": _instruction_task,
}


def split_of(prompt: str) -> str:
    """The split that a prompt belongs to, by the hash of its text."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return "heldout" if digest[0] % _HELDOUT_SHARE == 0 else "train"


def draw_task(domain: str, split: str, rng: random.Random) -> Task:
    """One random task of a domain and split; repeated draws may repeat prompts."""
    for name, valid in ((domain, DOMAINS), (split, SPLITS)):
        if name not in valid:
            raise ConfigError(
                "Unknown pocket domain or split.",
                expected=nearest(name, valid),
                found=repr(name),
                todo="Use one of the valid names.",
            )
    while True:
        task = _MAKERS[domain](rng)
        if split_of(task.prompt) == split:
            return task


def pocket_rows(domain: str, split: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` rows with distinct prompts: `id`, `messages` and what the domain's reward needs.

    The same arguments give the same rows, and a smaller `count` gives a prefix of them.
    math rows hold `answer`; chat rows `topic`; instruction-following rows `instruction_id_list`,
    `kwargs` and `gates` (constraints without which the reward is 0).

    Raises:
        ConfigError: unknown domain or split.
        DataError: the domain does not have that many distinct prompts.
    """
    rng = random.Random(f"{domain}/{split}/{seed}")
    rows: dict[str, dict[str, Any]] = {}
    draws_without_news = 0
    while len(rows) < count:
        task = draw_task(domain, split, rng)
        if task.prompt in rows:
            draws_without_news += 1
            if draws_without_news > 5000:
                raise DataError(
                    f"The pocket domain {domain!r} has too few distinct {split} prompts.",
                    expected=f"at most about {len(rows)} rows",
                    found=f"{count} rows asked for",
                    todo="Ask for fewer rows.",
                )
            continue
        draws_without_news = 0
        rows[task.prompt] = {
            "id": f"{domain}-{split}-{len(rows):05d}",
            "messages": [{"role": "user", "content": task.prompt}],
            **task.reference(),
        }
    return list(rows.values())
