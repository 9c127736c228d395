"""The training loop: one batch of rollouts after the other, whatever the strategy or the engine.

Baselines are choices of schedule and surgery method, never a second loop. What each line does is
one room of the package, in the order of the design's "one prompt's walk".
"""

from mgsrl.algo.advantages import with_advantages
from mgsrl.training.run import Run


def train(run: Run) -> None:
    """Train from where `run` stands (a fresh start or a checkpoint) to its last step."""
    run.restore()
    run.publish_weights()
    run.evaluate_if_due()
    while run.step < run.num_steps:
        run.enter_phase()
        with run.stage("rollout"):
            run.submit_prompts()  # of this step, and of the next `rollout.staleness`
            groups = run.collect_groups()  # of this step, {domain: [RolloutGroup]}
        with run.stage("reward"):
            groups = run.score(groups)
        groups = run.refill(groups)  # where `algo.refill` gives dead groups' places to others
        groups = with_advantages(groups, run.algos)
        batch = run.pack(groups)  # domain-pure micro-batches for every rank
        with run.stage("logprob"):
            run.turns.learn()  # engines on the learners' GPUs sleep until `publish_weights`
            run.learners.load_batch(batch)
        outcomes = []
        for _ in range(run.updates_per_batch):
            with run.stage("backward"):  # forward, loss, backward; each domain's own shards
                losses = {domain: run.learners.accumulate(domain) for domain in batch.domains}
            run.probe_steps_if_due()  # what steps on a domain do to the others; taken back
            with run.stage("surgery"):  # Gramian per module -> weights -> one gradient
                report = run.learners.resolve_conflicts(run.step)
            with run.stage("step"):
                outcomes.append(run.update())
        run.step += 1
        with run.stage("rollout"):
            run.settle_rollouts()  # what was begun with a version of the weights ends with it
        with run.stage("sync"):
            run.publish_weights(groups)
        run.after_step(groups, losses, report, outcomes)
    run.finish()
