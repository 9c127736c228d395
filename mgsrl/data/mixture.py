"""Which prompts each step trains on: exact quotas per domain, seeded, resumable.

Every domain has its own cursor, so its order does not depend on which other domains take part:
Mixed RL and a sequential phase see the same prompts of a domain in the same order through the
first epoch, and in later ones as long as they take the same number per step. Within an epoch no
prompt comes twice, and a step that spans two epochs holds no prompt twice either: what it took at
the end of one comes last in the next, which is why later orders depend on the number.

Left out: weighted sampling (a random share per domain, as in the published code). Quotas that are
exact in every batch make runs comparable and keep every domain in every update.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from mgsrl.errors import CheckpointError, ConfigError, DataError, explain, nearest
from mgsrl.types import Prompt


@dataclass(slots=True)
class _Cursor:
    """One domain's place. `order` follows from the other fields."""

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
        prompts: the prompts by domain.
        quotas: the most prompts that any step of the run takes, by domain; checked at once, so
            that a later phase cannot fail on it.
        seed: the run's seed; the order of a domain follows from seed, domain and epoch.
        shuffle: false keeps the order of the source in every epoch.

    Raises:
        DataError: a domain without prompts, or with fewer than its quota.
    """

    def __init__(
        self,
        prompts: Mapping[str, Sequence[Prompt]],
        quotas: Mapping[str, int],
        seed: int,
        shuffle: bool,
    ) -> None:
        self._seed, self._shuffle = seed, shuffle
        self._cursors: dict[str, _Cursor] = {}
        for domain, domain_prompts in prompts.items():
            _check_quota(domain, quotas.get(domain, 1), len(domain_prompts))
            cursor = _Cursor(list(domain_prompts), _digest(domain_prompts))
            cursor.order = self._order(domain, cursor)
            self._cursors[domain] = cursor

    def next_prompts(self, quotas: Mapping[str, int]) -> dict[str, list[Prompt]]:
        """The next `quotas[domain]` prompts of each domain named; moves only their cursors.

        Raises:
            ConfigError: a domain that this mixture does not have.
            DataError: a quota larger than the domain's data.
        """
        for domain, quota in quotas.items():
            if domain not in self._cursors:
                raise ConfigError(
                    explain(
                        "A phase names an unknown domain.",
                        expected="a domain of this run",
                        found=repr(domain),
                        todo=nearest(domain, self._cursors),
                    )
                )
            _check_quota(domain, quota, len(self._cursors[domain].prompts))
        return {d: self._take(d, self._cursors[d], quota) for d, quota in quotas.items()}

    def peek(self, count: int) -> list[Prompt]:
        """Up to `count` prompts in the order of the sources, the domains in turn; moves nothing.

        The same before and after a resumption.
        """
        firsts = [cursor.prompts[:count] for cursor in self._cursors.values()]
        in_turn = [prompt for turn in zip_longest(*firsts) for prompt in turn if prompt is not None]
        return in_turn[:count]

    def state(self) -> dict[str, Any]:
        """The cursors as JSON."""
        return {
            domain: {
                "epoch": cursor.epoch,
                "position": cursor.position,
                "deferred": list(cursor.deferred),
                "num_prompts": len(cursor.prompts),
                "digest": cursor.digest,
            }
            for domain, cursor in self._cursors.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`.

        Raises:
            CheckpointError: the state is of other domains or of other data.
        """
        if set(state) != set(self._cursors):
            raise _foreign(sorted(self._cursors), sorted(state), "domains")
        for domain, cursor in self._cursors.items():
            saved = state[domain]
            if saved["digest"] != cursor.digest:
                raise _foreign(
                    f"the {saved['num_prompts']} prompts of {domain} that the run began with",
                    f"{len(cursor.prompts)} prompts that are not the same",
                    "data",
                )
        for domain, cursor in self._cursors.items():
            saved = state[domain]
            cursor.epoch, cursor.position = saved["epoch"], saved["position"]
            cursor.deferred = list(saved["deferred"])
            cursor.order = self._order(domain, cursor)

    def _take(self, domain: str, cursor: _Cursor, quota: int) -> list[Prompt]:
        taken = cursor.order[cursor.position : cursor.position + quota]
        cursor.position += len(taken)
        missing = quota - len(taken)
        if missing:
            cursor.epoch += 1
            # Two copies in one step would get the same sampling seeds, hence the same responses.
            cursor.deferred = taken
            cursor.order = self._order(domain, cursor)
            taken = taken + cursor.order[:missing]
            cursor.position = missing
        return [cursor.prompts[index] for index in taken]

    def _order(self, domain: str, cursor: _Cursor) -> list[int]:
        order = list(range(len(cursor.prompts)))
        if self._shuffle:
            # random.Random with a string seed is the same on every Python and platform.
            random.Random(f"{self._seed}/{domain}/{cursor.epoch}").shuffle(order)
        late = set(cursor.deferred)
        return [i for i in order if i not in late] + [i for i in order if i in late]


def _check_quota(domain: str, quota: int, num_prompts: int) -> None:
    if quota > num_prompts:
        raise DataError(
            explain(
                f"The domain {domain} has fewer prompts than one step takes.",
                expected=f"at least {quota} prompts (its largest quota per step)",
                found=f"{num_prompts} usable prompts",
                todo=f"lower domains.{domain}.prompts_per_step or algo.prompts_per_domain, "
                "or give it more data",
            )
        )


def _digest(prompts: Sequence[Prompt]) -> str:
    """A fingerprint of ids and tokens: another file or another template changes it."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(f"{prompt.id}\0{prompt.token_ids}\n".encode())
    return digest.hexdigest()[:16]


def _foreign(expected: object, found: object, what: str) -> CheckpointError:
    return CheckpointError(
        explain(
            f"The checkpoint is of a run with other {what}.",
            expected=str(expected),
            found=str(found),
            todo="resume with the configuration and data of that run, or set resume=never",
        )
    )
