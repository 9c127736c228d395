"""Gradient surgery in Gramian space (Modular Gradient Surgery, arXiv 2602.02301).

The path: `module_map` (parameter name -> module), `gramian` (gradients -> [M, D, D]),
`surgery_weights` (Gramian -> weights), `combine_` (weights -> the update, in place),
`surgery_report` (what happened). Pure tensors: who owns which shard, and the one all-reduce of
the Gramian, are the learner's business.
"""

from mgsrl.surgery.gramian import combine_, gramian
from mgsrl.surgery.memory import PairMemory, SurgeryMemory
from mgsrl.surgery.methods import check_method, surgery_method
from mgsrl.surgery.modules import module_map
from mgsrl.surgery.reliability import measure_reliability, reliability_scalars, whole_gramian
from mgsrl.surgery.report import effective_dimension, surgery_report
from mgsrl.surgery.resolve import reliability_of, resolve
from mgsrl.surgery.weights import surgery_coefficients, surgery_decision, surgery_weights

__all__ = [
    "PairMemory",
    "SurgeryMemory",
    "check_method",
    "combine_",
    "effective_dimension",
    "gramian",
    "measure_reliability",
    "module_map",
    "reliability_of",
    "reliability_scalars",
    "resolve",
    "surgery_coefficients",
    "surgery_decision",
    "surgery_method",
    "surgery_report",
    "surgery_weights",
    "whole_gramian",
]
