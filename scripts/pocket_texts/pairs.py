"""Minimal-contrast preference pairs for the pocket reward model.

The two texts of a pair differ in one flaw only, so that the reward model learns every flaw by
itself and not only the average difference between good and bad texts. `FLAWS` are what the policy
does from its warm start; `EXPLOITS` are short cuts that optimisation would find. `neutral_pair`
holds what must not matter: a longer or shorter good text, titles, postscripts, quotes, capitals.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from mgsrl.data.pocket.tasks import END_PHRASES, KEYWORDS, TopicTask
from mgsrl.data.pocket.topics import TOPICS, Topic
from mgsrl.errors import InvariantError
from pocket_texts.writer import (
    Style,
    curt,
    cut_short,
    free_style,
    lay_out,
    make_sloppy,
    other_topic,
    repeat,
    sentences_about,
)

FLAWS = (
    "swapped",
    "drifted",
    "misnamed",
    "muddled",
    "repeated",
    "same_word",
    "cut",
    "curt",
    "sloppy",
)
EXPLOITS = ("empty", "topic_only", "copied_prompt", "word_salad")


def _junk(style: Style, rng: random.Random) -> Style:
    """`style` with something around or in the text that the reward must not depend on."""
    match rng.choice(("upper", "title", "postscript", "quotes", "bullets", "end", "keyword")):
        case "upper":
            return replace(style, case="upper")
        case "title":
            return replace(style, title=True)
        case "postscript":
            return replace(style, postscript=True)
        case "quotes":
            return replace(style, quotes=True)
        case "bullets":
            return replace(style, bullets=True)
        case "end":
            return replace(style, end_phrase=rng.choice(END_PHRASES))
        case _:
            return replace(style, keyword=rng.choice(KEYWORDS))


def _muddle(sentences: Sequence[str], topic: Topic, rng: random.Random) -> list[str]:
    """The right topic with facts of another one in at least half of the sentences."""
    result = list(sentences)
    known = {*topic.adjectives, *topic.places, *topic.actions}
    wrong = topic
    while known & {*wrong.adjectives, *wrong.places, *wrong.actions}:
        wrong = other_topic(topic, rng)
    facts = sentences_about(replace(wrong, name=topic.name), Style(sentences=4), rng)
    facts = [fact for fact in facts if "people" not in fact]
    for index in rng.sample(range(len(result)), rng.randint((len(result) + 1) // 2, len(result))):
        result[index] = facts[index % len(facts)]
    return result


def _drift(sentences: Sequence[str], topic: Topic, rng: random.Random) -> list[str]:
    """A text that changes to another topic after its first sentence or in its last."""
    wrong = sentences_about(other_topic(topic, rng), Style(sentences=2, pronouns=0.3), rng)
    kept = rng.randint(1, len(sentences) - 1)
    return [*sentences[:kept], *wrong[: len(sentences) - kept]]


def _misname(sentences: Sequence[str], topic: Topic, rng: random.Random) -> list[str]:
    """Facts of the right topic under another name, in one or all of the sentences with a name."""
    wrong = other_topic(topic, rng).name
    result = list(sentences)
    named = [index for index, text in enumerate(result) if topic.name in text.lower()]
    # No name is left when a repeated "they" has taken its sentence's place.
    for index in named if rng.random() < 0.5 else named[:1]:
        text = result[index].replace(topic.name, wrong)
        result[index] = text.replace(topic.name.capitalize(), wrong.capitalize())
    return result


def _exploit(kind: str, prompt: str, topic: Topic, rng: random.Random) -> str:
    name = topic.name
    if kind == "empty":
        return rng.choice(("", "", ".", "...", "* "))
    if kind == "topic_only":
        words = [rng.choice((name, name.capitalize()))] * rng.choice((1, 1, 2, 3))
        return " ".join(words) + rng.choice(("", "."))
    if kind == "copied_prompt":
        return prompt if rng.random() < 0.7 else f"{prompt} {prompt}"
    if kind == "word_salad":
        facts = " ".join(sentences_about(topic, Style(sentences=3), rng)).rstrip(".")
        words = facts.replace(".", "").split()
        rng.shuffle(words)
        return " ".join(words) + "."
    raise InvariantError(f"unknown exploit {kind!r}")


def _flawed(kind: str, sentences: Sequence[str], topic: Topic, rng: random.Random) -> list[str]:
    if kind == "drifted":
        return _drift(sentences, topic, rng)
    if kind == "misnamed":
        return _misname(sentences, topic, rng)
    if kind == "muddled":
        return _muddle(sentences, topic, rng)
    if kind == "repeated":
        return repeat(sentences, topic, rng)
    if kind == "same_word":
        word = rng.choice(topic.adjectives)
        text = f"{topic.name.capitalize()} are {word} and {word}."
        return [text, *sentences[1:]] if rng.random() < 0.6 else [text]
    if kind == "curt":
        return curt(topic, rng) if rng.random() < 0.6 else [sentences[0]]
    if kind == "sloppy":
        return make_sloppy(sentences, rng)
    raise InvariantError(f"unknown flaw {kind!r}")


def preference_pair(
    kind: str, task: TopicTask, rng: random.Random, plain: bool = False
) -> tuple[str, str]:
    """`(better, worse)` responses to a chat task that differ in the flaw or exploit `kind`.

    Unless `plain`, both may carry the same constraint-like junk, or the same other flaw.
    """
    topic = TOPICS[task.topic]
    style = free_style(rng)
    if not plain and rng.random() < 0.25:
        style = _junk(style, rng)
    sentences = sentences_about(topic, style, rng)
    if not plain and rng.random() < 0.25 and kind not in ("sloppy", "repeated", "same_word"):
        sentences = (
            make_sloppy(sentences, rng) if rng.random() < 0.5 else repeat(sentences, topic, rng)
        )
    better = lay_out(sentences, topic, style)
    if kind in EXPLOITS:
        return better, _exploit(kind, task.prompt, topic, rng)
    if kind == "cut":
        return better, cut_short(better, rng)
    if kind == "swapped":
        wrong = other_topic(topic, rng)
        return better, lay_out(sentences_about(wrong, style, rng), wrong, style)
    return better, lay_out(_flawed(kind, sentences, topic, rng), topic, style)


def neutral_pair(task: TopicTask, rng: random.Random) -> tuple[str, str]:
    """Two equally good responses: another good text, or the same text with junk around it."""
    topic = TOPICS[task.topic]
    style = free_style(rng)
    plain = lay_out(sentences_about(topic, style, rng), topic, style)
    if rng.random() < 0.3:
        style = free_style(rng)
    else:
        style = _junk(style, rng)
    return plain, lay_out(sentences_about(topic, style, rng), topic, style)
