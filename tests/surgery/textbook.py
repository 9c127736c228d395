"""Textbooks of the methods with memory: explicit vectors, one update after the other."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class GradVacBook:
    """Algorithm 1 of arXiv 2010.05874 in one module, with the law of sines spelled out."""

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self.target: dict[tuple[str, str], float] = {}

    def update(self, vectors: dict[str, Tensor], orders: dict[str, Sequence[str]]) -> Tensor:
        total = torch.zeros_like(next(iter(vectors.values())))
        for name, vector in vectors.items():
            altered = vector.clone()
            for other in orders[name]:
                theirs = vectors[other]
                if not altered.any() or not theirs.any():
                    continue
                cosine = torch.dot(altered, theirs).item() / (_norm(altered) * _norm(theirs))
                target = self.target.get((name, other), 0.0)
                if cosine < target:
                    # The triangle of g_i, the step a2 g_j and their sum: the angle between the
                    # sum and g_j shall be acos(target), that between g_i and g_j is acos(cosine).
                    now, wanted = math.acos(cosine), math.acos(target)
                    length = _norm(altered) * math.sin(now - wanted) / math.sin(wanted)
                    altered = altered + length / _norm(theirs) * theirs
                self.target[name, other] = (1 - self.beta) * target + self.beta * cosine
            total += altered
        return total


class SmoothedBook:
    """PCGrad of the pairs whose weighted mean cosine stands out, from the whole history."""

    def __init__(self, beta: float, z_limit: float) -> None:
        self.beta, self.z_limit = beta, z_limit
        self.history: dict[tuple[str, str], list[float]] = {}

    def update(self, vectors: dict[str, Tensor], orders: dict[str, Sequence[str]]) -> Tensor:
        for name, vector in vectors.items():
            for other in orders[name]:
                if vector.any() and vectors[other].any():
                    cosine = torch.dot(vector, vectors[other]).item()
                    cosine /= _norm(vector) * _norm(vectors[other])
                    self.history.setdefault((name, other), []).append(cosine)
        total = torch.zeros_like(next(iter(vectors.values())))
        for name, vector in vectors.items():
            projected = vector.clone()
            for other in orders[name]:
                inner = torch.dot(projected, vectors[other]).item()
                if inner < 0 and self.lasts(name, other):
                    projected -= inner / _norm(vectors[other]) ** 2 * vectors[other]
            total += projected
        return total

    def lasts(self, name: str, other: str) -> bool:
        past = self.history.get((name, other), [])
        weights = [(1 - self.beta) ** age for age in reversed(range(len(past)))]
        weights = [weight / sum(weights) for weight in weights]
        mean = sum(w * cosine for w, cosine in zip(weights, past, strict=True))
        square = sum(w * cosine**2 for w, cosine in zip(weights, past, strict=True))
        error = math.sqrt(square * sum(weight**2 for weight in weights))
        return error > 0 and mean / error < -self.z_limit


def _norm(vector: Tensor) -> float:
    return torch.linalg.vector_norm(vector).item()
