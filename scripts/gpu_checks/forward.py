"""The learner's forward pass on this device against the model's own, and against the CPU's."""

import torch

from gpu_checks.models import pocket
from gpu_checks.record import Record, Setting


def forward(setting: Setting, record: Record) -> None:
    for dtype in ("float32", "bfloat16"):
        with record.caught(f"training and evaluation {dtype}"):
            own_logits(setting, record, dtype)


def own_logits(setting: Setting, record: Record, dtype: str) -> None:
    """The learner's forward in training mode against the model's own logits in evaluation."""
    from mgsrl.config.model_load import load_causal_lm
    from mgsrl.config.policy import PolicyConfig
    from mgsrl.data.token_row import lay_out
    from mgsrl.learner.policy import load_forward

    path = pocket()
    config = PolicyConfig(path=path)
    kind = getattr(torch, dtype)
    forward = load_forward(config, kind).to(setting.device).train()
    own = load_causal_lm(path, kind, trust_remote_code=False).to(setting.device).eval()
    torch.manual_seed(1)
    tokens_BL = torch.randint(3, own.config.vocab_size, (4, 61), device=setting.device)
    row_T, layout = lay_out([(row[:20], row[20:]) for row in tokens_BL.tolist()])
    mask_BL = torch.ones(4, 41, device=setting.device)
    with torch.no_grad():
        found_BL, _ = forward(row_T.to(setting.device), layout, mask_BL, 1.0)
        logits = own(input_ids=tokens_BL).logits[:, :-1].float()
    expected_BL = torch.log_softmax(logits, -1).gather(2, tokens_BL[:, 1:, None]).squeeze(2)
    errors = (found_BL - expected_BL[:, 19:]).abs()
    limit = 1e-4 if dtype == "float32" else 0.1
    record.at_most(
        f"training against evaluation {dtype}, mean", errors.mean().item(), limit, "nats"
    )
