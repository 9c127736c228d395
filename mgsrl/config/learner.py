"""DeepSpeed-ZeRO learners: parallelism, precision, optimizer and learning-rate schedule."""

from dataclasses import dataclass, field

from mgsrl.config.require import at_least, less_than, more_than, one_of, seconds, within

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16")
SHARING = ("auto", "always", "never")
SCHEDULES = ("constant", "linear", "cosine")


@dataclass
class OptimizerConfig:
    lr: float = 1e-6
    """Peak learning rate of AdamW."""
    beta1: float = 0.9
    """Decay of the mean of the gradients."""
    beta2: float = 0.999
    """Decay of the mean of their squares."""
    eps: float = 1e-8
    """Added to the root of that mean."""
    weight_decay: float = 0.01
    """Decoupled decay, times the learning rate, of all parameters."""
    warmup_steps: int = 0
    """Steps of linear warm-up from lr / warmup_steps."""
    schedule: str = "constant"
    """After the warm-up: `constant`, `linear` to 0 or `cosine` to 0 at `train.num_steps`."""
    max_grad_norm: float = 1.0
    """Global-norm clip of the resolved gradient; 0 switches it off."""

    def validate(self) -> None:
        at_least("learner.optimizer.lr", self.lr, 0.0)
        for key in ("beta1", "beta2"):
            at_least(f"learner.optimizer.{key}", getattr(self, key), 0.0)
            less_than(f"learner.optimizer.{key}", getattr(self, key), 1.0)
        more_than("learner.optimizer.eps", self.eps, 0)
        at_least("learner.optimizer.weight_decay", self.weight_decay, 0.0)
        at_least("learner.optimizer.warmup_steps", self.warmup_steps, 0)
        at_least("learner.optimizer.max_grad_norm", self.max_grad_norm, 0.0)
        one_of("learner.optimizer.schedule", self.schedule, SCHEDULES)


@dataclass
class LearnerConfig:
    world_size: int = 1
    """Learner actors, one torch rank (and one GPU, if there are any) each."""
    zero_stage: int = 2
    """DeepSpeed ZeRO stage 0, 1, 2 or 3."""
    device: str = "auto"
    """`cuda` (NCCL), `cpu` (gloo) or `auto`."""
    dtype: str = "float32"
    """Compute: `float32`, or `bfloat16` with fp32 master weights and fp32 domain gradients."""
    micro_batch_size: int = 16
    """Sequences per rank and micro-step, at most; changes speed and memory, never the update."""
    tokens_per_micro_batch: int | None = None
    """Tokens per rank and micro-step instead of `micro_batch_size` sequences (which has no effect
    then): many short responses at once, or few long ones. At least the longest prompt and
    response; null counts sequences."""
    share_prompts: str = "auto"
    """Compute a prompt once for all its responses of a micro-batch, in rows without padding:
    `auto` with models that can, `always` (or stop), or `never` (padded, each with its prompt)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    offload_optimizer: bool = False
    """Keep the optimizer state in CPU memory (ZeRO offload, GPUs only)."""
    offload_during_rollout: bool = False
    """Move the optimizer's state and the reference to CPU memory while engines use the same GPUs
    (`placement=colocated` only; gradient rows are freed there in any case)."""
    offload_reference: bool = False
    """Keep the reference model in CPU memory, on the GPU only while a batch is scored (GPUs only;
    its size is copied over once a step)."""
    threads_per_rank: int = 0
    """CPU threads of one rank; 0 divides the machine's cores by the ranks on it."""
    assert_purity: bool = True
    """Check at every micro-step that all ranks hold the same domain (one tiny all-reduce)."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    time_limit_s: float = 1800.0
    """Longest wait for one learner call."""
    max_restarts: int = 3
    """Times the run may begin again from its last checkpoint, by itself, within `restart_window`
    steps: after the death of a learner, of a machine, of Ray itself (`cluster.address=local`), or
    a call beyond its time limit. 0: it ends then, and the same command goes on."""
    restart_window: int = 100
    """Steps after which such a restart is forgotten."""

    @property
    def size_note(self) -> str | None:
        """What to say of a micro-batch that is given in sequences and in tokens."""
        if self.tokens_per_micro_batch is None:
            return None
        if self.micro_batch_size == LearnerConfig.micro_batch_size:
            return None
        return (
            f"learner.micro_batch_size={self.micro_batch_size} has no effect: micro-batches are of "
            f"learner.tokens_per_micro_batch={self.tokens_per_micro_batch} (null counts sequences)"
        )

    def validate(self) -> None:
        at_least("learner.world_size", self.world_size, 1)
        within("learner.zero_stage", self.zero_stage, 0, 3)
        one_of("learner.device", self.device, DEVICES)
        one_of("learner.dtype", self.dtype, DTYPES)
        at_least("learner.micro_batch_size", self.micro_batch_size, 1)
        one_of("learner.share_prompts", self.share_prompts, SHARING)
        if self.tokens_per_micro_batch is not None:
            at_least("learner.tokens_per_micro_batch", self.tokens_per_micro_batch, 1)
        at_least("learner.threads_per_rank", self.threads_per_rank, 0)
        seconds("learner.time_limit_s", self.time_limit_s)
        at_least("learner.max_restarts", self.max_restarts, 0)
        at_least("learner.restart_window", self.restart_window, 1)
        self.optimizer.validate()
