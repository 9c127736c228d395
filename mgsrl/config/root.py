"""The whole configuration. Only what begins or plans a run in `training/`, and the command line,
may see it."""

from dataclasses import dataclass, field

from mgsrl.config.algo import AlgoConfig, own_algo
from mgsrl.config.data import DataConfig, DomainConfig
from mgsrl.config.learner import LearnerConfig
from mgsrl.config.policy import PolicyConfig
from mgsrl.config.rollout import RolloutConfig
from mgsrl.config.strategy import StrategyConfig
from mgsrl.config.surgery import SurgeryConfig
from mgsrl.config.training import (
    CheckpointConfig,
    ClusterConfig,
    EvaluateConfig,
    ResumeConfig,
    RunConfig,
    TrackersConfig,
    TrainConfig,
)

PLACEMENTS = ("auto", "disjoint", "colocated")


@dataclass
class Config:
    seed: int = 0
    """Seeds data order, sampling, projection orders and initial states."""
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    """Where the run begins; `resume=never` is short for `resume.checkpoint=never`."""
    placement: str = "auto"
    """Of learner ranks and rollout engines on GPUs. `disjoint`: each has its own. `colocated`: they
    share them by turns, an engine sleeps while the learners work. `auto`: colocated where there are
    too few GPUs for disjoint."""
    max_abstained_share: float = 0.5
    """Stop when a larger share of one domain's rewards abstains in a step."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    domains: dict[str, DomainConfig] = field(default_factory=dict)
    """The domains by name, in order."""
    data: DataConfig = field(default_factory=DataConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    algo: AlgoConfig = field(default_factory=AlgoConfig)
    surgery: SurgeryConfig = field(default_factory=SurgeryConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    trackers: TrackersConfig = field(default_factory=TrackersConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def algo_of(self, name: str) -> AlgoConfig:
        """What a domain is trained by: `algo` with the domain's own keys over it."""
        return own_algo(self.algo, self.domains[name].algo, f"domains.{name}.algo")

    @property
    def algos(self) -> dict[str, AlgoConfig]:
        """Those of the domains that the strategy trains."""
        trained = {name for phase in self.strategy.together(self.domains) for name in phase}
        return {name: self.algo_of(name) for name in self.domains if name in trained}

    @property
    def regularised(self) -> bool:
        """Whether any domain has a KL to the reference."""
        return any(algo.kl_coef > 0 for algo in self.algos.values())

    @property
    def response_limits(self) -> dict[str, int]:
        """Tokens of the longest response, by domain."""
        usual = self.rollout.max_new_tokens
        return {name: domain.max_new_tokens or usual for name, domain in self.domains.items()}
