"""Gradient surgery in any other trainer: domains' gradients in, the update and a report out.

    probe = SurgeryProbe(model.named_parameters(), ["math", "chat"], folder="runs/probe")
    for domain, batch in batches.items():
        loss(model, batch).backward()
        probe.take(domain)          # moves `.grad` into the domain's row
    probe.step()                    # resolves the conflicts, writes `.grad`
    optimizer.step()

`docs/python_api.md` does this to a plain loop and to TRL's `GRPOTrainer`. The folder is read by
`mgsrl.load_run` and `mgsrl report` as that of a run.
Left out: sharded gradients (ZeRO, FSDP). There whoever owns the shards sums their Gramians over the
ranks, gives them to `record` and combines the shards by the weights, as `learner/` does. Under DDP
every rank has the whole gradients and may hold a probe; one of them has the folder.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mgsrl.config.surgery import SurgeryConfig
from mgsrl.errors import ConfigError, nearest
from mgsrl.learner.spec import step_seed
from mgsrl.obs.rewind import rewind_logs
from mgsrl.obs.surgery_log import write_surgery
from mgsrl.obs.trackers import JsonlTracker
from mgsrl.report.page import build_report
from mgsrl.surgery import combine_, gramian, module_map, resolve
from mgsrl.surgery.gramian import Piece
from mgsrl.types import SurgeryReport


class SurgeryProbe:
    """Keeps every domain's gradient apart until `step`: a float32 row of all parameters for each,
    where the first parameter is (or on the CPU: `config.buffer_device`).

    Args:
        parameters: `model.named_parameters()`; those without `requires_grad` are left out.
        domains: names, two or more, in the order of the report.
        folder: where `metrics.jsonl`, `surgery/` and the report go; None keeps nothing.
        config: method, granularity, order, patterns; `measure_only=True` leaves the trainer's
            update alone. Reliability is not measured: it takes two gradients a domain.
        seed: of the projection orders, with the step.
        first_step: the number of the first step; what `folder` holds from there on is dropped, so
            that a trainer which resumes leaves no step twice.

    Raises:
        ConfigError: an unknown method or granularity, a setting that a probe does not have,
            parameters that belong to no module, or the folder of a run of mgsrl.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        domains: Sequence[str],
        folder: Path | str | None = None,
        config: SurgeryConfig | None = None,
        *,
        seed: int = 0,
        first_step: int = 1,
    ) -> None:
        self.domains = tuple(domains)
        self.config = config or SurgeryConfig()
        self.config.validate()
        _check_supported(self.config)
        trained = {name: p for name, p in parameters if p.requires_grad}
        module_of = module_map(
            list(trained),
            self.config.granularity,
            self.config.patterns,
            split_experts=self.config.split_experts,
        )
        self.modules = tuple(dict.fromkeys(module_of.values()))
        self.last_step = first_step - 1
        self._parameters = list(trained.values())
        self._module_index = [self.modules.index(module_of[name]) for name in trained]
        self._seed = seed
        self._rows_DN: Tensor | None = None
        self._log = None if folder is None else _open(Path(folder), first_step)
        self._folder = None if folder is None else Path(folder)

    def take(self, domain: str) -> None:
        """Add what the domain's backward left in `.grad` to its row, and clear `.grad`.

        Raises:
            ValueError: an unknown domain.
        """
        if domain not in self.domains:
            raise ValueError(f"unknown domain {domain!r}; {nearest(domain, self.domains)}")
        if self._rows_DN is None:
            size = sum(parameter.numel() for parameter in self._parameters)
            on_cpu = self.config.buffer_device == "cpu"
            home = torch.device("cpu") if on_cpu else self._parameters[0].device
            self._rows_DN = torch.zeros(len(self.domains), size, device=home)
        row_N = self._rows_DN[self.domains.index(domain)]
        for parameter, part in zip(self._parameters, self._parts(row_N)):
            if parameter.grad is not None:
                part.add_(parameter.grad.flatten().to(part))
                parameter.grad = None

    def step(self) -> SurgeryReport:
        """Resolve the conflicts, write the update into every `.grad` and forget the rows.

        A domain that was not taken since the last step has no gradient. Where there is no update
        to make (`report.problem`: a gradient is not finite) `.grad` is None, which optimizers pass
        over; under `measure_only` it is the sum even so.
        """
        if self._rows_DN is None:
            raise ValueError("step should follow take, found no gradient of any domain")
        rows_DN = self._rows_DN
        pieces: list[Piece] = list(zip(self._module_index, self._parts(rows_DN)))
        report = self.record(gramian(pieces, len(self.modules)))
        if self.config.measure_only:
            for row_N in rows_DN[1:]:  # one after the other, as backward itself adds
                rows_DN[0].add_(row_N)
        elif report.problem is None:
            combine_(pieces, report.weights_MD)
        for parameter, part in zip(self._parameters, self._parts(rows_DN[0])):
            wanted = report.problem is None or self.config.measure_only
            parameter.grad = part.view_as(parameter).to(parameter, copy=True) if wanted else None
        rows_DN.zero_()
        return report

    def record(self, gram_MDD: Tensor) -> SurgeryReport:
        """Resolve and log a Gramian that the caller made; `step` calls it.

        Args:
            gram_MDD: [M, D, D] inner products in the order of `modules` and `domains`, summed over
                ranks.

        Returns:
            `weights_MD` [M, D] of the update (all 1 under `measure_only`), and what led to them.
        """
        self.last_step += 1
        seed = step_seed(self._seed, self.last_step)
        report = resolve(gram_MDD, self.domains, self.modules, self.config, seed)
        if self._log is not None and self._folder is not None:
            self._log.log(self.last_step, report.scalars)
            write_surgery(self._folder, self.last_step, report)
        return report

    def write_report(self) -> Path:
        """Draw `surgery/heat_map.png` and write `report.html`; the path of the latter.

        Raises:
            ValueError: the probe has no folder.
            ConfigError: matplotlib is not installed.
        """
        if self._folder is None:
            raise ValueError("a probe without a folder has nothing to report on")
        report = build_report(self._folder)
        from mgsrl.report.heat_map import draw_heat_map  # needs matplotlib, which is there then

        draw_heat_map(self._folder)
        return report

    def _parts(self, rows: Tensor) -> Sequence[Tensor]:
        return rows.split([parameter.numel() for parameter in self._parameters], dim=-1)


def _check_supported(config: SurgeryConfig) -> None:
    measured = config.gate != "off" or config.reliability.every
    if measured or config.buffer_dtype != "float32":
        raise ConfigError(
            "A probe keeps one float32 gradient for each domain.",
            expected="gate off, reliability.every 0, buffer_dtype float32",
            found=f"gate {config.gate}, reliability.every {config.reliability.every}, "
            f"buffer_dtype {config.buffer_dtype}",
            todo="leave these out; `mgsrl.train` has them",
        )


def _open(folder: Path, first_step: int) -> JsonlTracker:
    if any((folder / name).exists() for name in ("config.yaml", "run.json")):
        raise ConfigError(
            "A probe does not write into the folder of a run of mgsrl.",
            expected="a folder of its own",
            found=str(folder),
            todo="choose another folder",
        )
    rewind_logs(folder, next_step=first_step, weight_version=-1)
    return JsonlTracker(folder, first_step)
