"""When gradient surgery deserves a look: one domain decides the update, or one is hardly served.

Whether an alarm is new is the caller's business: it keeps the keys of the active ones and shows
the text of those that were entered. Left out: hysteresis and averages over steps.
"""

from mgsrl.config.surgery import SurgeryConfig
from mgsrl.types import SurgeryReport


def surgery_alarms(report: SurgeryReport, step: int, config: SurgeryConfig) -> dict[str, str]:
    """The alarms of one step: a key that names kind and domain -> the line to print.

    A domain dominates when its share of the norm, `|g_d| / sum_e |g_e|` over the whole model, is
    above `alarm_dominance`; it is projected away when `surgery/projected_share/<d>` is above
    `alarm_projected`. Neither exists with one domain, nor when nothing was resolved.
    """
    alarms: dict[str, str] = {}
    if len(report.domains) < 2:
        return alarms
    norms = {d: report.scalars.get(f"grad_norm/{d}", 0.0) for d in report.domains}
    total = sum(norms.values())
    was = "would have been" if config.measure_only else "was"
    for domain, norm in norms.items():
        share = norm / total if total > 0 else 0.0
        if share > config.alarm_dominance:
            alarms[f"dominance/{domain}"] = (
                f"surgery: the gradient of {domain} has {share:.0%} of the norm at step {step} "
                f"(alarm_dominance {config.alarm_dominance:g}): its domain decides the update; "
                "compare reward scales or quotas"
            )
        removed = report.scalars.get(f"surgery/projected_share/{domain}", 0.0)
        if removed > config.alarm_projected:
            alarms[f"projected/{domain}"] = (
                f"surgery: {removed:.0%} of the gradient of {domain} {was} projected away at step "
                f"{step} (alarm_projected {config.alarm_projected:g}): the update hardly serves "
                "it; see surgery/heat_map.png for where it conflicts"
            )
    return alarms
