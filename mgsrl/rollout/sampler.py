"""Prompts -> groups of responses, from whichever rollout workers are assigned to the domain.

Every request has a seed made from (run seed, purpose, step, domain, prompt, sample index) alone,
so a response does not depend on which worker makes it, on what is made beside it, or on whether a
worker died half-way and it was asked for again.

Rollouts of several steps may be under way (`submit`, `collect`), with new weights in between;
`rollout` is one step from end to end. An evaluation goes before whatever waits.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mgsrl.cluster.pool import ActorPool
from mgsrl.config.data import DomainConfig
from mgsrl.config.rollout import RolloutConfig
from mgsrl.errors import InvariantError, WorkerDiedError
from mgsrl.rollout.dispatch import Dispatcher, Order
from mgsrl.types import GenerationRequest, Prompt, Rollout, RolloutGroup, Sampling

EVALUATION_STEP = -1
"""Step in the seeds of evaluations: all evaluations of a run share their random numbers, so
that before and after differ by the policy and not by luck."""

LENGTH_WEIGHT = 0.3
"""Of the newest step in the running mean of response lengths."""

OnProgress = Callable[[int, int], None]
"""(responses done, responses in all)"""
Groups = dict[str, list[RolloutGroup]]
"""By domain."""


def request_seed(run_seed: int, step: int, prompt_id: str, sample: int) -> int:
    """A 63-bit seed, the same on every machine and Python version (BLAKE2b, not `hash()`)."""
    key = f"{run_seed}\x1f{step}\x1f{prompt_id}\x1f{sample}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def training_sampling(
    config: RolloutConfig, domains: Mapping[str, DomainConfig]
) -> dict[str, Sampling]:
    """The sampling settings of each domain: its own where set, else the rollout group's.

    That they can be trained with (top_p = 1, temperature > 0) was checked with the configuration.
    """
    settings = {}
    for name, domain in domains.items():
        top_p = config.top_p if domain.top_p is None else domain.top_p
        temperature = config.temperature if domain.temperature is None else domain.temperature
        limit = config.max_new_tokens if domain.max_new_tokens is None else domain.max_new_tokens
        settings[name] = Sampling(temperature, limit, top_p)
    return settings


@dataclass
class Submission:
    """Prompts of one step, and what came of them so far."""

    prompts: dict[str, list[Prompt]]
    samples: int
    made: dict[str, Rollout] = field(default_factory=dict)
    """By request id."""

    @property
    def total(self) -> int:
        """Responses; a prompt that comes twice has the same ones."""
        return self.samples * sum(len({p.id for p in of}) for of in self.prompts.values())


class Sampler:
    """Rollouts from pools of workers.

    Args:
        pools: worker pool by domain; domains may share one pool object.
        sampling: settings by domain (see `training_sampling`).
        samples_per_prompt: group size G.
        seed: the run's seed.
        limit_s: longest time in which a worker with requests finishes none, in seconds.
        send_weights: sends the current ones to a worker that was made anew. Called by `submit`,
            `collect`, `evaluate` and `replace`, in their thread.
        staleness: steps by which the weights of one step's responses may differ.
    """

    def __init__(
        self,
        pools: Mapping[str, ActorPool],
        sampling: Mapping[str, Sampling],
        *,
        samples_per_prompt: int,
        seed: int,
        limit_s: float,
        send_weights: Callable[[Any], None] | None = None,
        staleness: int = 0,
    ) -> None:
        self.pools = dict(pools)
        self.sampling = dict(sampling)
        self.samples_per_prompt = samples_per_prompt
        self.seed = seed
        self.limit_s = limit_s
        self.staleness = staleness
        for pool in self.distinct_pools:
            pool.on_restart = send_weights
        self.lengths: dict[str, float] = {}
        """Response length by domain, a running mean over steps: decides which worker makes what,
        and so is kept with checkpoints."""
        self.outstanding: dict[int, Submission] = {}
        """By step, in the order in which they were submitted: what is not collected."""
        self._dispatcher = Dispatcher(self.distinct_pools, limit_s)

    @property
    def distinct_pools(self) -> list[ActorPool]:
        """Each pool once, in the order of the domains."""
        return list({id(pool): pool for pool in self.pools.values()}.values())

    @property
    def handles(self) -> list[Any]:
        """All rollout actors, each once: where weights must go."""
        return [handle for pool in self.distinct_pools for handle in pool.handles]

    def wait_ready(self) -> list[dict[str, Any]]:
        """Wait until every worker is up; what their `ready()` said, in the order of `handles`."""
        return [facts for pool in self.distinct_pools for facts in pool.wait_ready()]

    def rollout(
        self,
        prompts: Mapping[str, Sequence[Prompt]],
        step: int,
        on_progress: OnProgress | None = None,
    ) -> Groups:
        """`submit` and `collect`, one after the other."""
        self.submit(prompts, step)
        return self.collect(step, on_progress)

    def submit(
        self, prompts: Mapping[str, Sequence[Prompt]], step: int, made: Sequence[Rollout] = ()
    ) -> None:
        """Ask for `samples_per_prompt` responses to every prompt; returns at once.

        Args:
            made: responses that need not be made again: `Submission.made` of a checkpoint.
        """
        known = {rollout.request_id: rollout for rollout in made}
        self._submit(prompts, step, self.sampling, self.samples_per_prompt, known)

    def collect(self, step: int, on_progress: OnProgress | None = None) -> Groups:
        """Wait for what was submitted; domains and prompts keep their order.

        Raises:
            WorkerDiedError: a worker died more often than `rollout.max_restarts`.
        """
        self.wait(step, on_progress)
        groups = self._take(step)
        self._check_versions(groups)
        for domain, of_domain in groups.items():
            lengths = [len(r.token_ids) for group in of_domain for r in group.rollouts]
            if lengths:
                mean = sum(lengths) / len(lengths)
                old = self.lengths.get(domain, mean)
                self.lengths[domain] = old + LENGTH_WEIGHT * (mean - old)
        return groups

    def wait(
        self,
        step: int,
        on_progress: OnProgress | None = None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until all of a step's responses are made, and keep them for `collect`.

        Args:
            give_up: asked once a second; true ends the wait.
        """
        submission = self.outstanding[step]

        def keep(rollouts: Sequence[Rollout]) -> None:
            self._keep(rollouts)
            if on_progress is not None:
                on_progress(len(submission.made), submission.total)

        keep([])  # what came while nobody waited for it
        self._dispatcher.receive(step, keep, give_up)

    def gather(self) -> dict[int, Submission]:
        """All that is outstanding, with the responses that are made by now."""
        self._dispatcher.gather(self._keep)
        return self.outstanding

    def evaluate(
        self,
        prompts: Mapping[str, Sequence[Prompt]],
        sampling: Mapping[str, Sampling] | None = None,
        *,
        samples_per_prompt: int = 1,
        on_progress: OnProgress | None = None,
    ) -> Groups:
        """Responses for evaluation: any `top_p`, temperature 0 (greedy) allowed.

        The weights are those last published. The seeds are a stream of their own, the same at
        every evaluation of the run. They are made before whatever waits.
        """
        settings = {**self.sampling, **(sampling or {})}
        self._submit(prompts, EVALUATION_STEP, settings, samples_per_prompt, {})
        self.wait(EVALUATION_STEP, on_progress)
        return self._take(EVALUATION_STEP)

    def busy_share(self) -> float:
        """Share of the time since this was asked before in which the engines worked."""
        return self._dispatcher.busy_share()

    def replace(self, handle: Any, reason: str) -> None:
        """Make one worker anew and send it weights."""
        pool = next(pool for pool in self.distinct_pools if handle in pool.handles)
        pool.replace(handle, WorkerDiedError(reason))

    def stop(self) -> None:
        for pool in self.distinct_pools:
            pool.stop()

    def _submit(
        self,
        prompts: Mapping[str, Sequence[Prompt]],
        step: int,
        sampling: Mapping[str, Sampling],
        samples: int,
        made: Mapping[str, Rollout],
    ) -> None:
        if step in self.outstanding:
            raise InvariantError(f"step {step} was submitted before and is not collected")
        kept = {domain: list(of_domain) for domain, of_domain in prompts.items()}
        submission = self.outstanding[step] = Submission(kept, samples)
        orders: dict[int, list[Order]] = {}
        for domain, of_domain in kept.items():
            limit = sampling[domain].max_new_tokens
            tokens = min(self.lengths.get(domain, limit), limit)
            for prompt in {prompt.id: prompt for prompt in of_domain}.values():
                requests = [
                    self._request(prompt, sampling[domain], step, sample)
                    for sample in range(samples)
                ]
                submission.made |= {r.id: made[r.id] for r in requests if r.id in made}
                if missing := tuple(r for r in requests if r.id not in made):
                    order = Order(step, missing, tokens, urgent=step == EVALUATION_STEP)
                    orders.setdefault(id(self.pools[domain]), []).append(order)
        for pool in self.distinct_pools:
            self._dispatcher.send(pool, orders.get(id(pool), []))

    def _check_versions(self, groups: Groups) -> None:
        """InvariantError unless the weights of one step's responses are near enough."""
        versions = {
            version
            for of_domain in groups.values()
            for group in of_domain
            for rollout in group.rollouts
            for version, _ in rollout.weight_versions
        }
        if versions and max(versions) - min(versions) > self.staleness:
            raise InvariantError(f"rollouts of one step have weight versions {sorted(versions)}")

    def _request(
        self, prompt: Prompt, sampling: Sampling, step: int, sample: int
    ) -> GenerationRequest:
        seed = request_seed(self.seed, step, f"{prompt.domain}/{prompt.id}", sample)
        id_ = _request_id(step, prompt, sample)
        return GenerationRequest(id_, prompt.token_ids, seed, sampling)

    def _keep(self, rollouts: Sequence[Rollout]) -> None:
        for rollout in rollouts:
            step = int(rollout.request_id.partition("/")[0])
            self.outstanding[step].made[rollout.request_id] = rollout

    def _take(self, step: int) -> Groups:
        submission = self.outstanding.pop(step)
        return {
            domain: [
                RolloutGroup(
                    prompt,
                    tuple(
                        submission.made[_request_id(step, prompt, sample)]
                        for sample in range(submission.samples)
                    ),
                )
                for prompt in of_domain
            ]
            for domain, of_domain in submission.prompts.items()
        }


def _request_id(step: int, prompt: Prompt, sample: int) -> str:
    """Unique among all that are under way: a prompt may come again before it is answered."""
    return f"{step}/{prompt.domain}/{prompt.id}/{sample}"
