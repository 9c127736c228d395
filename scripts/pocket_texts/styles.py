"""Writes texts in which three habits of style are decided for every sentence by coins of their own.

A comma or none, an exclamation mark or a full stop, "they" or the topic's name: what the rewards of
the `pocket_conflict` experiment count (`mgsrl/rewards/pocket_conflict.py`). A policy that is
warm-started on these texts has each habit in half of its sentences, whatever the others are, so
the habits are free to be selected in any combination.
"""

import random

from mgsrl.data.pocket.topics import TOPICS, Topic

KINDS = ("looks", "whereabouts", "habit", "opinion")


def styled_sentence(topic: Topic, kind: str, rng: random.Random) -> str:
    """One sentence of a kind, in a random style."""
    comma, loud, pronoun = (rng.random() < 0.5 for _ in range(3))
    subject, them = ("they", "them") if pronoun else (topic.name, topic.name)
    if kind == "looks":
        first, second, third = rng.sample(topic.adjectives, 3)
        listed = f"{first}, {second} and {third}" if comma else f"{first} and {second}"
        text = f"{subject} are {listed}"
    elif kind == "whereabouts":
        place = rng.choice(topic.places)
        text = f"{place}, you can find {them}" if comma else f"you can find {them} {place}"
    elif kind == "habit":
        text = f"{'of course, ' if comma else ''}{subject} {rng.choice(topic.actions)}"
    else:
        text = f"{'yes, ' if comma else ''}many people like {them}"
    return f"{text[0].upper()}{text[1:]}{'!' if loud else '.'}"


def write_styled(topic: str, rng: random.Random) -> str:
    """Two or three sentences of different kinds about a topic."""
    kinds = rng.sample(KINDS, rng.choice((2, 3)))
    return " ".join(styled_sentence(TOPICS[topic], kind, rng) for kind in kinds)
