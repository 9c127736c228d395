"""Log-probabilities of response tokens without ever holding all logits.

A causal language model's logits `[B, L, V]` are its largest activation (batch 8, length 4096,
vocabulary 152k: 20 GB in fp32). Only response tokens are trained on, so the LM head runs on
their positions only, chunk by chunk: the forward keeps one number per token (log-sum-exp), the
backward computes the logits again, a slice of the vocabulary at a time (a CPU, where memory is
cheaper than a product, keeps what is one chunk). The idea is that of fused
linear cross-entropy (Liger kernel, arXiv 2410.10989), with the gradient of the entropy added.

Left out: models that change their logits after the LM head by more than a constant factor
(refused in `agreement.py`).
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from mgsrl.cluster.memory import LOGITS
from mgsrl.learner.attention import PackedRow, use_packed_attention
from mgsrl.types import RowLayout

CHUNK_ELEMENTS = {"cpu": LOGITS[False], "cuda": LOGITS[True]}
"""Logits held at once (256 MiB on a CPU, 512 MiB on a GPU, in fp32). Forward and backward of 500
positions, 49k words, width 576 on 2 cores took 4.8, 2.4, 1.9, 1.8, 1.6 and 1.7 processor seconds in
fp32 with 2^20, 2^22, 2^23, 2^24, 2^25 and 2^26, and 11.8, 3.1, 2.1, 2.0, 1.8 and 1.8 in bfloat16;
of 300 positions, 152k words, width 896 (fp32) 11.2, 9.1, 8.4 and 5.9 with 2^23 to 2^26, which alone
keeps all of them and so has one product less. On a GPU nothing was measured."""


class TokenLogprobs(torch.autograd.Function):
    """(hidden [T, H], weight [V, H], bias [V] or None) -> (log-probability [T], entropy [T]).

    The entropy costs another pass over the logits: without `entropy` it is NaN.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_T: torch.Tensor,
        temperature: float,
        chunk: int,
        entropy: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wide = torch.promote_types(hidden_TH.dtype, torch.float32)
        lse_T, logprobs_T, entropy_T = hidden_TH.new_full((3, len(targets_T)), math.nan, dtype=wide)
        for part in _chunks(len(targets_T), chunk):
            logits = _logits(hidden_TH[part], weight_VH, bias_V, temperature, wide)
            lse = logits.logsumexp(-1)
            logprobs_T[part] = logits.gather(-1, targets_T[part, None]).squeeze(-1) - lse
            if entropy:
                probs = (logits - lse[:, None]).exp_()
                entropy_T[part] = lse - torch.einsum("tv,tv->t", probs, logits)
            lse_T[part] = lse
        ctx.save_for_backward(hidden_TH, targets_T, lse_T, entropy_T)
        # Not saved as a tensor: under ZeRO-3 the parameter's storage comes and goes.
        ctx.weight_VH, ctx.bias_V = weight_VH, bias_V
        ctx.temperature, ctx.chunk = temperature, chunk
        # What was held at once anyway may stay until the backward, which comes next.
        whole = 0 < len(targets_T) <= chunk
        ctx.logits_TV = logits if whole and not hidden_TH.is_cuda else None
        ctx.set_materialize_grads(False)
        return logprobs_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """A slice of the vocabulary at a time, all positions at once: each row of the weight's
        gradient is one product, summed in fp32 inside it and written in the weight's type. Nothing
        of the weight's size is ever held in fp32; of the positions' size only `grad_hidden_TH`."""
        hidden_TH, targets_T, lse_T, entropy_T = ctx.saved_tensors
        weight_VH, bias_V = ctx.weight_VH, ctx.bias_V
        grad_logprobs_T, grad_entropy_T = grads
        num_words, width = weight_VH.shape
        grad_hidden_TH = torch.zeros_like(hidden_TH, dtype=lse_T.dtype)
        grad_weight_VH = grad_bias_V = None
        if ctx.needs_input_grad[1]:  # not with adapters: the head is frozen
            grad_weight_VH = torch.empty_like(weight_VH)
        if bias_V is not None and ctx.needs_input_grad[2]:
            grad_bias_V = torch.empty_like(bias_V)
        kept_TV, ctx.logits_TV = ctx.logits_TV, None  # changed in place: good for one backward
        rows = ctx.chunk * num_words // max(len(targets_T), width)
        for part in _chunks(num_words, max(1, rows)):
            bias_v = None if bias_V is None else bias_V[part]
            if kept_TV is not None:
                logits_Tv = kept_TV[:, part]
            else:
                wide = lse_T.dtype
                logits_Tv = _logits(hidden_TH, weight_VH[part], bias_v, ctx.temperature, wide)
            grad_Tv = _grad_logits(
                logits_Tv.sub_(lse_T[:, None]),
                targets_T - part.start,
                grad_logprobs_T,
                grad_entropy_T,
                entropy_T,
            ).div_(ctx.temperature)
            if grad_bias_V is not None:
                grad_bias_V[part] = grad_Tv.sum(0)
            grad_Tv = grad_Tv.to(hidden_TH.dtype)
            if grad_weight_VH is not None:
                torch.mm(grad_Tv.T, hidden_TH, out=grad_weight_VH[part])
            grad_hidden_TH += _product(grad_Tv, weight_VH[part].T, lse_T.dtype)
        grad_hidden_TH = grad_hidden_TH.to(hidden_TH.dtype)
        return grad_hidden_TH, grad_weight_VH, grad_bias_V, None, None, None, None


def _chunks(length: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, length, chunk)]


def _logits(
    hidden_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    temperature: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """[T, V] tempered logits, in at least fp32 from the product on."""
    logits = _product(hidden_TH, weight_VH, dtype)
    if bias_V is not None:
        logits += bias_V
    return logits.div_(temperature)


def _product(left_TK: torch.Tensor, weight_VK: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`left @ weight.T` in `dtype`.

    A bfloat16 product is not rounded back to bfloat16: logits of 20 would be known to 1/16 only,
    and log-probabilities were 0.02 nats further from an engine's. A GPU's kernel gives its fp32
    sums out; a CPU gets a slice of the weight at a time in fp32, at most `CHUNK_ELEMENTS`.
    """
    if left_TK.dtype == dtype:
        return left_TK @ weight_VK.T
    if left_TK.is_cuda and dtype == torch.float32:
        return torch.mm(left_TK, weight_VK.T, out_dtype=dtype)
    wide_TK = left_TK.to(dtype)
    rows = max(1, CHUNK_ELEMENTS["cpu"] // max(1, weight_VK.shape[1]))
    product = wide_TK.new_empty(len(wide_TK), len(weight_VK))
    for start in range(0, len(weight_VK), rows):
        part = slice(start, start + rows)
        product[:, part] = wide_TK @ weight_VK[part].to(dtype).T
    return product


def _grad_logits(
    logprobs_Tv: torch.Tensor,
    targets_T: torch.Tensor,
    grad_logprobs_T: torch.Tensor | None,
    grad_entropy_T: torch.Tensor | None,
    entropy_T: torch.Tensor,
) -> torch.Tensor:
    """[T, v] gradient of both outputs with respect to the tempered logits of a slice of the
    vocabulary; targets may lie outside of it.

    d log p_target / d z_v = 1[v = target] - p_v;   d H / d z_v = -p_v (log p_v + H).
    """
    probs_Tv = logprobs_Tv.exp()
    scale_Tv = torch.zeros_like(logprobs_Tv[:, :1])
    if grad_logprobs_T is not None:
        scale_Tv = scale_Tv - grad_logprobs_T[:, None]
    if grad_entropy_T is not None:
        scale_Tv = scale_Tv - grad_entropy_T[:, None] * (logprobs_Tv + entropy_T[:, None])
    grad_Tv = probs_Tv.mul_(scale_Tv)
    if grad_logprobs_T is not None:
        own_T = grad_logprobs_T.where((targets_T >= 0) & (targets_T < grad_Tv.shape[1]), 0.0)
        at_T = targets_T.clamp(0, grad_Tv.shape[1] - 1)
        grad_Tv.scatter_add_(-1, at_T[:, None], own_T[:, None])
    return grad_Tv


class ResponseHead(nn.Module):
    """An LM head that gives token log-probabilities instead of logits.

    It owns the original head's parameters under their own names, so checkpoints, weight sync
    and export see an unchanged model; being a module, ZeRO-3 gathers its weight around it.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias

    def forward(
        self,
        hidden_TH: torch.Tensor,
        targets_T: torch.Tensor,
        temperature: float,
        entropy: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability and entropy (nats) of each position, both [T] in fp32."""
        budget = CHUNK_ELEMENTS["cuda" if hidden_TH.is_cuda else "cpu"]
        chunk = max(1, budget // self.weight.shape[0])
        return TokenLogprobs.apply(
            hidden_TH, self.weight, self.bias, targets_T, temperature, chunk, entropy
        )


class PolicyForward(nn.Module):
    """A Hugging Face causal LM as a function from tokens to response log-probabilities.

    Args:
        policy: the model; its LM head is replaced.
        logit_scale: the constant by which the model multiplies what its LM head gives.
        packed: compute the row as it stands, every prompt once; otherwise sequence by sequence.
    """

    def __init__(self, policy: Any, logit_scale: float = 1.0, *, packed: bool = False) -> None:
        super().__init__()
        self.logit_scale = logit_scale
        policy.set_output_embeddings(ResponseHead(policy.get_output_embeddings()))
        self.policy: Any = policy
        self.packed = packed
        if packed:
            use_packed_attention(policy)

    def forward(
        self,
        token_ids_T: torch.Tensor,
        layout: RowLayout,
        response_mask_BL: torch.Tensor,
        temperature: float,
        entropy: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probabilities [B, L], entropies [B, L]) of responses, 0 where the mask is 0; the
        entropies NaN without `entropy`.

        Each token is predicted from the hidden state of the one before it, a response's first
        from its prompt's last.
        """
        body = self._packed_body if self.packed else self._padded_body
        hidden_PH, places_BL = body(token_ids_T, layout, response_mask_BL.shape[1])
        selected = response_mask_BL.bool()
        starts_B1 = torch.tensor([span.start for span in layout.responses])[:, None]
        tokens_BL = (starts_B1 + torch.arange(selected.shape[1])).to(token_ids_T.device)
        head = self.policy.get_output_embeddings()
        logprobs_T, entropy_T = head(
            hidden_PH.index_select(0, places_BL[selected]),
            token_ids_T[tokens_BL[selected]],
            # softmax(scale * z / T): a scale is a temperature.
            temperature / self.logit_scale,
            entropy,
        )
        empty_BL = torch.zeros(
            response_mask_BL.shape, dtype=logprobs_T.dtype, device=logprobs_T.device
        )
        return (
            empty_BL.masked_scatter(selected, logprobs_T),
            empty_BL.masked_scatter(selected, entropy_T),
        )

    def _packed_body(
        self, token_ids_T: torch.Tensor, layout: RowLayout, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [P, H] of the row, and where each response token is predicted, [B, L]."""
        row = PackedRow(layout, token_ids_T.device)
        hidden_1TH = self.policy.base_model(
            input_ids=token_ids_T[None],
            position_ids=row.position_ids[None],
            use_cache=False,
            packed_row=row,
        )[0]
        places_BL = torch.tensor([span.start - 1 for span in layout.responses])[:, None]
        places_BL = places_BL + torch.arange(length)
        ends = [layout.prompts[prompt].stop - 1 for prompt in layout.prompt_of]
        places_BL[:, 0] = torch.tensor(ends)
        return hidden_1TH[0], places_BL.to(token_ids_T.device)

    def _padded_body(
        self, token_ids_T: torch.Tensor, layout: RowLayout, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of one sequence per response, right-padded to the longest.

        Under causal attention no real token sees a pad and no attention mask is needed; without
        one the fused causal kernels apply.
        """
        prompts = [layout.prompts[prompt] for prompt in layout.prompt_of]
        rows = [
            torch.cat([token_ids_T[prompt], token_ids_T[response]])
            for prompt, response in zip(prompts, layout.responses)
        ]
        token_ids = pad_sequence(rows, batch_first=True)
        hidden = self.policy.base_model(input_ids=token_ids, use_cache=False)[0]
        ends = [prompt.stop - prompt.start - 1 for prompt in prompts]
        firsts_B = torch.tensor(ends) + token_ids.shape[1] * torch.arange(len(rows))
        places_BL = firsts_B[:, None] + torch.arange(length)
        return hidden.flatten(0, 1), places_BL.to(token_ids_T.device)
