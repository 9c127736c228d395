"""The arms of the study on the testbed `pocket_conflict`: a name and what it sets, one line each.

All arms share the experiment, the prompts, the number of responses, the evaluation and the start;
an arm adds its overrides to them. `ARMS` are those that the study began with; methods that joined
afterwards (`LATER`, `MERGED`) are a family of their own, so that their number changes no p value of
the first ones.

`{single_commas}` in an override stands for the folder of that arm's run, of the same seed and
position (`cell_inputs.py`).
"""

from pathlib import Path

from mgsrl.rewards.pocket_conflict import HABITS

EXPERIMENT = "+experiment=pocket_conflict"
STEPS = 30
"""Of the experiment. What is cut shorter is a trial of the arm, and no cell of the study."""
SINGLES = tuple(f"single_{d}" for d in HABITS)
POSITIONS = (0.0, 0.5, 1.0)
BACKWARDS = f"strategy.domain_order=[{','.join(reversed(HABITS))}]"
REFRESH = ("strategy.reset_optimizer=true", "strategy.move_reference=true")

ARMS: dict[str, tuple[str, ...]] = {
    # controls: one domain with the budget of all
    **{f"single_{d}": ("strategy=single", f"strategy.domain_order=[{d}]") for d in HABITS},
    # no surgery
    "mixed": ("strategy=mixed",),
    "normalized_advantage": ("strategy=normalized_advantage",),
    "sequential": ("strategy=sequential",),
    "sequential_backwards": ("strategy=sequential", BACKWARDS),
    # fresh AdamW moments and the current policy as the KL reference in every phase
    "sequential_refresh": ("strategy=sequential", *REFRESH),
    "sequential_backwards_refresh": ("strategy=sequential", BACKWARDS, *REFRESH),
    # surgery by granularity, in a random order of the domains and averaged over all orders
    "global": ("strategy=global_surgery",),
    "global_all": ("strategy=global_surgery", "surgery.order=all"),
    "layer": ("strategy=mgs", "surgery.granularity=layer"),
    "layer_all": ("strategy=mgs", "surgery.granularity=layer", "surgery.order=all"),
    "mgs": ("strategy=mgs",),
    "mgs_all": ("strategy=mgs", "surgery.order=all"),
    "parameter": ("strategy=mgs", "surgery.granularity=parameter"),
    "parameter_all": ("strategy=mgs", "surgery.granularity=parameter", "surgery.order=all"),
    # only conflicts that stand out of the noise
    "mgs_gated": ("strategy=mgs", "surgery.gate=reliable"),
    "global_gated": ("strategy=global_surgery", "surgery.gate=reliable"),
    # another method, on the whole gradient as it was published; one that needs no solver
    "mgda": ("strategy=global_surgery", "surgery.method=mgda"),
}
TEACHERS = [
    f"domains.{d}.algo.{key}"
    for d in HABITS
    for key in (f"teacher={{single_{d}}}", "reward_coef=0")
]
RETURN = [
    *(f"{{domains:[{d}]}}" for d in HABITS),
    *(f"{{domains:[{d}],steps:3,reset_optimizer:true}}" for d in HABITS[:-1]),
]

LATER: dict[str, tuple[str, ...]] = {
    # surgery
    "norm_balanced": ("strategy=norm_balanced",),
    "gradvac": ("strategy=mgs", "surgery.method=gradvac"),
    "pcgrad_smoothed": ("strategy=mgs", "surgery.method=pcgrad_smoothed"),
    # a sequence that returns to the earlier domains at its end, 3 steps each (refresh phases)
    "sequential_return": ("strategy=mixed", f"strategy.phases=[{','.join(RETURN)}]"),
    # domains' shares of a step by how much their advantages say
    "bandit": ("strategy=mixed", "data.curriculum=bandit"),
    # each domain distilled from its single run, without its reward
    "mopd": ("strategy=mixed", "algo.kl_coef=0", *TEACHERS),
}
"""Not in the tables and claims of `ARMS`."""
MERGED = {"merged_mean": "linear", "merged_sum": "task_arithmetic", "merged_ties": "ties"}
"""Arms that train nothing: the single runs' models made one, by a method of `mgsrl merge`."""
EVERY = (*ARMS, *LATER, *MERGED)
MAIN = ("mixed", "normalized_advantage", "global", "mgs")
"""Arms with more seeds."""


def seeds_of(arm: str) -> tuple[int, ...]:
    """8 of the main arms, 5 of the others."""
    return tuple(range(8 if arm in MAIN else 5))


def dial(conflict: float) -> str:
    """The override that sets all three domains' conflict."""
    return f"domains.commas.reward.conflict={conflict:g}"


def overrides_of(arm: str, conflict: float) -> tuple[str, ...]:
    """What `mgsrl train` is called with, but for the seed and the folder."""
    return (EXPERIMENT, dial(conflict), *(ARMS | LATER)[arm])


def place(folder: Path, conflict: float, arm: str) -> Path:
    """Where the runs of an arm are. A merged model has another length and start than what
    `conflict-POSITION/` compares."""
    return folder / f"{'merged' if arm in MERGED else 'conflict'}-{conflict:g}"
