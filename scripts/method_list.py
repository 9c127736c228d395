"""Every method that is shipped, a line each: what it sets over the bundled run `pocket_mgs`.

A family is compared with one of its lines, its baseline, from which the others differ in the method
alone. `{single_math}` stands for the folder of that line's run of the same seed.
"""

from dataclasses import dataclass

EXPERIMENT = "+experiment=pocket_mgs"
STEPS = 30
"""Of the experiment. What is cut shorter is a trial, and no row of the table."""
SEEDS = (0, 1)
DOMAINS = ("math", "chat", "instruction_following")

GLOBAL = "surgery.granularity=global"
REFRESH = ("strategy.reset_optimizer=true", "strategy.move_reference=true")
RETURN = (
    "strategy.phases=[{domains:[math]},{domains:[chat]},{domains:[instruction_following]},"
    "{domains:[math],steps:3,reset_optimizer:true},{domains:[chat],steps:3,reset_optimizer:true}]"
)
BONUS = tuple(f"domains.{d}.reward.format_bonus=1" for d in DOMAINS)
TEACHERS = tuple(f"domains.{d}.algo.teacher={{single_{d}}}" for d in DOMAINS)
DISTILLED = tuple(f"domains.{d}.algo.reward_coef=0" for d in DOMAINS)
POINTS = "domains.math.schedule=[[0,1.0],[20,2.0]]"
TWICE = "algo.updates_per_batch=2"
"""Policy losses are one and the same in the first update on a batch."""
OF_SEQUENCES = "algo.aggregation=sequence_mean"
AHEAD = ("rollout.staleness=1", TWICE)
"""The policy that answers is another one than the one that learns."""
MASKS = ("token", "sequence", "geometric")
SOFT = tuple(f"domains.{d}.reward.overlong_buffer=8" for d in DOMAINS)


@dataclass(frozen=True)
class Family:
    title: str
    baseline: str
    """Name of a line, of this family or another."""
    methods: dict[str, tuple[str, ...]]


def _torchjd(*names: str) -> dict[str, tuple[str, ...]]:
    """On the whole gradient, as they were published."""
    return {name: (f"surgery.method={name}", GLOBAL) for name in names}


FAMILIES = (
    Family(
        "Strategies",
        "mgs",
        {
            "mgs": (),
            "mixed": ("strategy=mixed",),
            "global_surgery": ("strategy=global_surgery",),
            "norm_balanced": ("strategy=norm_balanced",),
            "norm_balanced_global": ("strategy=norm_balanced", GLOBAL),
            "normalized_advantage": ("strategy=normalized_advantage",),
            "sequential": ("strategy=sequential",),
            "sequential_refreshed": ("strategy=sequential", *REFRESH),
            "sequential_return": ("strategy=mixed", RETURN),
            **{f"single_{d}": ("strategy=single", f"strategy.domain_order=[{d}]") for d in DOMAINS},
        },
    ),
    Family(
        "Surgery",
        "mgs",
        {
            "parameter": ("surgery.granularity=parameter",),
            "layer": ("surgery.granularity=layer",),
            "all_orders": ("surgery.order=all",),
            "gated": ("surgery.gate=reliable",),
            "protected": ("surgery.protect=math",),
            "gradvac": ("surgery.method=gradvac",),
            "pcgrad_smoothed": ("surgery.method=pcgrad_smoothed",),
            **_torchjd("upgrad", "mgda", "cagrad", "dualproj", "aligned_mtl", "imtl_g"),
            **_torchjd("nash_mtl", "fairgrad", "pcd", "krum", "mean", "random"),
        },
    ),
    Family(
        "Advantages",
        "mgs",
        {
            "dr_grpo": ("algo.normalize_std=false", "algo.aggregation=sequence_sum_norm"),
            "rloo": ("algo.advantage=rloo",),
            "maxrl": ("algo.advantage=maxrl",),
            "reinforce_pp": ("algo.advantage=reinforce_pp",),
            "reinforce_pp_baseline": ("algo.advantage=reinforce_pp_baseline",),
            "best_of_group": ("algo.advantage=best_of_group", "algo.normalize_std=false"),
        },
    ),
    Family(
        "Advantages of composite rewards",
        "format_bonus",
        {"format_bonus": BONUS, "gdpo": ("algo.advantage=gdpo", *BONUS)},
    ),
    Family(
        "Policy losses, two updates on a batch",
        "ppo",
        {
            "ppo": (TWICE,),
            "clip_higher": ("algo.clip_high=0.28", TWICE),
            "dual_clip": ("algo.dual_clip=3", TWICE),
            "gspo": (
                *("algo.loss=gspo", "algo.clip_low=3e-4", "algo.clip_high=4e-4"),
                *(OF_SEQUENCES, TWICE),
            ),
            "gmpo": (
                *("algo.loss=gmpo", "algo.clip_low=0.4", "algo.clip_high=0.4"),
                *(OF_SEQUENCES, TWICE),
            ),
            "cispo": ("algo.loss=cispo", "algo.clip_low=1", "algo.clip_high=0.2", TWICE),
            "sapo": ("algo.loss=sapo", OF_SEQUENCES, TWICE),
            "dppo_tv": ("algo.loss=dppo", "algo.clip_low=0.15", "algo.clip_high=0.15", TWICE),
            "dppo_kl": (
                *("algo.loss=dppo", "algo.divergence=kl", "algo.clip_low=0.05"),
                *("algo.clip_high=0.05", TWICE),
            ),
            "rollouts_ahead": AHEAD,
        },
    ),
    Family(
        "Engine and learner apart: rollouts one step ahead, two updates on a batch",
        "rollouts_ahead",
        {
            "sequence_weights": (*AHEAD, "algo.importance_level=sequence"),
            **{f"{m}_mask": (*AHEAD, f"algo.importance_mask={m}") for m in MASKS},
        },
    ),
    Family(
        "Regularisers and means",
        "mgs",
        {
            "k1": ("algo.kl_estimator=k1",),
            "k2": ("algo.kl_estimator=k2",),
            "no_kl": ("algo.kl_coef=0",),
            "entropy_bonus": ("algo.entropy_coef=0.001",),
            "mean_of_sequences": (OF_SEQUENCES,),
            "own_of_domains": (
                "domains.math.algo.advantage=maxrl",
                "domains.chat.algo.loss=cispo",
                "domains.chat.algo.clip_low=1",
                "domains.chat.algo.kl_coef=0.01",
                "domains.instruction_following.algo.aggregation=sequence_mean",
            ),
        },
    ),
    Family(
        "Prompts and responses",
        "mgs",
        {
            "refill": ("algo.refill=3",),
            "drop_dead": ("algo.dead_group_weight=0",),
            "downweight_dead": ("algo.dead_group_weight=0.5",),
            "mask_overlong": ("algo.mask_overlong=true",),
            "soft_overlong": SOFT,
            "schedule_steps": ("data.curriculum=steps", POINTS),
            "schedule_linear": ("data.curriculum=linear", POINTS),
            "bandit": ("data.curriculum=bandit",),
            "worst_task": ("data.curriculum=worst_task",),
            "transfer": ("data.curriculum=transfer",),
        },
    ),
    Family(
        "Distillation and adapters",
        "mixed",
        {
            "mopd": ("strategy=mixed", "algo.kl_coef=0", *TEACHERS, *DISTILLED),
            "mopd_with_rewards": ("strategy=mixed", "algo.kl_coef=0", *TEACHERS),
            "lora": ("strategy=mixed", "policy.lora.rank=8", "learner.optimizer.lr=2e-3"),
        },
    ),
)
METHODS = {name: words for family in FAMILIES for name, words in family.methods.items()}
