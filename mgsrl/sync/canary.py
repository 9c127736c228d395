"""The proof that a rollout engine computes with the weights, and as the learner computes.

After every publish two things are asked, and they are two questions:
- Does the engine hold the published weights? Their fingerprints say so exactly
  (`sync.fingerprint`), in any type, however small the last step was. If not, the run stops and
  the stale parameters are named.
- Does it compute the same function of them? Engine and learner score the same few sequences. In
  float32 they agree to 1e-5 nats or so, and `rollout.sync.canary_threshold` is a limit. In
  bfloat16 two right implementations of a small model differ by 0.03 nats and more: the first
  publish of a run sets what is normal, and a jump from there is an alarm. It stops the run unless
  it is explained: every parameter was proven equal, so it is rounding.

Pure: this file moves no data and knows neither Ray nor vLLM.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mgsrl.errors import EngineMismatchError, InvariantError, StaleWeightsError
from mgsrl.sync.fingerprint import Proof

JUMP = 3.0
"""In bfloat16, an error this many times the first one is an alarm (if above the threshold)."""
CEILING = 10.0
"""In bfloat16, rounding explains up to this many times the threshold, and no more."""
MAX_TOKENS = 128
"""Of all compared sequences together: both sides compute them after every publish, and an engine
holds the logits of a whole one at once. For a model of 135M parameters on 2 cores 256 tokens cost
0.8 s, eight times what it takes to copy the weights."""
NAMED = 5
"""Parameters that a message names."""


@dataclass(frozen=True, slots=True)
class CanaryError:
    """How far the engine is from the learner, over the compared tokens."""

    mean: float
    """mean |log p_engine - log p_learner| in nats; infinite when a value is not finite."""
    max: float
    num_tokens: int


def pick_sequences(
    candidates: Sequence[Sequence[int]], count: int, max_tokens: int = MAX_TOKENS
) -> list[tuple[int, ...]]:
    """`count` of the candidates (prompt + response tokens), evenly spaced, an equal share of
    `max_tokens` of each: its last tokens, as openings are often the same (a chat template's)."""
    usable = [sequence for sequence in candidates if len(sequence) > 1]
    count = min(count, len(usable))
    share = max(2, max_tokens // max(1, count))
    return [tuple(usable[index * len(usable) // count][-share:]) for index in range(count)]


def compare_logprobs(
    engine: Sequence[Sequence[float]], learner: Sequence[Sequence[float]]
) -> CanaryError:
    """Compare per-token log-probabilities of the same sequences.

    `[sequences][tokens]`, each token given its prefix; the first token of a sequence has no
    prefix and is left out.
    """
    if [len(row) for row in engine] != [len(row) for row in learner]:
        raise InvariantError("engine and learner scored sequences of different lengths")
    errors = [
        abs(a - b)
        for row_engine, row_learner in zip(engine, learner)
        for a, b in zip(row_engine[1:], row_learner[1:])
    ]
    if not errors:
        raise InvariantError("the canary needs a sequence of at least two tokens")
    if not all(math.isfinite(error) for error in errors):
        return CanaryError(mean=math.inf, max=math.inf, num_tokens=len(errors))
    return CanaryError(sum(errors) / len(errors), max(errors), len(errors))


def error_limit(threshold: float, *, rounds: bool, baseline: float | None) -> float:
    """The mean error in nats above which the canary looks for an explanation.

    Args:
        threshold: `rollout.sync.canary_threshold`.
        rounds: one of the two sides computes in bfloat16.
        baseline: the error of the run's first publish; None when this is it.
    """
    if not rounds:
        return threshold
    return CEILING * threshold if baseline is None else max(threshold, JUMP * baseline)


def check_canary(
    error: CanaryError,
    proof: Proof,
    *,
    threshold: float,
    rounds: bool,
    baseline: float | None,
    weight_version: int,
    worker: str,
) -> str | None:
    """Judge one worker after a publish. Arguments as in `error_limit`.

    Returns:
        What the user should know although the run goes on, or None.

    Raises:
        StaleWeightsError: the engine holds other weights than were published; they are named.
        EngineMismatchError: it holds the weights, as far as they can be seen, and is further from
            the learner than rounding explains.
    """
    after = f"after weight version {weight_version} was published"
    difference = (
        f"mean |log p_engine - log p_learner| = {error.mean:.3g} nats over "
        f"{error.num_tokens} tokens (largest {error.max:.3g})"
    )
    if proof.stale:
        raise StaleWeightsError(
            f"{worker} does not compute with the published weights {after}: "
            f"{named(proof.stale)}; {difference}. "
            "Training would go on from stale rollouts, so the run stops."
        )
    limit = error_limit(threshold, rounds=rounds, baseline=baseline)
    if error.mean <= limit:
        return None
    usual = "" if baseline is None else f", {baseline:.3g} after the first publish"
    equal = f"all {proof.num_seen} parameters are equal bit for bit"
    if rounds and not proof.unseen and error.mean <= CEILING * threshold:
        return f"{worker}, {after}: {difference}{usual}; {equal}, so this is rounding in bfloat16"
    if proof.unseen:
        equal = (
            f"{proof.num_seen} parameters are equal bit for bit, but {len(proof.unseen)} cannot be "
            f"seen in the engine and may be stale: {named(proof.unseen)}"
        )
    raise EngineMismatchError(
        f"{worker} disagrees with the learner {after}: {difference}{usual}, limit {limit:.3g}; "
        f"{equal}. Engine and learner then compute different functions of the same weights "
        "(attention, rotary embedding, a scale of the logits), and training would follow rollouts "
        "of another policy, so the run stops. rollout.engine=transformers computes as the learner."
    )


def named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
