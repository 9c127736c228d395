"""Typed configuration: one dataclass file per group, defaults here only; YAML overrides them."""

from mgsrl.config.algo import AlgoConfig
from mgsrl.config.data import DataConfig, DomainConfig, SourceConfig
from mgsrl.config.learner import LearnerConfig
from mgsrl.config.policy import PolicyConfig
from mgsrl.config.reward import RewardConfig
from mgsrl.config.rollout import RolloutConfig, SyncConfig
from mgsrl.config.root import Config
from mgsrl.config.strategy import PhaseConfig, StrategyConfig
from mgsrl.config.surgery import SurgeryConfig
from mgsrl.config.training import (
    CheckpointConfig,
    ClusterConfig,
    EvaluateConfig,
    RunConfig,
    TrackersConfig,
    TrainConfig,
)

__all__ = [
    "AlgoConfig",
    "CheckpointConfig",
    "ClusterConfig",
    "Config",
    "DataConfig",
    "DomainConfig",
    "EvaluateConfig",
    "LearnerConfig",
    "PhaseConfig",
    "PolicyConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "SourceConfig",
    "StrategyConfig",
    "SurgeryConfig",
    "SyncConfig",
    "TrackersConfig",
    "TrainConfig",
]
