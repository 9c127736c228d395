"""Responses of the policy: engine adapters, the rollout actor, the sampler."""
