"""The proof that the rollout engine computes with the weights that were published to it.

After every publish the engine and the learner score the same few sequences. When their
log-probabilities disagree by more than a threshold the run stops with the stale module named.
To name it, both sides push one seeded vector through every parameter: the engine through the
path it really computes with (packed or fused kernels included), the learner through the plain
matrix. That is done on failure only; a healthy sync pays for a few forward passes.

Pure: this file moves no data and knows neither Ray nor vLLM.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from mgsrl.errors import InvariantError, StaleWeightsError

Probe = Mapping[str, torch.Tensor]
"""Hugging Face parameter name -> float32 [n], see `probe_parameter`."""

PROBE_SEED = 20260
HEAD = "lm_head.weight"
EMBEDDING = "embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class CanaryError:
    """How far the engine is from the learner, over the compared tokens."""

    mean: float
    """mean |log p_engine - log p_learner| in nats; infinite when a value is not finite."""
    max: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class ModuleError:
    """How far one parameter of the engine is from the learner's, as a relative error."""

    name: str
    relative: float


def probe_vector(in_features: int, seed: int = PROBE_SEED) -> torch.Tensor:
    """float32 [in_features] on the CPU, standard normal; the same on every machine."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(in_features, generator=generator, dtype=torch.float32)


def probe_parameter(parameter: torch.Tensor, seed: int = PROBE_SEED) -> torch.Tensor:
    """What the learner reports of one whole (gathered) parameter, float32 [n] on the CPU.

    A matrix `[out, in]` (linear, embedding, LM head) gives `W @ probe_vector(in)`, `[out]`;
    a vector (norm, bias) gives itself.
    """
    value = parameter.detach().to(device="cpu", dtype=torch.float32)
    if value.ndim < 2:
        return value.reshape(-1).clone()
    matrix = value.reshape(-1, value.shape[-1])
    return matrix @ probe_vector(matrix.shape[1], seed)


def pick_sequences(
    candidates: Sequence[Sequence[int]], count: int, max_tokens: int = 256
) -> list[tuple[int, ...]]:
    """`count` of the candidates (prompt + response tokens), evenly spaced, cut to `max_tokens`.

    Short on purpose: an engine holds the logits of a whole scored sequence at once, and needs
    room for one more token.
    """
    usable = [tuple(sequence[:max_tokens]) for sequence in candidates if len(sequence) > 1]
    count = min(count, len(usable))
    return [usable[index * len(usable) // count] for index in range(count)]


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


def compare_probes(engine: Probe, learner: Probe) -> list[ModuleError]:
    """Relative error of every parameter both sides know, the largest first.

    With tied embeddings the learner has no LM head of its own: the engine's head is compared
    with the learner's embedding.
    """
    embedding = next((n for n in learner if n.endswith(EMBEDDING)), None)
    errors = []
    for name, value in engine.items():
        key = embedding if name == HEAD and HEAD not in learner else name
        if key is None or key not in learner:
            continue
        expected = learner[key].float()
        found = value.float()[: expected.shape[0]]  # vLLM pads vocabularies
        relative = float((found - expected).norm() / expected.norm().clamp_min(1e-12))
        errors.append(ModuleError(name, relative if math.isfinite(relative) else math.inf))
    return sorted(errors, key=lambda error: -error.relative)


def check_canary(
    error: CanaryError,
    *,
    threshold: float,
    weight_version: int,
    worker: str,
    probes: Callable[[], tuple[Probe, Probe]],
    tolerance: float = 0.02,
) -> None:
    """Raise `StaleWeightsError` naming the stale modules when `error.mean > threshold`.

    `probes` gives (engine, learner) and is called on failure only. `tolerance` is the relative
    error up to which a module counts as equal; it leaves room for bfloat16 (2 ** -8).
    """
    if error.mean <= threshold:
        return
    engine, learner = probes()
    modules = compare_probes(engine, learner)
    stale = [module for module in modules if module.relative > tolerance]
    if stale:
        named = ", ".join(f"{m.name} (relative error {m.relative:.3g})" for m in stale[:5])
        more = f" and {len(stale) - 5} more" if len(stale) > 5 else ""
        cause = f"modules that do not compute with the published weights: {named}{more}"
    elif modules:
        cause = (
            "every linear map, norm and embedding agrees "
            f"(largest relative error {modules[0].relative:.3g} in {modules[0].name}): "
            "the difference is elsewhere (attention, rotary embedding, precision)"
        )
    else:
        cause = "no parameter is known to both sides by the same name"
    raise StaleWeightsError(
        f"{worker} disagrees with the learner after weight version {weight_version} was "
        f"published: mean |log p_engine - log p_learner| = {error.mean:.3g} nats over "
        f"{error.num_tokens} tokens (largest {error.max:.3g}), threshold {threshold:g}; {cause}. "
        "Training would go on from stale rollouts, so the run stops."
    )
