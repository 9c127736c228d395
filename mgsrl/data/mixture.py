"""Which prompts each step trains on: exact quotas per domain, seeded, resumable.

Every domain has its own cursor, so its order does not depend on which other domains take part:
Mixed RL and a sequential phase see the same prompts of a domain in the same order through the
first epoch, and in later ones as long as they take the same number per step. Within an epoch no
prompt comes twice, and a step that spans two epochs holds no prompt twice either: what it took at
the end of one comes last in the next, which is why later orders depend on the number.

A domain may have several sources, each with its own cursor. A step's quota is split between them
by weight, exactly in every batch and over time (`data/apportion.py`).

Left out: weighted sampling (a random share per domain, as in the published code). Quotas that are
exact in every batch make runs comparable and keep every domain in every update.
"""

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from mgsrl.data.apportion import Apportionment
from mgsrl.errors import CheckpointError, ConfigError, DataError, nearest
from mgsrl.types import Prompt


@dataclass(slots=True)
class _Cursor:
    """One source's place. `order` follows from the other fields."""

    prompts: list[Prompt]
    digest: str
    epoch: int = 0
    position: int = 0
    """Prompts of this epoch already given."""
    deferred: list[int] = field(default_factory=list)
    """Prompts that come last in this epoch: the step that began it already held them."""
    order: list[int] = field(default_factory=list)


class Mixture:
    """Draws each step's prompts.

    Args:
        prompts: the prompts by domain, or by source where a domain has several.
        quotas: the most prompts that any step of the run takes, by domain; checked at once, so
            that a later phase cannot fail on it.
        seed: the run's seed; the order of a domain follows from seed, domain and epoch.
        shuffle: false keeps the order of the source in every epoch.
        sources: domain -> its sources (keys of `prompts`) and their weights; a domain that is not
            named has one source, of its own name.

    Raises:
        DataError: a source without prompts, or with fewer than its quota.
    """

    def __init__(
        self,
        prompts: Mapping[str, Sequence[Prompt]],
        quotas: Mapping[str, int],
        seed: int,
        shuffle: bool,
        sources: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self._seed, self._shuffle = seed, shuffle
        named = {domain: dict(weights) for domain, weights in (sources or {}).items()}
        several = {source for weights in named.values() for source in weights}
        self._sources = {name: {name: 1.0} for name in prompts if name not in several} | named
        self._splits: dict[str, Apportionment[str]] = {d: Apportionment() for d in self._sources}
        self._absent: dict[str, Any] = {}
        """Cursors of a checkpoint whose domains or sources do not take part any more."""
        self._cursors: dict[str, _Cursor] = {}
        for domain, weights in self._sources.items():
            for source, weight in weights.items():
                share = quotas.get(domain, 1) * weight / sum(weights.values())
                # A split may be ahead of the exact share by one more prompt.
                most = share if len(weights) == 1 else math.ceil(share) + 1
                _check_quota(source, min(round(most), quotas.get(domain, 1)), len(prompts[source]))
                cursor = _Cursor(list(prompts[source]), _digest(prompts[source]))
                cursor.order = self._order(source, cursor)
                self._cursors[source] = cursor

    def next_prompts(self, quotas: Mapping[str, int]) -> dict[str, list[Prompt]]:
        """The next `quotas[domain]` prompts of each domain named; moves only their cursors.

        Raises:
            ConfigError: a domain that this mixture does not have.
            DataError: a quota larger than the domain's data.
        """
        for domain in quotas:
            if domain not in self._sources:
                raise ConfigError(
                    "A phase names an unknown domain.",
                    expected="a domain of this run",
                    found=repr(domain),
                    todo=nearest(domain, self._sources),
                )
        return {domain: self._take_domain(domain, quota) for domain, quota in quotas.items()}

    def prompts_of(self, domain: str) -> list[Prompt]:
        """All prompts of a domain's sources; none of a domain that does not take part."""
        return [
            prompt
            for source in self._sources.get(domain, ())
            for prompt in self._cursors[source].prompts
        ]

    def peek(self, count: int) -> list[Prompt]:
        """Up to `count` prompts in the order of the sources, the domains in turn; moves nothing.

        The same before and after a resumption.
        """
        firsts = [cursor.prompts[:count] for cursor in self._cursors.values()]
        in_turn = [prompt for turn in zip_longest(*firsts) for prompt in turn if prompt is not None]
        return in_turn[:count]

    def state(self) -> dict[str, Any]:
        """The cursors as JSON, by source."""
        state = {
            source: {
                "epoch": cursor.epoch,
                "position": cursor.position,
                "deferred": list(cursor.deferred),
                "num_prompts": len(cursor.prompts),
                "digest": cursor.digest,
            }
            for source, cursor in self._cursors.items()
        }
        for split in self._splits.values():
            for source, owed in split.owed.items():
                state[source]["owed"] = owed
        return {**self._absent, **state}

    def restore(
        self, state: Mapping[str, Any], others_allowed: Callable[[str], bool] = lambda _: False
    ) -> list[str]:
        """Continue from `state()`.

        A domain or source that the state does not know begins its first epoch, and so does one
        that may have other prompts and has another number of them. What only the state knows is
        kept for a continuation that has it again.

        Args:
            others_allowed: whether a source may have other prompts than it had.

        Returns:
            The sources that have.

        Raises:
            CheckpointError: the state is of other domains altogether, or of other data.
        """
        known = [source for source in self._cursors if source in state]
        if not known:
            raise _foreign(sorted(self._cursors), sorted(state), "domains")
        others = [s for s in known if state[s]["digest"] != self._cursors[s].digest]
        for source in others:
            cursor, saved = self._cursors[source], state[source]
            if not others_allowed(source):
                domain, _, more = source.partition("/")
                key = f"extra_sources.{more}" if more else "source"
                raise _foreign(
                    f"the {saved['num_prompts']} prompts of {source} that the run began with",
                    f"{len(cursor.prompts)} prompts that are not the same",
                    "data",
                    f", or go on with these (resume.allow=[domains.{domain}.{key}])",
                )
        for source in known:
            cursor, saved = self._cursors[source], state[source]
            if source in others and saved["num_prompts"] != len(cursor.prompts):
                continue
            cursor.epoch, cursor.position = saved["epoch"], saved["position"]
            cursor.deferred = list(saved["deferred"])
            cursor.order = self._order(source, cursor)
        for domain, weights in self._sources.items():
            owed = {name: state[name].get("owed", 0.0) for name in weights if name in state}
            self._splits[domain] = Apportionment(owed)
        self._absent = {name: saved for name, saved in state.items() if name not in self._cursors}
        return others

    def _take_domain(self, domain: str, quota: int) -> list[Prompt]:
        split = self._splits[domain].split(quota, self._sources[domain])
        for source, count in split.items():
            _check_quota(source, count, len(self._cursors[source].prompts))
        return [
            prompt
            for source, count in split.items()
            for prompt in self._take(source, self._cursors[source], count)
        ]

    def _take(self, source: str, cursor: _Cursor, quota: int) -> list[Prompt]:
        taken = cursor.order[cursor.position : cursor.position + quota]
        cursor.position += len(taken)
        missing = quota - len(taken)
        if missing:
            cursor.epoch += 1
            # Two copies in one step would get the same sampling seeds, hence the same responses.
            cursor.deferred = taken
            cursor.order = self._order(source, cursor)
            taken = taken + cursor.order[:missing]
            cursor.position = missing
        return [cursor.prompts[index] for index in taken]

    def _order(self, source: str, cursor: _Cursor) -> list[int]:
        order = list(range(len(cursor.prompts)))
        if self._shuffle:
            # random.Random with a string seed is the same on every Python and platform.
            random.Random(f"{self._seed}/{source}/{cursor.epoch}").shuffle(order)
        late = set(cursor.deferred)
        return [i for i in order if i not in late] + [i for i in order if i in late]


def _check_quota(source: str, quota: int, num_prompts: int) -> None:
    if quota > num_prompts:
        domain = source.partition("/")[0]
        raise DataError(
            f"The domain {source} has fewer prompts than one step takes.",
            expected=f"at least {quota} prompts (its largest quota per step)",
            found=f"{num_prompts} usable prompts",
            todo=f"lower domains.{domain}.prompts_per_step, its weight or "
            "algo.prompts_per_domain, or give it more data",
        )


def _digest(prompts: Sequence[Prompt]) -> str:
    """A fingerprint of ids and tokens: another file or another template changes it."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(f"{prompt.id}\0{prompt.token_ids}\n".encode())
    return digest.hexdigest()[:16]


def _foreign(expected: object, found: object, what: str, more: str = "") -> CheckpointError:
    return CheckpointError(
        f"The checkpoint is of a run with other {what}.",
        expected=str(expected),
        found=str(found),
        todo=f"resume with the configuration and data of that run, or set resume=never{more}",
    )
