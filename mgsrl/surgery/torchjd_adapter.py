"""Other multi-task methods, from the library TorchJD (arXiv 2406.16232), through one adapter.

TorchJD's `Weighting` classes map a Gramian to weights, which is all that surgery needs. The
weights are TorchJD's own, with three definitions that make them usable per module:

  - each module's Gramian is divided by the mean of its diagonal first: the methods contain
    absolute thresholds (1e-4) that assume gradients of ordinary size, and gradients of single
    modules are often smaller. Most methods do not depend on the scale; those that do
    (`fairgrad`, `nash_mtl`) then refer to gradients of unit mean square norm;
  - a domain whose gradient is zero in a module has no say there (its weight is 1, times zero),
    and a domain that is alone keeps its gradient;
  - a new weighting is made for every module and step: methods with memory
    (`nash_mtl`, `pcd`) start afresh each time, so that resuming a run cannot change it.

Beware of the size of the update: `pcgrad` and `none` sum the domains, while `upgrad`, `dualproj`,
`mgda`, `cagrad`, `imtl_g`, `aligned_mtl`, `mean`, `random` and `pcd` give something of the size of
one domain's gradient.

Left out: weightings that need more than one Gramian or their memory (CR-MOGM, ExcessMTL, MoDo,
SDMGrad; GradVac is our own, `gradvac.py`), those that need the gradients themselves (ConFIG,
GradDrop, trimmed mean), and those with weights to be chosen (constant: scale the domains' quotas or
advantages instead).
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mgsrl.errors import ConfigError, NoWeightsError

Weighting = Callable[[Tensor], Tensor]


class TorchJD:
    """A surgery method: one of TorchJD's weightings, applied module by module.

    Args:
        class_name: in `torchjd.aggregation`.
        min_domains: with fewer non-zero domains than this in a module it is their plain mean.
        settings: of the weighting.
    """

    def __init__(self, class_name: str, min_domains: int = 2, **settings: Any) -> None:
        self.__name__, self.min_domains, self.settings = class_name, min_domains, settings

    def __call__(self, gram_MDD: Tensor, seed: int) -> Tensor:
        """Weights [M, D].

        Args:
            seed: for the one that draws random numbers (`random`), which TorchJD takes from the
                global generator; its state is put back afterwards.

        Raises:
            ConfigError: TorchJD, or the solver that the method needs, is missing.
            NoWeightsError: there is no solution for a module.
        """
        make = self.maker()
        weights_MD = torch.ones(gram_MDD.shape[:2], dtype=torch.float64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module, gram_DD in enumerate(gram_MDD):
                live = gram_DD.diagonal() > 0
                count = int(live.sum())
                if count < 2:
                    continue
                if count < self.min_domains:
                    weights_MD[module, live] = 1.0 / count
                    continue
                gram = gram_DD[live][:, live]
                try:
                    weights = make(count)(gram / gram.diagonal().mean())
                except (ArithmeticError, torch.linalg.LinAlgError, *_solver_errors()) as error:
                    raise NoWeightsError(f"no solution for module {module}: {error}") from error
                weights_MD[module, live] = weights.to(torch.float64)
        return weights_MD

    def check(self) -> None:
        """ConfigError when TorchJD or the solver that the method needs is missing."""
        self.maker()

    def maker(self) -> Callable[[int], Weighting]:
        """Number of domains -> a fresh weighting that maps a Gramian to weights."""
        try:
            library = importlib.import_module("torchjd.aggregation")
            self.make(library, 2)  # a missing solver shows here, not in the middle of a step
        except ImportError as error:
            raise ConfigError(
                f"surgery.method: {self.__name__} needs a package that is not installed.",
                expected="TorchJD with the solvers of its methods",
                found=str(error),
                todo='pip install "torchjd[full]>=0.18"',
            ) from error
        return lambda num_domains: self.make(library, num_domains)

    def make(self, library: Any, num_domains: int) -> Weighting:
        """A weighting of `library` for so many domains."""
        weighting: Weighting = getattr(library, self.__name__)(**self.settings)
        return weighting


class NashMTL(TorchJD):
    """It asks for gradients; any matrix with the same Gramian gives the same weights."""

    def make(self, library: Any, num_domains: int) -> Weighting:
        aggregator = library.NashMTL(
            n_tasks=num_domains, max_norm=0.0, update_weights_every=1, optim_niter=20
        )
        return lambda gram: aggregator.weighting(_square_root(gram))


def _solver_errors() -> list[type[Exception]]:
    """What the solvers behind the methods raise on a problem that they cannot solve.

    TorchJD passes a ValueError on; the solvers' own errors exist only once they are imported.
    """
    own = [("cvxpy.error", "SolverError"), ("qpsolvers.exceptions", "QPError")]
    return [ValueError, *(getattr(sys.modules[m], name) for m, name in own if m in sys.modules)]


def _square_root(gram: Tensor) -> Tensor:
    """[D, D] J with J J^T = gram."""
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0).sqrt()


aligned_mtl = TorchJD("AlignedMTLWeighting")
cagrad = TorchJD("CAGradWeighting", c=0.5)  # the radius of the paper's main experiments
dualproj = TorchJD("DualProjWeighting")
fairgrad = TorchJD("FairGradWeighting", alpha=1.0)  # proportional fairness
imtl_g = TorchJD("IMTLGWeighting")
# No domain is hostile: the most central one.
krum = TorchJD("KrumWeighting", min_domains=3, n_byzantine=0)
mean = TorchJD("MeanWeighting")
mgda = TorchJD("MGDAWeighting")
nash_mtl = NashMTL("NashMTL")
pcd = TorchJD("PCDWeighting")  # the first domain is the primary one
random = TorchJD("RandomWeighting")
upgrad = TorchJD("UPGradWeighting")
