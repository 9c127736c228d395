"""The learner's forward is the model's own: measured on a few tokens when a policy is loaded.

The learner never calls the whole model: it runs the body in training mode, without an attention
mask, and takes log-probabilities straight from the LM head. Whether that is what the model
computes for a sampler is not read from lists of names but tried: the model's own logits in
evaluation mode against the learner's forward, as it will be used. A constant factor behind the head
(Granite, Cohere, FalconH1) is measured and given to `PolicyForward`; dropout, wherever a model
keeps it, is switched off; what still differs is refused, with the cause, which is tried as well.

It runs on the CPU where each rank holds the whole model, before ZeRO partitions it: two forward
passes of a dozen tokens, and more only to find the cause of a refusal.

Left out: soft caps and other curves behind the head, layers between body and head. Both would
have to be known to `TokenLogprobs` and its gradient.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mgsrl.data.token_row import lay_out
from mgsrl.errors import InvariantError, UserError
from mgsrl.learner.forward import PolicyForward

NUM_TOKENS = 8
HALF = NUM_TOKENS // 2
LOUD = 1e3
"""Largest logit of the loud copy: far above any soft cap."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Mean |difference of log-probabilities| in nats that rounding explains."""


@torch.no_grad()
def proven_forward(model: Any, path: str, *, packed: bool = False) -> PolicyForward:
    """`model` (a causal LM on the CPU, in evaluation mode) as the learner's forward.

    Dropout is off afterwards. No random number is drawn from torch's generators.

    Args:
        path: as the user gave it, for messages.
        packed: whether it computes packed rows.

    Raises:
        UserError: the learner would compute other log-probabilities than a sampler.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise _refusal(path, f"its LM head is a {type(head).__name__}, not a linear layer")
    switch_dropout_off(model)
    with torch.random.fork_rng(devices=[]):
        return _proven(model, head, path, packed)


def _proven(model: Any, head: nn.Linear, path: str, packed: bool) -> PolicyForward:
    token_ids_BL = _tokens(head.out_features)
    own_LV, loud_LV, loud_raw_LV, head_input_LH = _own_logits(model, head, token_ids_BL)
    if own_LV.shape != loud_raw_LV.shape:
        found = f"{tuple(own_LV.shape)} logits from an LM head that gives {loud_raw_LV.shape[-1]}"
        raise _refusal(path, found)
    if not own_LV.isfinite().all() or not loud_raw_LV.any():
        raise _refusal(path, _no_numbers(model))
    scale = _factor(loud_LV, loud_raw_LV, path, model)
    body_LH = _body(model, token_ids_BL)[0]
    if not _close(body_LH, head_input_LH):
        raise _refusal(
            path,
            f"layers between the last hidden state and the LM head ({_beside_the_body(model)})",
        )
    own_attention = model.config._attn_implementation
    forward = PolicyForward(model, scale, packed=packed).train()
    # Last to first: behind the half that is shared in a packed row stands the other tail.
    row_T, layout = lay_out([_split(row, packed) for row in token_ids_BL.flip(0).tolist()])
    length = max(span.stop - span.start for span in layout.responses)
    expected_BL = _logprobs(own_LV, token_ids_BL).flip(0)[:, -length:]
    mask_BL = _mask(token_ids_BL).flip(0)[:, -length:]
    try:
        found_BL, _ = forward(row_T, layout, mask_BL, 1.0)
    except InvariantError as error:
        raise _refusal(path, f"{error} (set learner.share_prompts=never)") from error
    error_B = ((found_BL - expected_BL).abs() * mask_BL).double().sum(1) / mask_BL.sum(1)
    rounding = torch.finfo(head.weight.dtype).eps * own_LV.abs().max().item()
    if not (error_B <= max(TOLERANCE.get(head.weight.dtype, 0.1), rounding)).all():
        if packed:
            model.set_attn_implementation(own_attention)
        cause = _cause(forward, token_ids_BL)
        raise _refusal(path, f"log-probabilities {error_B.max().item():.3g} nats off: {cause}")
    forward.eval()
    return forward


def switch_dropout_off(model: nn.Module) -> None:
    """Set every dropout probability of the modules, and of the configurations they read, to 0.

    A probability is a float whose name has `drop` in it: families keep it as `p` of a dropout
    layer, as `self.dropout`, `attention_dropout`, `layerdrop`, or in the configuration alone.
    """
    modules = list(model.modules())
    configs = {id(config): config for m in modules if (config := getattr(m, "config", None))}
    for holder in [*modules, *configs.values()]:
        if isinstance(holder, nn.modules.dropout._DropoutNd):
            holder.p = 0.0
        for name, value in list(vars(holder).items()):
            if "drop" in name.lower() and isinstance(value, float):
                setattr(holder, name, 0.0)


# ---- what is compared ----------------------------------------------------------------------------


def _tokens(vocab_size: int) -> torch.Tensor:
    """int64 [3, L]: one sequence twice, and its first half with other tokens behind it.

    Twice, because dropout would tell the copies apart; the other tail, because the learner pads on
    the right and relies on causality. From the middle of the vocabulary: special tokens are at its
    ends.
    """
    row_L = vocab_size // 3 + torch.arange(NUM_TOKENS) * max(1, vocab_size // (4 * NUM_TOKENS))
    token_ids_BL = (row_L % vocab_size).repeat(3, 1)
    token_ids_BL[2, HALF:] = token_ids_BL[0, :HALF]
    return token_ids_BL


def _split(row: list[int], packed: bool) -> tuple[list[int], list[int]]:
    """Prompt and response; all of a packed row share the first half."""
    prompt = HALF if packed else 1
    return row[:prompt], row[prompt:]


def _mask(token_ids_BL: torch.Tensor) -> torch.Tensor:
    """What is compared; of the other tail its first token, which the shared half predicts."""
    mask_BL = torch.ones(token_ids_BL.shape)
    mask_BL[:, 0] = 0
    mask_BL[2, HALF + 1 :] = 0
    return mask_BL


def _logprobs(logits_LV: torch.Tensor, token_ids_BL: torch.Tensor) -> torch.Tensor:
    """[B, L - 1] log-probability of each token but the first, after the prefix of the logits."""
    table_LV = torch.log_softmax(logits_LV[:-1].float(), -1)
    rows_BLV = table_LV.expand(len(token_ids_BL), -1, -1)
    return rows_BLV.gather(2, token_ids_BL[:, 1:, None]).squeeze(2)


def _own_logits(model: Any, head: nn.Linear, token_ids_BL: torch.Tensor) -> tuple[Any, ...]:
    """The model's own evaluation of the sequence, once as it is and once with the head's output
    raised to `LOUD`: own logits [L, V], loud logits [L, V], what the loud head gave [L, V], and
    what the head was given [L, H]."""
    seen: dict[str, torch.Tensor] = {}

    def raise_second(_: nn.Module, inputs: tuple[torch.Tensor], raw_BLV: torch.Tensor) -> Any:
        seen["input"] = inputs[0][0]
        raw_BLV = raw_BLV.float()
        raw_BLV[1] *= LOUD / raw_BLV[1].abs().max().clamp_min(1e-30)
        seen["loud"] = raw_BLV[1].clone()
        return raw_BLV

    hook = head.register_forward_hook(raise_second)
    try:
        logits_BLV = model.eval()(input_ids=token_ids_BL[:2], use_cache=False).logits
    finally:
        hook.remove()
    return logits_BLV[0].float(), logits_BLV[1].float(), seen["loud"], seen["input"]


def _factor(loud_LV: torch.Tensor, raw_LV: torch.Tensor, path: str, model: Any) -> float:
    """The constant between the LM head and the logits; 1.0 exactly where there is none."""
    loud, raw = loud_LV.double(), raw_LV.double()
    scale = ((loud * raw).sum() / (raw * raw).sum()).item()
    # As exact as the model's own product: a model may come back to bfloat16 behind the head.
    rounding = 2 * torch.finfo(model.dtype).eps
    if not scale or not (loud - scale * raw).abs().max() <= rounding * loud.abs().max():
        raise _refusal(
            path,
            "logits that are changed behind the LM head by more than a constant factor "
            f"({_logit_settings(model)})",
        )
    return 1.0 if abs(scale - 1) <= 1e-6 else scale


def _body(model: Any, token_ids_BL: torch.Tensor) -> torch.Tensor:
    return model.base_model(input_ids=token_ids_BL, use_cache=False)[0]


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    room = 16 * torch.finfo(expected.dtype).eps * expected.abs().max()
    return bool((found - expected).abs().max() <= room)


# ---- the cause of a difference -------------------------------------------------------------------


def _cause(forward: PolicyForward, token_ids_BL: torch.Tensor) -> str:
    model = forward.policy
    model.eval()
    quiet_BLH = _body(model, token_ids_BL)
    noisy = [kind for kind, modules in _kinds(model) if not _same(model, modules, token_ids_BL)]
    if noisy:
        return f"active in training mode only (dropout or noise): {', '.join(noisy)}"
    if not _close(quiet_BLH[2, :HALF], quiet_BLH[0, :HALF]):
        return "a token depends on padding that follows it (the model is not causal)"
    if forward.packed:
        return "responses do not share their prompt (learner.share_prompts=never keeps them apart)"
    return "no module was found that behaves differently in training mode"


def _same(model: Any, modules: list[nn.Module], token_ids_BL: torch.Tensor) -> bool:
    """Whether the model computes the same with these modules alone in training mode."""
    quiet_BLH = _body(model, token_ids_BL)
    with _training(modules):
        return _close(_body(model, token_ids_BL), quiet_BLH)


@contextmanager
def _training(modules: list[nn.Module]) -> Iterator[None]:
    for module in modules:
        module.training = True  # of this module alone, not of its children
    try:
        yield
    finally:
        for module in modules:
            module.training = False


def _kinds(model: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """Modules by name without numbers: the same part of every layer is one kind."""
    kinds: dict[str, list[nn.Module]] = {}
    for name, module in model.named_modules():
        kind = f"{re.sub(r'[.][0-9]+', '.*', name) or 'the model'} ({type(module).__name__})"
        kinds.setdefault(kind, []).append(module)
    return list(kinds.items())


def _no_numbers(model: Any) -> str:
    """Why the model's own logits are not finite, or all 0."""
    broken = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        return f"weights that are nan or infinite: {', '.join(broken[:3])}{more}"
    return "logits of its own that are not finite, or 0 for every token"


def _beside_the_body(model: Any) -> str:
    body, head = model.base_model, model.get_output_embeddings()
    names = [name for name, m in model.named_children() if m is not body and m is not head]
    return ", ".join(names) or "none of them a module of its own"


def _logit_settings(model: Any) -> str:
    """What the configuration says of logits; a hint, not a test."""
    config = model.config.get_text_config().to_dict()
    named = [f"{k}={v}" for k, v in config.items() if "logit" in k and v not in (None, 1, 1.0)]
    return ", ".join(named) or "its configuration does not say by what"


def _refusal(path: str, found: str) -> UserError:
    return UserError(
        "The learner would not compute this model's own log-probabilities.",
        expected="logits that are a multiple of the LM head's product with the last hidden "
        "state, the same in training and in evaluation",
        found=f"{path!r}: {found}",
        todo="use a Llama-, Qwen- or Mistral-like model",
    )
