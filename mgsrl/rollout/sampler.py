"""Prompts -> groups of responses, from whichever rollout workers are assigned to the domain.

Every request has a seed made from (run seed, purpose, step, domain, prompt, sample index) alone,
so a response does not depend on which worker makes it, on the order of the batches, or on
whether a worker died half-way and the batch was done again.

`submit` has a step's responses made in the background, steps in the order in which they were
submitted, and `collect` waits for them: between the two the learners may work on an earlier step.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from mgsrl.cluster.pool import ActorPool
from mgsrl.config.data import DomainConfig
from mgsrl.config.rollout import RolloutConfig
from mgsrl.errors import InvariantError, WorkerDiedError
from mgsrl.rollout.revival import Revival
from mgsrl.types import GenerationRequest, Prompt, Rollout, RolloutGroup, Sampling

BATCHES_PER_WORKER = 3
"""With several workers, each is dealt about so many batches: enough for the idle to pull work
from the slow, few enough for vLLM to keep its batches full."""
LIMIT_KEY = "rollout.time_limit_s"
EVALUATION_STEP = -1
"""Step in the seeds of evaluations: all evaluations of a run share their random numbers, so
that before and after differ by the policy and not by luck."""

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


class Sampler:
    """Rollouts from pools of workers.

    Args:
        pools: worker pool by domain; domains may share one pool object.
        sampling: settings by domain (see `training_sampling`).
        samples_per_prompt: group size G.
        seed: the run's seed.
        limit_s: longest wait for one batch of one worker, in seconds.
        send_weights: sends them to a worker that was made anew; called in the loop's thread only.
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
        self._revival = Revival(send_weights)
        if send_weights is not None:
            for pool in self.distinct_pools:
                pool.on_restart = self._revival
        self._background = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self.outstanding: dict[int, Submission] = {}
        """By step, in the order in which they were submitted: what is not collected."""
        self._work: dict[int, tuple[Future[Groups], _Progress]] = {}

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
        if step in self.outstanding:
            raise InvariantError(f"step {step} was submitted before and is not collected")
        kept = {domain: list(of_domain) for domain, of_domain in prompts.items()}
        submission = Submission(kept, self.samples_per_prompt, {r.request_id: r for r in made})
        self.outstanding[step] = submission
        if len(made) == submission.samples * sum(map(len, kept.values())):
            future = Future[Groups]()
            future.set_result(self._grouped(kept, submission.samples, step, submission.made))
            self._work[step] = future, _Progress(len(made))
        else:
            self._work[step] = self._begin(kept, self.sampling, submission.samples, step)

    def collect(self, step: int, on_progress: OnProgress | None = None) -> Groups:
        """Wait for what was submitted; domains and prompts keep their order.

        Raises:
            WorkerDiedError: a worker died more often than `rollout.max_restarts`.
        """
        self.wait(step, on_progress)
        del self.outstanding[step]
        groups = self._work.pop(step)[0].result()
        versions = {
            rollout.weight_version
            for domain in groups.values()
            for group in domain
            for rollout in group.rollouts
        }
        if versions and max(versions) - min(versions) > self.staleness:
            raise InvariantError(f"rollouts of one step have weight versions {sorted(versions)}")
        return groups

    def wait(self, step: int, on_progress: OnProgress | None = None) -> None:
        """Wait until all of a step's responses are made, and keep them for `collect`."""
        self._result(*self._work[step], on_progress)

    def gather(self) -> dict[int, Submission]:
        """All that is outstanding, with the responses that are made by now."""
        for step, (work, _) in self._work.items():
            if work.done():
                of_step = [group for of_domain in work.result().values() for group in of_domain]
                made = {r.request_id: r for group in of_step for r in group.rollouts}
                self.outstanding[step].made = made
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
        every evaluation of the run.
        """
        settings = {**self.sampling, **(sampling or {})}
        begun = self._begin(prompts, settings, samples_per_prompt, EVALUATION_STEP)
        return self._result(*begun, on_progress)

    def replace(self, handle: Any, reason: str) -> None:
        """Make one worker anew and send it weights (through its pool's `on_restart`); nothing if
        the background did so already."""
        for pool in self.distinct_pools:
            if handle in pool.handles:
                pool.replace(handle, WorkerDiedError(reason))

    def stop(self) -> None:
        """Stop the workers, and what waits for them; safe to call twice."""
        for pool in self.distinct_pools:
            pool.stop()
        self._revival.stop()
        self._background.shutdown(wait=False, cancel_futures=True)

    def _begin(
        self,
        prompts: Mapping[str, Sequence[Prompt]],
        sampling: Mapping[str, Sampling],
        samples: int,
        step: int,
    ) -> "tuple[Future[Groups], _Progress]":
        progress = _Progress(samples * sum(map(len, prompts.values())))
        work = self._background.submit(self._groups, prompts, sampling, samples, step, progress)
        return work, progress

    def _result(
        self, work: "Future[Groups]", progress: "_Progress", on_progress: OnProgress | None = None
    ) -> Groups:
        progress.report = on_progress
        try:
            self._revival.wait(work)
            return work.result()
        except BaseException:  # Ctrl-C must not wait for what the workers are busy with
            self.stop()
            raise

    def _groups(
        self,
        prompts: Mapping[str, Sequence[Prompt]],
        sampling: Mapping[str, Sampling],
        samples: int,
        step: int,
        progress: "_Progress",
    ) -> Groups:
        requests = {
            domain: [
                self._request(prompt, sampling[domain], step, sample)
                for prompt in of_domain
                for sample in range(samples)
            ]
            for domain, of_domain in prompts.items()
        }
        made = {
            rollout.request_id: rollout
            for of_domain in self._generate(requests, samples, progress).values()
            for rollout in of_domain
        }
        return self._grouped(prompts, samples, step, made)

    @staticmethod
    def _grouped(
        prompts: Mapping[str, Sequence[Prompt]],
        samples: int,
        step: int,
        made: Mapping[str, Rollout],
    ) -> Groups:
        return {
            domain: [
                RolloutGroup(
                    prompt,
                    tuple(made[_request_id(step, prompt, sample)] for sample in range(samples)),
                )
                for prompt in of_domain
            ]
            for domain, of_domain in prompts.items()
        }

    def _request(
        self, prompt: Prompt, sampling: Sampling, step: int, sample: int
    ) -> GenerationRequest:
        seed = request_seed(self.seed, step, f"{prompt.domain}/{prompt.id}", sample)
        id_ = _request_id(step, prompt, sample)
        return GenerationRequest(id_, prompt.token_ids, seed, sampling)

    def _generate(
        self,
        requests: Mapping[str, list[GenerationRequest]],
        samples: int,
        progress: "_Progress",
    ) -> dict[str, list[Rollout]]:
        """Send every pool its domains' requests, all pools at once."""
        by_pool: dict[int, list[str]] = {}
        for domain, of_domain in requests.items():
            if of_domain:
                by_pool.setdefault(id(self.pools[domain]), []).append(domain)
        threads = ThreadPoolExecutor(max(1, len(by_pool)), thread_name_prefix="rollout")
        try:
            waiting = [
                threads.submit(self._run_pool, domains, requests, samples, progress)
                for domains in by_pool.values()
            ]
            done = {id_: rollout for future in waiting for id_, rollout in future.result().items()}
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
        return {
            domain: [done[request.id] for request in of_domain]
            for domain, of_domain in requests.items()
        }

    def _run_pool(
        self,
        domains: Sequence[str],
        requests: Mapping[str, list[GenerationRequest]],
        samples: int,
        progress: "_Progress",
    ) -> dict[str, Rollout]:
        pool = self.pools[domains[0]]
        mine = [request for domain in domains for request in requests[domain]]
        batches = split_batches(mine, samples, len(pool.handles))
        seen = 0

        def on_done(done: int, _total: int) -> None:
            nonlocal seen
            progress.add((done - seen) * len(mine) // len(batches))
            seen = done

        results = pool.map(
            "generate",
            [(batch,) for batch in batches],
            limit_s=self.limit_s,
            limit_key=LIMIT_KEY,
            on_done=on_done,
        )
        rollouts = [rollout for result in results for rollout in result]
        return {rollout.request_id: rollout for rollout in rollouts}


def _request_id(step: int, prompt: Prompt, sample: int) -> str:
    """Unique among all that are under way: a prompt may come again before it is answered."""
    return f"{step}/{prompt.domain}/{prompt.id}/{sample}"


class _Progress:
    """Adds up the responses of pools that work in parallel (rounded; a display, not a count)."""

    report: OnProgress | None = None
    """Of whoever waits for them."""

    def __init__(self, total: int) -> None:
        self.done = 0
        self.total = total

    def add(self, responses: int) -> None:
        self.done += responses
        if self.report is not None:
            self.report(min(self.done, self.total), self.total)


def split_batches(
    requests: Sequence[GenerationRequest], samples: int, num_workers: int
) -> list[list[GenerationRequest]]:
    """Deal requests into batches for idle workers to pull; one worker gets all in one batch.

    The samples of one prompt stay together (they share their prefix in the KV cache). Groups
    are dealt from the largest expected work (prompt plus response limit) down, each to the
    batch with the least so far, so batches come out balanced. Deterministic.
    """
    if num_workers == 1 or not requests:
        return [list(requests)] if requests else []
    groups = [list(requests[i : i + samples]) for i in range(0, len(requests), samples)]
    work = [sum(len(r.token_ids) + r.sampling.max_new_tokens for r in group) for group in groups]
    count = min(len(groups), num_workers * BATCHES_PER_WORKER)
    batches: list[list[GenerationRequest]] = [[] for _ in range(count)]
    load = [0] * count
    for index in sorted(range(len(groups)), key=lambda i: (-work[i], i)):
        lightest = min(range(count), key=lambda batch: (load[batch], batch))
        batches[lightest].extend(groups[index])
        load[lightest] += work[index]
    return batches
