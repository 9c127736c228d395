"""Gradient surgery in any other trainer: domains' gradients in, the update and a report out.

    probe = SurgeryProbe(model.named_parameters(), ["math", "chat"], folder="runs/probe")
    for domain, batch in batches.items():
        loss(model, batch).backward()
        probe.take(domain)          # moves `.grad` into the domain's row
    probe.step()                    # resolves the conflicts, writes `.grad`
    optimizer.step()
    optimizer.zero_grad()           # or the update would be in the first domain's next row

`docs/python_api.md` does this to a plain loop and to TRL's `GRPOTrainer`. The folder is read by
`mgsrl.load_run` and `mgsrl report` as that of a run.
Left out: sharded gradients (ZeRO, FSDP). There whoever owns the shards sums their Gramians over the
ranks, gives them to `record` and combines the shards by the weights, as `learner/` does. Under DDP
every rank has the whole gradients and may hold a probe; one of them has the folder.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from mgsrl.surgery import (
    SurgeryMemory,
    combine_,
    gramian,
    module_map,
    reliability_of,
    resolve,
    whole_gramian,
)
from mgsrl.surgery.gramian import Piece, combine_into
from mgsrl.surgery.step_probe import clip_factor, norms_of, step_weights, with_probe
from mgsrl.surgery.step_trial import StepTrial
from mgsrl.types import StepProbe, SurgeryReport


class SurgeryProbe:
    """Keeps every domain's gradient apart until `step`: a float32 row of all parameters for each
    (two where reliability is measured), where the first parameter is (or on the CPU:
    `config.buffer_device`).

    Args:
        parameters: `model.named_parameters()`; those without `requires_grad` are left out.
        domains: names, two or more, in the order of the report.
        folder: where `metrics.jsonl`, `surgery/` and the report go; None keeps nothing.
        config: method, granularity, order, patterns; `measure_only=True` leaves the trainer's
            update alone. With `reliability.every` or `gate` a domain has two rows, one for each
            half of its prompts (`take`). A method with memory has it in `probe.memory`, whose
            `state_dict` belongs in the trainer's checkpoints.
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
        _check_supported(self.config, self.domains)
        trained = {name: p for name, p in parameters if p.requires_grad}
        module_of = module_map(
            list(trained),
            self.config.granularity,
            self.config.patterns,
            split_experts=self.config.split_experts,
        )
        self.modules = tuple(dict.fromkeys(module_of.values()))
        self.last_step = first_step - 1
        self.memory = SurgeryMemory(self.config.method, self.modules)
        self._parameters = list(trained.values())
        self._module_index = [self.modules.index(module_of[name]) for name in trained]
        self._seed = seed
        self._rows_RN: Tensor | None = None
        self._prompts: dict[tuple[str, int], int] = {}
        self._tried: StepProbe | None = None
        self._tokens: dict[str, int] = {}
        self._log = None if folder is None else _open(Path(folder), first_step)
        self._folder = None if folder is None else Path(folder)

    def take(
        self, domain: str, tokens: int | None = None, *, prompts: int = 0, half: int = 0
    ) -> None:
        """Add what the domain's backward left in `.grad` to its row, and clear `.grad`.

        Args:
            tokens: that this backward trained on, for the domains' shares in the report.
            prompts: that it was of, and
            half: 0 or 1, which half of the domain's prompts these were. Needed where reliability is
                measured: the update is the sum of both halves, their difference says how much of
                it is noise, and only prompts that are independent tell.

        Raises:
            ValueError: an unknown domain or half, or prompts that are no count.
        """
        if domain not in self.domains:
            raise ValueError(f"unknown domain {domain!r}; {nearest(domain, self.domains)}")
        if half not in ((0, 1) if self.config.ever_measures else (0,)):
            raise ValueError(f"half should be 0, or 1 where reliability is measured, found {half}")
        if not isinstance(prompts, int) or prompts < 0:
            raise ValueError(f"prompts should be a count, found {prompts!r}")
        count, at = len(self.domains), self.domains.index(domain)
        if self._rows_RN is None:
            size = sum(parameter.numel() for parameter in self._parameters)
            on_cpu = self.config.buffer_device == "cpu"
            home = torch.device("cpu") if on_cpu else self._parameters[0].device
            rows = 2 * count if self.config.ever_measures else count
            self._rows_RN = torch.zeros(rows, size, device=home)
        if tokens is not None:
            self._tokens[domain] = self._tokens.get(domain, 0) + tokens
        self._prompts[domain, half] = self._prompts.get((domain, half), 0) + prompts
        row_N = self._rows_RN[half * count + at]
        for parameter, part in zip(self._parameters, self._parts(row_N)):
            if parameter.grad is not None:
                part.add_(parameter.grad.flatten().to(part))
                parameter.grad = None

    def try_steps(
        self,
        optimizer: torch.optim.Optimizer,
        held_back: Mapping[str, Callable[[], Tensor]],
        max_grad_norm: float = 0.0,
    ) -> StepProbe | None:
        """What the optimizer's next step would do to the domains' losses: with the resolved
        gradient, with each domain's alone and with none (`surgery/step_probe.py`). To be called
        between the last `take` and `step`, whose report has it then. Weights, optimizer, gradients
        and generators are put back, to the bit.

        Args:
            optimizer: of the probe's parameters, any of PyTorch's kind.
            held_back: domain -> its loss on samples that are not in the gradients taken, in their
                unit. Called D + 4 times; it should leave no trace in the model.
            max_grad_norm: to which the trainer clips; 0 does not.

        Returns:
            None where a gradient is not finite.

        Raises:
            ValueError: nothing was taken yet, or a domain that has no loss.
        """
        if self._rows_RN is None or not self._prompts:
            raise ValueError("try_steps should follow take, found no gradient of any domain")
        if missing := set(self.domains) - set(held_back):
            raise ValueError(f"held_back should have every domain, found none of {sorted(missing)}")
        pieces: list[Piece] = list(zip(self._module_index, self._parts(self._rows_RN)))
        gram_MRR = gramian(pieces, len(self.modules))
        if not torch.isfinite(gram_MRR).all():
            return None
        halves = self._half_sizes()
        found = reliability_of(gram_MRR, self.modules, halves, self.config) if halves else None
        gram_MDD = whole_gramian(gram_MRR) if self.config.ever_measures else gram_MRR
        seed = step_seed(self._seed, self.last_step + 1)
        weights_SMD = step_weights(
            gram_MDD, self.domains, self.config, seed, found, self.memory.of(self.domains)
        )
        trial = StepTrial(
            self._parameters, optimizer, [held_back[domain] for domain in self.domains], seed
        )
        rows_per_domain = len(self._rows_RN) // len(self.domains)
        made = []
        with trial:
            for weights_MD, norm in zip(weights_SMD, norms_of(weights_SMD, gram_MDD), strict=True):
                row_N = torch.zeros_like(self._rows_RN[0])
                if torch.isfinite(weights_MD).all():
                    weights_MR = weights_MD.repeat(1, rows_per_domain)
                    combine_into(pieces, weights_MR, self._parts(row_N))
                    row_N.mul_(clip_factor(norm, max_grad_norm))
                    made.append(trial.make(self._parts(row_N)))
                else:
                    nothing_D = torch.full((len(self.domains),), math.nan, dtype=torch.float64)
                    made.append((nothing_D, nothing_D, math.nan))
        change, predicted, norms = zip(*made, strict=True)
        norm_S = torch.tensor(norms, dtype=torch.float64)
        self._tried = StepProbe(self.domains, torch.stack(change), torch.stack(predicted), norm_S)
        return self._tried

    def step(self) -> SurgeryReport:
        """Resolve the conflicts, write the update into every `.grad` and forget the rows.

        A domain that was not taken since the last step has no gradient. Where there is no update
        to make (`report.problem`: a gradient is not finite) `.grad` is None, which optimizers pass
        over; under `measure_only` it is the sum even so. After the optimizer's step `.grad` is to
        be cleared as ever: the first domain's backward would add to what is left there.
        """
        if self._rows_RN is None or not self._prompts:
            raise ValueError("step should follow take, found no gradient of any domain")
        pieces: list[Piece] = list(zip(self._module_index, self._parts(self._rows_RN)))
        gram_MRR = gramian(pieces, len(self.modules))
        halves = self._half_sizes()
        if self.config.ever_measures and not halves:
            gram_MRR = whole_gramian(gram_MRR)
        report = self.record(gram_MRR, halves)
        rows_DN = self._rows_RN[: len(self.domains)]
        if self.config.ever_measures:
            rows_DN.add_(self._rows_RN[len(self.domains) :])
            pieces = list(zip(self._module_index, self._parts(rows_DN)))
        if self.config.measure_only:
            for row_N in rows_DN[1:]:  # one after the other, as backward itself adds
                rows_DN[0].add_(row_N)
        elif report.problem is None:
            combine_(pieces, report.weights_MD)
        for parameter, part in zip(self._parameters, self._parts(rows_DN[0])):
            wanted = report.problem is None or self.config.measure_only
            parameter.grad = part.view_as(parameter).to(parameter, copy=True) if wanted else None
        self._rows_RN.zero_()
        self._prompts = {}
        return report

    def _half_sizes(self) -> list[tuple[int, int]]:
        """Prompts in the halves, by domain; nothing on a step that does not measure reliability."""
        if not self.config.measures_reliability(self.last_step + 1):
            return []
        if unknown := {domain for (domain, _), prompts in self._prompts.items() if not prompts}:
            raise ValueError(
                "take should have prompts= and half= where reliability is measured, found none "
                f"for {', '.join(sorted(unknown))}"
            )
        return [(self._prompts.get((d, 0), 0), self._prompts.get((d, 1), 0)) for d in self.domains]

    def record(self, gram_MRR: Tensor, half_sizes: Sequence[tuple[int, int]] = ()) -> SurgeryReport:
        """Resolve and log a Gramian that the caller made; `step` calls it.

        Args:
            gram_MRR: [M, D, D] inner products in the order of `modules` and `domains`, summed over
                ranks; with `half_sizes` [M, 2 D, 2 D], all first halves, then all second ones.
            half_sizes: prompts in the two halves, by domain.

        Returns:
            `weights_MD` [M, D] of the update (all 1 under `measure_only`), and what led to them.
        """
        self.last_step += 1
        seed = step_seed(self._seed, self.last_step)
        memory = self.memory.of(self.domains)
        report = resolve(
            gram_MRR, self.domains, self.modules, self.config, seed, half_sizes, memory
        )
        self.memory.keep(self.domains, report.memory)
        report, self._tried = with_probe(report, self._tried), None
        if self._log is not None and self._folder is not None:
            self._log.log(self.last_step, report.scalars)
            write_surgery(self._folder, self.last_step, report, self._tokens)
        self._tokens = {}
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


def _check_supported(config: SurgeryConfig, domains: Sequence[str]) -> None:
    if config.protect and config.protect not in domains:
        raise ConfigError(
            "surgery.protect names a domain that does not exist.",
            expected=f"one of {', '.join(domains)}",
            found=repr(config.protect),
            todo=f"correct the name ({nearest(config.protect, domains)})",
        )
    if config.step_probe.every or config.buffer_dtype != "float32":
        raise ConfigError(
            "A probe keeps float32 gradients, and tries steps when it is told to.",
            expected="step_probe.every 0, buffer_dtype float32",
            found=f"step_probe.every {config.step_probe.every}, buffer_dtype {config.buffer_dtype}",
            todo="leave these out; call `try_steps` on the steps that are to be tried",
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
