"""Requests on their way to the rollout workers, and their responses on the way back.

A worker gets its whole share of a step at once and its engine is never left with fewer requests
than there are: nothing waits for a batch's longest response. Shares are dealt by the length that
responses of a domain had so far (`deal`), the same in every run: on a CPU the bits of a response
may depend on what is computed beside it.

Everything happens in the caller's thread. A worker found dead or stuck is replaced there too, when
the learners are idle and can send it weights, and what it had not handed over is dealt to the
others. Left out: moving requests from a slow worker to an idle one.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from mgsrl.cluster.pool import ActorPool
from mgsrl.cluster.wait import timed_out, unwrapped
from mgsrl.rollout.running import Taken
from mgsrl.types import GenerationRequest, Rollout

LIMIT_KEY = "rollout.time_limit_s"
NO_STEP = -2
"""Of no request: asked for it, a worker answers at once."""
TAKE_S = 1.0
"""A worker answers after so many seconds, done or not: for the progress display."""


@dataclass(frozen=True, slots=True)
class Order:
    """Samples of one prompt, which stay together: they share their prefix in the KV cache."""

    step: int
    requests: tuple[GenerationRequest, ...]
    tokens: float
    """Expected response tokens of each."""
    urgent: bool = False

    @property
    def work(self) -> float:
        return len(self.requests[0].token_ids) + len(self.requests) * self.tokens


def deal(orders: Sequence[Order], shares: int) -> list[list[Order]]:
    """Orders for each of so many workers, in the order in which to work on them.

    The largest first, each to the worker with the least so far; one worker keeps their order.
    """
    dealt: list[list[Order]] = [[] for _ in range(shares)]
    if shares == 1:
        return [list(orders)]
    load = [0.0] * shares
    for order in sorted(orders, key=lambda order: -order.work):
        lightest = load.index(min(load))
        dealt[lightest].append(order)
        load[lightest] += order.work
    return dealt


@dataclass(eq=False)
class Desk:
    """A worker's place, and what the worker there has been asked for."""

    pool: ActorPool
    slot: int
    handle: Any
    orders: dict[str, Order] = field(default_factory=dict)
    """By request id: what it has not handed over."""
    sent: list[Any] = field(default_factory=list)
    """Calls of `submit` that are not known to have gone well."""
    taking: Any = None
    """The call of `take` under way."""
    heard: float = 0.0
    """When it last handed something over."""
    busy_s: float = 0.0

    def has(self, step: int) -> bool:
        return any(order.step == step for order in self.orders.values())

    def give(self, orders: Iterable[Order]) -> None:
        """Send it requests, those of a step and urgency in one call."""
        parts: dict[tuple[int, bool], list[GenerationRequest]] = {}
        for order in orders:
            parts.setdefault((order.step, order.urgent), []).extend(order.requests)
            self.orders.update((request.id, order) for request in order.requests)
        for (step, urgent), requests in parts.items():
            self.sent.append(self.handle.submit.remote(step, requests, urgent))
        self.heard = time.monotonic()

    def ask(self, step: int) -> Any:
        """The call that answers with responses."""
        if self.taking is None:
            self.taking = self.handle.take.remote(step, TAKE_S)
        return self.taking

    def hear(self, limit_s: float) -> Taken:
        """The answer. Raises what the worker raised, or Ray's error if it died."""
        call, self.taking = self.taking, None
        taken: Taken = ray.get(call, timeout=limit_s)
        known, self.sent = ray.wait(self.sent, num_returns=len(self.sent), timeout=0)
        ray.get(known)
        for rollout in taken.rollouts:
            del self.orders[rollout.request_id]
        if taken.rollouts:
            self.heard = time.monotonic()
        return taken


class Dispatcher:
    """The workers of all pools.

    Args:
        limit_s: longest time in which a worker with requests finishes none; it is replaced then.
    """

    def __init__(self, pools: Sequence[ActorPool], limit_s: float) -> None:
        self._limit_s = limit_s
        self._desks = [
            Desk(pool, slot, handle) for pool in pools for slot, handle in enumerate(pool.handles)
        ]
        self._busy_s = 0.0
        self._asked = time.monotonic()

    def send(self, pool: ActorPool, orders: Sequence[Order]) -> None:
        """Deal orders to the workers of a pool; returns at once."""
        desks = self._of(pool)
        for desk, share in zip(desks, deal(orders, len(desks)), strict=True):
            if share:
                self._renew(desk)
                desk.give(share)

    def receive(
        self,
        step: int,
        on_rollouts: Callable[[Sequence[Rollout]], None],
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until all requests of `step` are answered.

        Args:
            on_rollouts: given all that comes, of any step.
            give_up: asked once a second; true ends the wait.

        Raises:
            WorkerDiedError: a worker died more often than `rollout.max_restarts`.
            Exception: what an engine raised.
        """
        for desk in self._desks:
            desk.heard = time.monotonic()
        while (waiting := [desk for desk in self._desks if desk.has(step)]) and not give_up():
            for desk in waiting:
                self._renew(desk)
            calls = {desk.ask(step): desk for desk in waiting}
            for call in ray.wait(list(calls), timeout=TAKE_S)[0]:
                self._hear(calls[call], on_rollouts)
            for desk in waiting:
                if desk.orders and time.monotonic() - desk.heard > self._limit_s:
                    problem = f"no response was finished for {self._limit_s:.0f} s"
                    self._replace(desk, timed_out(problem, LIMIT_KEY))

    def gather(self, on_rollouts: Callable[[Sequence[Rollout]], None]) -> None:
        """What is done by now, of any step."""
        for desk in self._desks:
            if desk.orders:
                self._renew(desk)
                desk.ask(NO_STEP)
                self._hear(desk, on_rollouts)

    def busy_share(self) -> float:
        """Share of the time since this was asked before in which the engines worked, their mean."""
        now = time.monotonic()
        share = self._busy_s / (len(self._desks) * max(now - self._asked, 1e-9))
        self._busy_s, self._asked = 0.0, now
        return min(share, 1.0)  # what was told late belongs to the time before

    def _of(self, pool: ActorPool) -> list[Desk]:
        return [desk for desk in self._desks if desk.pool is pool]

    def _hear(self, desk: Desk, on_rollouts: Callable[[Sequence[Rollout]], None]) -> None:
        try:
            taken = desk.hear(self._limit_s)
        except RayTaskError as error:
            raise unwrapped(error) from error
        except RayError as error:
            self._replace(desk, error)
            return
        self._busy_s += taken.busy_s - desk.busy_s
        desk.busy_s = taken.busy_s
        if taken.rollouts:
            on_rollouts(taken.rollouts)

    def _replace(self, desk: Desk, reason: Exception) -> None:
        """Its requests go to the others, if there are any, before the worker is made anew."""
        others = [other for other in self._of(desk.pool) if other is not desk]
        orders = self._clear(desk)
        for other, share in zip(others, deal(orders, len(others)) if others else []):
            other.give(share)
        desk.pool.replace(desk.handle, reason)
        desk.handle = desk.pool.handles[desk.slot]
        if not others:
            desk.give(orders)

    def _renew(self, desk: Desk) -> None:
        """Notice that the worker was replaced by somebody else."""
        handle = desk.pool.handles[desk.slot]
        if handle is not desk.handle:
            orders = self._clear(desk)
            desk.handle = handle
            desk.give(orders)

    @staticmethod
    def _clear(desk: Desk) -> list[Order]:
        """Forget all about the worker; what it still owed."""
        orders = []
        for order in dict.fromkeys(desk.orders.values()):
            left = tuple(request for request in order.requests if request.id in desk.orders)
            orders.append(replace(order, requests=left))
        desk.orders, desk.sent, desk.taking, desk.busy_s = {}, [], None, 0.0
        return orders
