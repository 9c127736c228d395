"""Every surgery method keeps the contract of users' methods; the adapter to TorchJD."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mgsrl.config.surgery import SURGERY_METHODS, SurgeryConfig
from mgsrl.errors import ConfigError, ContractError, NoWeightsError
from mgsrl.surgery import check_method, surgery_coefficients, surgery_weights
from mgsrl.surgery.pcgrad import pcgrad
from mgsrl.surgery.torchjd_adapter import TorchJD
from mgsrl.testing import check_surgery_method
from mgsrl.testing import surgery as testing_surgery
from tests.surgery.test_weights import draw_gradients, gram

NEEDS = {
    "upgrad": ("qpsolvers", "quadprog"),
    "dualproj": ("qpsolvers", "quadprog"),
    "cagrad": ("cvxpy", "clarabel"),
    "nash_mtl": ("cvxpy", "ecos"),
    "fairgrad": ("scipy",),
}
OURS = ("pcgrad", "none", "norm_balanced", "gradvac", "pcgrad_smoothed")
CLAIMS: dict[str, dict[str, Any]] = {
    "pcgrad": {"also": ("plain_sum", "never_longer"), "tolerance": 1e-12},
    "none": {"also": ("plain_sum", "never_longer"), "tolerance": 1e-12},
    "mgda": {"also": ("no_conflict", "never_longer"), "tolerance": 1e-3},
    "upgrad": {"also": ("no_conflict",), "tolerance": 1e-3},
    "dualproj": {"also": ("no_conflict",), "tolerance": 1e-3},
    "mean": {"also": ("never_longer",), "tolerance": 1e-12},
    "norm_balanced": {"tolerance": 1e-12},
    "gradvac": {"also": ("plain_sum", "never_longer"), "tolerance": 1e-10},
    "pcgrad_smoothed": {"also": ("plain_sum", "never_longer"), "tolerance": 1e-12},
    "pcd": {"without": ("permutation",)},  # the first domain is the primary one
    "random": {"without": ("permutation", "modules")},
    "fairgrad": {"tolerance": 1e-2},  # iterative solvers, whose tolerance shows
    "nash_mtl": {"tolerance": 1e-2, "seeds": 1},
}
"""Beside the usual properties."""


def missing(method: str) -> list[str]:
    packages = (() if method in OURS else ("torchjd",)) + NEEDS.get(method, ())
    return [package for package in packages if importlib.util.find_spec(package) is None]


@pytest.fixture(params=SURGERY_METHODS.members)
def method(request: pytest.FixtureRequest) -> str:
    lacking = missing(request.param)
    if lacking:
        pytest.skip(f"{request.param} needs {', '.join(lacking)}")
    return request.param


def test_every_method_keeps_the_contract(method: str) -> None:
    check_method(SurgeryConfig(method=method))
    check_surgery_method(method, **CLAIMS.get(method, {}))


def test_every_method_is_a_valid_configuration() -> None:
    for name in SURGERY_METHODS.members:
        SurgeryConfig(method=name).validate()


# ---------------------------------------------------------------- one that somebody brings


def drop(gram_MDD: torch.Tensor) -> torch.Tensor:
    """Weights: the domains that agree with the sum of all, times the number of such."""
    return (gram_MDD.sum(-1) >= 0).double()


def backwards(gram_MDD: torch.Tensor, orders_MDE: torch.Tensor) -> torch.Tensor:
    """Coefficients, from the orders."""
    return pcgrad(gram_MDD, orders_MDE.flip(-1))


def test_functions_of_either_kind_are_methods() -> None:
    check_surgery_method(drop, also=("never_longer",))
    check_surgery_method(backwards, also=("plain_sum", "never_longer"), tolerance=1e-12)
    gramian = gram(draw_gradients(0, 3, 4))
    torch.testing.assert_close(surgery_coefficients(gramian, drop).sum(1), drop(gramian))
    expected = surgery_weights(gramian, "pcgrad", "all")
    torch.testing.assert_close(surgery_weights(gramian, backwards, "all"), expected)


def twice(gram_MDD: torch.Tensor) -> torch.Tensor:
    return torch.full(gram_MDD.shape[:2], 2.0)


BROKEN = {
    "finite": lambda gram: 1 / gram.diagonal(dim1=1, dim2=2),
    "repeatable": lambda gram: torch.rand(gram.shape[:2]),
    "untouched": lambda gram: gram.mul_(2)[..., 0],
    "single_domain": twice,
    "identical_domains": lambda gram: -twice(gram),
    "zero_domain": lambda gram: torch.full(gram.shape[:2], 1 / gram.shape[1]),
    "scale": lambda gram: gram.sum(-1),
    "permutation": lambda gram: torch.arange(gram.shape[1]).expand(gram.shape[:2]),
    "modules": lambda gram: gram[:1].sum(-1).expand(gram.shape[:2]),
    "plain_sum": twice,
    "no_conflict": lambda gram: -twice(gram),
    "never_longer": twice,
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_property_can_fail(name: str) -> None:
    subject = testing_surgery._Subject(BROKEN[name], name, 1e-6)
    with pytest.raises((ContractError, NoWeightsError)):
        testing_surgery._PROPERTIES[name](subject, 0)


def test_a_method_with_memory_is_tried_with_a_past() -> None:
    def mine(gram: torch.Tensor, memory: dict[str, torch.Tensor]) -> object:
        updates = memory.get("updates", torch.zeros_like(gram)) + 1
        return torch.ones(gram.shape[:2]), {"updates": updates}

    def forgets_the_contract(gram: torch.Tensor, memory: dict[str, torch.Tensor]) -> object:
        weights, memory = mine(gram, memory)
        return weights + (memory["updates"][..., 0] > 2), memory

    def writes(gram: torch.Tensor, memory: dict[str, torch.Tensor]) -> object:
        updates = memory.get("updates", torch.zeros_like(gram)).add_(1)
        return torch.ones(gram.shape[:2]), {"updates": updates}

    check_surgery_method(mine, also=("plain_sum", "never_longer"))
    with pytest.raises(ContractError, match=r"forgets_the_contract, after 4 updates, (.|\n)*only"):
        check_surgery_method(forgets_the_contract)
    with pytest.raises(ContractError, match=r"writes (.|\n)*left alone"):
        check_surgery_method(writes)


def test_a_method_in_a_file_is_tried_before_a_run(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "def good(gram):\n    return torch.ones(gram.shape[:2])\n"
        "def shape(gram):\n    return gram[0]\n"
        "def asks(gram, learning_rate):\n    return gram\n"
        "def fails(gram):\n    return gram[5, 5, 5]\n"
        "def leaves(gram):\n    raise SystemExit\n"
        "def nan(gram):\n    return gram[..., 0] * float('nan')\n"
        "CONSTANT = 1\n"
    )
    check_method(SurgeryConfig(method=f"{file}:good"))
    for name, said in (
        ("shape", r"weights \[2, 3\] or coefficients"),
        ("asks", "orders_MDE, seed, may_project_MDD, memory, settings"),
        ("fails", rf"IndexError.*\({file}, line 9\)"),
        ("leaves", "SystemExit"),
        ("nan", "nothing finite"),
        ("CONSTANT", "int, which cannot be called"),
        ("gode", "did you mean 'good'"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_method(SurgeryConfig(method=f"{file}:{name}"))


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 3), (2, 3, 4), ()])
def test_another_shape_than_weights_or_coefficients_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"weights \[2, 3\] or coefficients \[2, 3, 3\]"):
        surgery_weights(gram(draw_gradients(0, 2, 3)), lambda gram: torch.ones(shape))


def test_the_gate_reaches_methods_that_take_it_with_every_order() -> None:
    def gated(gram_MDD: torch.Tensor, may_project_MDD: torch.Tensor | None) -> torch.Tensor:
        assert may_project_MDD is not None
        return may_project_MDD.double()

    gramian = gram(draw_gradients(0, 5, 3))
    nobody = torch.zeros(5, 3, 3, dtype=torch.bool)
    for orders in ("random", "all"):
        found = surgery_coefficients(gramian, "pcgrad", orders, may_project_MDD=nobody)
        assert torch.equal(found, torch.eye(3).double().expand(5, 3, 3))
    assert torch.equal(
        surgery_coefficients(gramian, gated, may_project_MDD=~nobody), (~nobody).double()
    )
    for name in ("none", "mean"):
        with pytest.raises(ConfigError, match=r"surgery\.gate"):
            check_method(SurgeryConfig(method=name, gate="reliable"))
        with pytest.raises(ValueError, match="a method that takes it"):
            surgery_coefficients(gramian, name, may_project_MDD=nobody)


# ---------------------------------------------------------------- the adapter


@pytest.mark.parametrize(
    ("name", "class_name"),
    [("mgda", "MGDA"), ("imtl_g", "IMTLG"), ("aligned_mtl", "AlignedMTL"), ("upgrad", "UPGrad")],
)
def test_weights_are_those_of_torchjd(name: str, class_name: str) -> None:
    if missing(name):
        pytest.skip(f"{name} needs {missing(name)}")
    aggregation = pytest.importorskip("torchjd.aggregation")
    gradients = draw_gradients(8, 3, 3)
    gradients /= gradients.norm(dim=-1, keepdim=True)
    ours = surgery_weights(gram(gradients), name)
    weighting = getattr(aggregation, f"{class_name}Weighting")()
    theirs = torch.stack([weighting(gramian) for gramian in gram(gradients)])
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("failure", ["nan", "singular", "quadratic program", "cvxpy", "qpsolvers"])
def test_no_finite_weights_have_an_error_of_their_own(
    failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weighting(gram: torch.Tensor) -> torch.Tensor:
        if failure == "singular":
            return torch.linalg.inv(torch.zeros_like(gram))[0]
        if failure == "quadratic program":
            raise ValueError("Failed to solve the quadratic programming problem.")
        if failure == "cvxpy":
            raise pytest.importorskip("cvxpy.error").SolverError("did not converge")
        if failure == "qpsolvers":
            raise pytest.importorskip("qpsolvers.exceptions").QPError("not convex")
        return gram[0] * float("nan")

    monkeypatch.setattr(TorchJD, "maker", lambda self: lambda num_domains: weighting)
    with pytest.raises(NoWeightsError, match=r"mgda: .* module 0"):
        surgery_weights(gram(draw_gradients(0, 2, 3)), "mgda")


def test_without_torchjd_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(ConfigError, match=r"pip install .torchjd\[full\]"):
        surgery_weights(torch.eye(2)[None], "mgda")
    with pytest.raises(ConfigError, match=r"pip install .torchjd\[full\]"):
        check_method(SurgeryConfig(method="mgda"))


def test_config_and_surgery_import_without_torchjd() -> None:
    import subprocess

    code = (
        "import sys, mgsrl.config, mgsrl.surgery; "
        "sys.exit(any(m.split('.')[0] in ('torchjd', 'cvxpy', 'scipy') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
