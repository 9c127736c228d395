"""The DeepSpeed engine of one rank, as this project uses it.

Every micro-step is a gradient-accumulation boundary: DeepSpeed reduces and partitions the
gradient at once, and `domain_grads.py` adds it to the domain's own fp32 row. So there is no
accumulation state inside DeepSpeed, and its extra memory is one reduced gradient, not one per
domain. `engine.step()` clips by the global norm and steps as usual.

Left out: loading under `deepspeed.zero.Init`. Every rank loads the whole model into CPU memory
first, and `initialize` moves it to the GPU before it partitions it: the compute weights (2 bytes
per parameter in bfloat16) must fit one GPU once, at the start.
"""

from typing import Any

import torch
from torch import nn

from mgsrl.cluster.memory import MAX_BUCKET
from mgsrl.config.learner import LearnerConfig


def deepspeed_config(config: LearnerConfig, num_parameters: int, device: str) -> dict[str, Any]:
    """DeepSpeed's JSON for one learner."""
    bf16 = config.dtype == "bfloat16"
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "reduce_bucket_size": reduction_bucket(config, num_parameters),
        # Alone there is nothing to scatter, and a full reduction copies nothing.
        "reduce_scatter": config.world_size > 1,
        "round_robin_gradients": False,
    }
    if config.zero_stage < 3:
        zero["allgather_bucket_size"] = MAX_BUCKET
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device == "cuda"}
    # With fp32 accumulation DeepSpeed's stage 1 would switch to another optimizer class. Each
    # micro-step's gradient is bfloat16 anyway; what adds up does so in our fp32 rows.
    accumulation = "bf16" if bf16 and config.zero_stage == 1 else "fp32"
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.max_grad_norm,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": accumulation},
        "bf16": {"enabled": bf16},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 40,
    }


def reduction_bucket(config: LearnerConfig, num_parameters: int) -> int:
    """Elements that ZeRO gathers before it reduces them. ZeRO 2 takes what does not fit as it is:
    with one element every gradient, which spares a single rank the bucket and a copy."""
    if config.world_size == 1 and config.zero_stage == 2:
        return 1
    return min(MAX_BUCKET, max(num_parameters, 1024))


def make_engine(model: nn.Module, config: LearnerConfig, device: str) -> Any:
    """Wrap `model` (all ranks hold equal weights) in a DeepSpeed engine with AdamW."""
    import deepspeed

    trainable = [p for p in model.parameters() if p.requires_grad]
    opt = config.optimizer
    optimizer = torch.optim.AdamW(
        trainable,
        lr=opt.lr,
        betas=(opt.beta1, opt.beta2),
        eps=opt.eps,
        weight_decay=opt.weight_decay,
        fused=True,
    )
    num_parameters = sum(p.numel() for p in trainable)
    engine, _, _, _ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config=deepspeed_config(config, num_parameters, device),
        dist_init_required=False,
    )
    engine.train()
    return engine


def set_learning_rate(engine: Any, lr: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
