"""Checkable constraints (IFEval and its kin), one function each, filed in `spec.REGISTRY`."""

from mgsrl.constraints import (  # noqa: F401 - their constraints are filed by importing them
    copying,
    format,
    ifbench_count,
    ifbench_custom,
    ifbench_format,
    ifbench_layout,
    ifbench_ratio,
    ifbench_sentence,
    ifbench_tables,
    ifbench_words,
    keywords,
    length,
    style,
    wording,
)
from mgsrl.constraints.check import (
    BoundConstraint,
    BoundReference,
    bind,
    follows,
    loose_variants,
    parse_reference,
    validate_reference,
)
from mgsrl.constraints.spec import REGISTRY, CannotDecideError, Constraint

__all__ = [
    "REGISTRY",
    "BoundConstraint",
    "BoundReference",
    "CannotDecideError",
    "Constraint",
    "bind",
    "follows",
    "loose_variants",
    "parse_reference",
    "validate_reference",
]
