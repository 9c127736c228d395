"""Five steps of the bundled run, engine and learner on one device."""

import importlib.util
import statistics

from gpu_checks.record import Record, Setting

STEPS = 5


def run(setting: Setting, record: Record) -> None:
    import mgsrl

    engine = "vllm" if importlib.util.find_spec("vllm") else "transformers"
    record.measure("engine", engine)
    overrides = [
        "placement=colocated",
        f"train.num_steps={STEPS}",
        f"rollout.engine={engine}",
        f"run.dir={setting.scratch / 'run'}",
        "checkpoint.every=0",
        "evaluate.prompts_per_domain=0",
        "trackers.wandb=disabled",
        "trackers.console=false",
    ]
    if setting.on_gpu:
        overrides += ["learner.device=cuda", "learner.dtype=bfloat16", "rollout.dtype=bfloat16"]
    rows = mgsrl.train(overrides).metrics
    record.equal("steps", list(rows.index), list(range(1, STEPS + 1)))
    record.at_most("skipped steps", float(rows["skipped"].sum()), 0)
    limit = 0.1 if setting.on_gpu else 1e-3
    record.at_most("canary, worst", float(rows["sync/canary_error"].max()), limit, "nats")
    for domain in ("math", "chat", "instruction_following"):
        mismatch = float(rows[f"mismatch/{domain}"].max())
        record.at_most(f"engine against learner in {domain}, worst", mismatch, limit, "nats")
    for column in sorted(c for c in rows if c.startswith("time/")):
        record.measure(f"{column}, median", statistics.median(rows[column][1:]), "s")
