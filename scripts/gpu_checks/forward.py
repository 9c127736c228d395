"""The learner's forward and backward on this device against the same in float32 on the CPU, there
sequence by sequence; and its training mode against the model's own logits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gpu_checks.models import model_config, pocket, save_model
from gpu_checks.record import Record, Setting, relative

SHAPES = ("tiny", "tiny Qwen2", "tiny Mistral")
WAYS = (("never", False), ("always", False), ("always", True))
"""`learner.share_prompts`, and whether activations are recomputed in the backward pass."""
TEMPERATURE = 0.8
ROOM = {"float32": (1e-4, 1e-4), "bfloat16": (0.1, 0.1)}
"""Mean error of log-probabilities in nats, relative error of the gradient."""
Sequences = list[tuple[tuple[int, ...], tuple[int, ...]]]


def forward(setting: Setting, record: Record) -> None:
    for dtype in ("float32", "bfloat16"):
        with record.caught(f"training and evaluation {dtype}"):
            own_logits(setting, record, dtype)
    sequences = prompts_and_responses()
    for shape in SHAPES[: 1 if setting.quick else 3]:
        folder = setting.scratch / f"forward {shape}"
        save_model(folder, model_config(shape), torch.float32, torch.device("cpu"))
        expected = computed(folder, torch.device("cpu"), "float32", "never", sequences)
        for dtype in ROOM:
            for share, recomputed in WAYS[2 if setting.quick else 0 :]:
                name = f"{shape} {dtype} share_prompts={share}"
                name += " recomputed" if recomputed else ""
                with record.caught(name):
                    found = computed(folder, setting.device, dtype, share, sequences, recomputed)
                    compare(record, name, dtype, found, expected)


def prompts_and_responses() -> Sequences:
    """Of many lengths, four responses to each prompt."""
    generator = torch.Generator().manual_seed(2)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 300, (count,), generator=generator).tolist())

    prompts = [tokens(count) for count in (1, 17, 140)]
    return [(p, tokens(n)) for i, p in enumerate(prompts) for n in (1, 5, 33 + i, 90)]


def computed(
    folder: Path,
    device: torch.device,
    dtype: str,
    share: str,
    sequences: Sequences,
    recomputed: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities of all response tokens, gradient of a weighted sum of them)."""
    from mgsrl.config.policy import PolicyConfig
    from mgsrl.data.token_row import lay_out
    from mgsrl.learner.policy import load_forward

    config = PolicyConfig(path=str(folder))
    model: Any = load_forward(config, getattr(torch, dtype), share).to(device).train()
    if recomputed:
        model.policy.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    row_T, layout = lay_out(sequences)
    mask_BL = torch.nn.utils.rnn.pad_sequence(
        [torch.ones(len(response)) for _, response in sequences], batch_first=True
    ).to(device)
    logprobs_BL, _ = model(row_T.to(device), layout, mask_BL, TEMPERATURE)
    found_T = logprobs_BL[mask_BL > 0]
    weights_T = torch.linspace(-1.0, 2.0, len(found_T), device=device)
    trained = [p for p in model.parameters() if p.requires_grad]
    parts: Sequence[torch.Tensor] = torch.autograd.grad((found_T * weights_T).sum(), trained)
    gradient_N = torch.cat([part.flatten().float().cpu() for part in parts])
    return found_T.detach().cpu(), gradient_N


def compare(
    record: Record,
    name: str,
    dtype: str,
    found: tuple[torch.Tensor, torch.Tensor],
    expected: tuple[torch.Tensor, torch.Tensor],
) -> None:
    nats, share = ROOM[dtype]
    error = (found[0] - expected[0]).abs().mean().item()
    record.at_most(f"{name}: log-probabilities, mean", error, nats, "nats")
    record.at_most(f"{name}: gradient", relative(found[1], expected[1]), share)


def own_logits(setting: Setting, record: Record, dtype: str) -> None:
    """The learner's forward in training mode against the model's own logits in evaluation."""
    from mgsrl.config.model_load import load_causal_lm
    from mgsrl.config.policy import PolicyConfig
    from mgsrl.data.token_row import lay_out
    from mgsrl.learner.policy import load_forward

    kind = getattr(torch, dtype)
    model = load_forward(PolicyConfig(path=pocket()), kind).to(setting.device).train()
    own = load_causal_lm(pocket(), kind, trust_remote_code=False).to(setting.device).eval()
    torch.manual_seed(1)
    tokens_BL = torch.randint(3, own.config.vocab_size, (4, 61))
    row_T, layout = lay_out([(tuple(t[:20]), tuple(t[20:])) for t in tokens_BL.tolist()])
    mask_BL = torch.ones(4, 41, device=setting.device)
    with torch.no_grad():
        found_BL, _ = model(row_T.to(setting.device), layout, mask_BL, 1.0)
        logits = own(input_ids=tokens_BL.to(setting.device)).logits[:, 19:-1].float()
    targets_BL1 = tokens_BL[:, 20:, None].to(setting.device)
    expected_BL = torch.log_softmax(logits, -1).gather(2, targets_BL1).squeeze(2)
    error = (found_BL - expected_BL).abs().mean().item()
    name = f"training against evaluation {dtype}, mean"
    record.at_most(name, error, ROOM[dtype][0], "nats")
