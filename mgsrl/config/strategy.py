"""Which domains are trained when; `mgs`, `mixed`, `sequential`, ... are choices of these fields."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mgsrl.config.require import at_least


@dataclass
class PhaseConfig:
    domains: list[str] = field(default_factory=list)
    """The domains trained in this phase."""
    steps: int = 0
    """Length; 0 takes an equal share of the steps that the other phases leave."""
    reset_optimizer: bool = False
    """Start the phase with fresh AdamW moments."""
    move_reference: bool = False
    """Start the phase with the current policy as the KL reference."""


@dataclass
class StrategyConfig:
    name: str = ""
    """Label in run folders and reports. Empty: what is run (`mgs`, `mixed`, `upgrad_layer`, ...);
    a label of your own may not be the one of another strategy."""
    sequential: bool = False
    """One phase per domain, in `domain_order` (or the order of `domains`)."""
    domain_order: list[str] = field(default_factory=list)
    """The domains that take part, in order; empty means all."""
    reset_optimizer: bool = False
    """Default of the phases made by `sequential`."""
    move_reference: bool = False
    """Default of the phases made by `sequential`."""
    phases: list[PhaseConfig] = field(default_factory=list)
    """Explicit phases; overrides `sequential`."""

    def together(self, domains: Iterable[str]) -> list[list[str]]:
        """Of each phase the domains that it trains, of those that there are."""
        names = self.domain_order or list(domains)
        if self.phases:
            return [phase.domains for phase in self.phases]
        return [[name] for name in names] if self.sequential else [names]

    def validate(self) -> None:
        for index, phase in enumerate(self.phases):
            at_least(f"strategy.phases[{index}].steps", phase.steps, 0)
