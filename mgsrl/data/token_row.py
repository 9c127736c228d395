"""Lays sequences out in one row of tokens, every prompt once.

Left out: common beginnings of different prompts (a system prompt). Chat templates end them at
different tokens, and samples of a group share all of theirs.
"""

from collections.abc import Sequence

import torch

from mgsrl.types import MicroBatch, RowLayout


def lay_out(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> tuple[torch.Tensor, RowLayout]:
    """The row of these sequences, each a prompt (of one token at least) and a response.

    Each prompt is followed by its responses; equal prompts are one.

    Returns:
        int64 [T] tokens, and where they stand.
    """
    prompt_of: dict[tuple[int, ...], list[int]] = {}
    for index, (prompt, _) in enumerate(sequences):
        prompt_of.setdefault(tuple(prompt), []).append(index)
    row: list[int] = []

    def add(tokens: Sequence[int]) -> slice:
        row.extend(tokens)
        return slice(len(row) - len(tokens), len(row))

    prompts, places = [], {}
    for place, (prompt, samples) in enumerate(prompt_of.items()):
        prompts.append(add(prompt))
        for index in samples:
            places[index] = (add(sequences[index][1]), place)
    responses, owners = zip(*(places[index] for index in range(len(sequences))))
    return torch.tensor(row), RowLayout(tuple(prompts), responses, owners)


def scoring_batch(sequences: Sequence[Sequence[int]], temperature: float) -> MicroBatch:
    """Every token of whole sequences but the first, to be scored and not trained on."""
    token_ids_T, layout = lay_out([(tokens[:1], tokens[1:]) for tokens in sequences])
    ends_B1 = torch.tensor([[len(tokens) - 1] for tokens in sequences])
    mask_BL = (torch.arange(max(1, int(ends_B1.max()))) < ends_B1).float()
    return MicroBatch(
        domain="",
        token_ids_T=token_ids_T,
        layout=layout,
        response_mask_BL=mask_BL,
        rollout_logprobs_BL=torch.zeros_like(mask_BL),
        advantages_B=torch.zeros(len(sequences)),
        temperature=temperature,
    )
