"""Every arm against the baseline, paired by seed, and in a plain sentence what that allows to say.

The average over domains is what the comparison is about: its tests are corrected for the number of
arms (Holm). Single domains and the worst gain are looked at besides; they are corrected together,
for all arms. Intervals are those of each difference alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mgsrl.report.strategies import ArmRuns, BySeed
from mgsrl.statistics.power import MOST_SEEDS, POWER, detectable, seeds_needed
from mgsrl.statistics.seeds import Difference, difference, holm

LEVEL = 0.05
AVERAGE, WORST = "average", "worst"
"""What contrasts beside those of domains are called."""


@dataclass(frozen=True)
class Contrast:
    """One arm minus the baseline in one number."""

    difference: Difference
    corrected_p: float
    """Of the paired t test, after Holm's correction over `tests`."""
    tests: int
    detectable: float
    """The difference that so many seeds would find with power 0.8."""
    seeds_needed: int | None
    """For a difference as large as this one; None for more than `MOST_SEEDS` or unknown."""

    @property
    def stands_out(self) -> bool:
        return self.corrected_p < LEVEL

    @property
    def sign(self) -> str:
        """`good` or `bad` where it stands out, for the page."""
        return "" if not self.stands_out else "good" if self.difference.mean > 0 else "bad"


def endpoints(arm: ArmRuns, domains: Sequence[str]) -> dict[str, BySeed]:
    """What is compared, by name: the average, the domains, the worst gain."""
    found = {AVERAGE: arm.average(domains)}
    found |= {f"domain/{domain}": arm.heldout(domain) for domain in domains}
    return {**found, WORST: arm.worst(domains)}


def contrasts(
    arms: Sequence[ArmRuns], baseline: ArmRuns, domains: Sequence[str]
) -> dict[str, dict[str, Contrast]]:
    """Arm -> endpoint -> contrast; nothing for the baseline."""
    base = endpoints(baseline, domains)
    found = {
        (arm.name, key): difference(values, base[key])
        for arm in arms
        if arm is not baseline
        for key, values in endpoints(arm, domains).items()
    }
    main = [key for key in found if key[1] == AVERAGE]
    families = (main, [key for key in found if key not in main])
    made: dict[str, dict[str, Contrast]] = {arm.name: {} for arm in arms if arm is not baseline}
    for family in families:
        corrected = holm([found[key].p for key in family])
        tests = sum(not math.isnan(p) for p in corrected)
        for (arm, key), p in zip(family, corrected, strict=True):
            each = found[arm, key]
            made[arm][key] = Contrast(
                each, p, tests, detectable(each.n, each.sd), seeds_needed(each.mean, each.sd)
            )
    return made


def sentence(
    arm: ArmRuns, baseline: ArmRuns, against: Mapping[str, Contrast], *, alone: bool = False
) -> str:
    """What the data allow to say of an arm; `alone`: there is no other."""
    name, base = arm.name, baseline.name
    if not arm.runs:
        return f"{name}: no finished run of it is there, so nothing can be said."
    if alone:
        return f"{name} is the only arm, so it is compared with nothing."
    if arm is baseline:
        return f"{name} is what the others are compared with."
    main = against[AVERAGE]
    found = main.difference
    if arm.common.last is None:
        return f"{name}: the runs share no evaluation after the first, so nothing can be said."
    if found.n == 0:
        domains = [k.removeprefix("domain/") for k in against if k.startswith("domain/")]
        lacking = [each.name for each in (arm, baseline) if not _has_all(each, domains)]
        which = f"no finished seed of {' and '.join(lacking)} has scores of all domains"
        which = which if lacking else f"no seed in common with {base}"
        return f"{name}: {which}, so nothing can be said."
    if found.n == 1:
        return (
            f"{name}: one seed in common with {base}, where its average over domains differs by "
            f"{_signed(found.mean)}. One seed cannot tell a difference from luck."
        )
    return " ".join([_main(name, base, main), *_others(against)])


def _has_all(arm: ArmRuns, domains: Sequence[str]) -> bool:
    return any(map(math.isfinite, arm.average(domains).values()))


def _main(name: str, base: str, main: Contrast) -> str:
    found = main.difference
    interval = f"95 % {_signed(found.low)} to {_signed(found.high)}"
    corrected = f" after correction for {main.tests} comparisons" if main.tests > 1 else ""
    if main.stands_out:
        way = "better" if found.mean > 0 else "worse"
        return (
            f"{name} is {way} than {base} in the average over domains: {_signed(found.mean)} "
            f"({interval}; {found.n} seeds, p = {_p(main.corrected_p)}{corrected})."
        )
    if found.sd == 0 and found.mean == 0:
        return f"{name} and {base} have equal averages over domains at each of {found.n} seeds."
    if found.sd == 0:
        exact = f" (exact p {_p(found.p_flip)})" if math.isfinite(found.p_flip) else ""
        return (
            f"{name} differs from {base} by {_signed(found.mean)} in the average over domains, at "
            f"each of {found.n} seeds the same: where nothing varies no t test can tell that from "
            f"luck{exact}."
        )
    alone = (
        f"; p = {_p(found.p)} alone, {_p(main.corrected_p)}{corrected}" if found.p < LEVEL else ""
    )
    return (
        f"{name} is not distinguishable from {base} at these {found.n} seeds: average over domains "
        f"{_signed(found.mean)} ({interval}{alone}). {_needed(main)}"
    )


def _needed(main: Contrast) -> str:
    found = main.difference
    if main.seeds_needed is None:
        needed = f"more than {MOST_SEEDS} seeds would be needed"
    elif main.seeds_needed <= found.n:
        needed = f"{main.seeds_needed} seeds would be enough for one such comparison alone"
    else:
        needed = f"about {main.seeds_needed} seeds would be needed"
    return (
        f"If the true difference were that, {needed} to find it (power {POWER:g}); these seeds "
        f"would find one of {main.detectable:.3f}."
    )


def _others(against: Mapping[str, Contrast]) -> list[str]:
    """Domains, and the worst gain, in which the arm stands out."""
    found = []
    for key, contrast in against.items():
        if key == AVERAGE or not contrast.stands_out:
            continue
        what = "its worst domain's gain" if key == WORST else key.removeprefix("domain/")
        way = "higher" if contrast.difference.mean > 0 else "lower"
        p = f"p = {_p(contrast.corrected_p)} of {contrast.tests}"
        found.append(f"{what} is {way} by {abs(contrast.difference.mean):.3f} ({p})")
    return [f"By itself: {'; '.join(found)}."] if found else []


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "less than 0.001"
