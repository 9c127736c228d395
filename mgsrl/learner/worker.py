"""One learner rank: the verbs of a training step, each a collective over all ranks.

A plain class: `group.py` makes a Ray actor of it, the tests spawn it with torch.multiprocessing.
Every method is called on every rank with equal arguments (micro-batches apart), and returns the
same on every rank unless its docstring says otherwise.
"""

import math
import socket
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist

from mgsrl.algo.losses import domain_stats, policy_loss
from mgsrl.cluster.logs import own_log
from mgsrl.config.surgery import SURGERY_METHODS
from mgsrl.data.token_row import scoring_batch
from mgsrl.errors import InvariantError
from mgsrl.learner import checkpoint, runtime
from mgsrl.learner.domain_grads import DomainGradients
from mgsrl.learner.engine import make_engine, set_learning_rate
from mgsrl.learner.layout import gathered, whole_shape
from mgsrl.learner.learning_rate import learning_rate
from mgsrl.learner.objective import Objective, Prepared, moved
from mgsrl.learner.offload import make_layout
from mgsrl.learner.parking import Parking
from mgsrl.learner.policy import load_forward
from mgsrl.learner.reference import Reference
from mgsrl.learner.shard_file import ShardFile, Written
from mgsrl.learner.spec import Engines, LearnerSpec, step_seed
from mgsrl.learner.step_probe import HeldBack, probe_steps
from mgsrl.learner.teachers import Teachers
from mgsrl.plugins import plugin_files
from mgsrl.surgery import SurgeryMemory, module_map, resolve, surgery_method
from mgsrl.sync.backend import WeightLine
from mgsrl.sync.fingerprint import Published
from mgsrl.sync.publication import Publication
from mgsrl.sync.source import WeightSource
from mgsrl.types import BatchTotals, DomainStats, MicroBatch, StepProbe, StepStats, SurgeryReport

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class LearnerWorker:
    """The learner of one rank.

    Args:
        spec: what is trained and how.
        rank, world_size: this rank's place.
        device: `cpu` or `cuda`.
        num_threads: CPU threads; 0 leaves torch's choice.
    """

    def __init__(
        self, spec: LearnerSpec, rank: int, world_size: int, device: str, num_threads: int = 0
    ) -> None:
        self._rank = runtime.prepare_process(rank, world_size, device, num_threads)
        self._spec = spec
        self._server: socket.socket | None = None
        self._batch: dict[str, list[Prepared]] = {}
        self._totals = BatchTotals(0, 0, 1)
        self._report: SurgeryReport | None = None
        self._half_sizes: Mapping[str, tuple[int, int]] = {}
        self._parking = Parking()
        self._resting = False
        self._line: WeightLine | None = None
        self._saving: ShardFile | None = None

    # ---- start -----------------------------------------------------------------------------

    def ready(self) -> dict[str, Any]:
        """Where this rank runs, and where its log is."""
        return {"rank": self._rank.index, "device": str(self._rank.device), "log": own_log()}

    def node_address(self) -> str:
        """The address of this rank's machine inside the Ray cluster."""
        import ray

        address: str = ray.util.get_node_ip_address()
        return address

    def offer_address(self, host: str) -> str:
        """Rank 0 only: bind the rendezvous socket on `host`; the address the ranks join."""
        self._server = runtime.listen(host)
        return f"{host}:{self._server.getsockname()[1]}"

    def start(self, address: str) -> None:
        """Join the other ranks and load the policy (and the reference, if the KL needs one)."""
        spec, config = self._spec, self._spec.learner
        torch.manual_seed(spec.seed)
        self._host = address.rpartition(":")[0]
        runtime.join(self._rank, address, config.time_limit_s, self._server)
        self._load_plugins()
        dtype = DTYPES[config.dtype]
        forward = load_forward(spec.policy, dtype, config.share_prompts)
        if config.gradient_checkpointing:
            forward.policy.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        self.policy: Any = forward.policy
        names = {id(param): name for name, param in self.policy.named_parameters()}
        trained = [name for name, param in self.policy.named_parameters() if param.requires_grad]
        module_of = module_map(
            trained,
            spec.surgery.granularity,
            spec.surgery.patterns,
            split_experts=spec.surgery.split_experts,
        )
        self._engine = make_engine(forward, config, self._rank.device.type)
        self.layout = make_layout(self._engine, names, config.zero_stage, config.offload_optimizer)
        home = torch.device("cpu") if config.offload_optimizer else self._rank.device
        self.grads = DomainGradients(
            self.layout,
            module_of,
            list(dict.fromkeys(module_of.values())),
            self._rank.device,
            home,
            torch.device("cpu") if spec.surgery.buffer_device == "cpu" else home,
            DTYPES[spec.surgery.buffer_dtype],
        )
        self.memory = SurgeryMemory(spec.surgery.method, self.grads.modules)
        self.source = WeightSource(self.policy, gathered, whole_shape)
        self.reference: Reference | None = None
        if any(algo.kl_coef > 0 for algo in spec.algos.values()):
            self.reference = Reference(spec.policy, config, dtype, self._rank.device)
        self.teachers = Teachers(spec, dtype, self._rank.device)

    def _load_plugins(self) -> None:
        """What the configuration names, before the first step; one's own must be equal on all."""
        self._policy_losses = {a.loss: policy_loss(a.loss) for a in self._spec.algos.values()}
        surgery_method(self._spec.surgery.method)
        code = _code("".join(plugin["sha256"] for plugin in plugin_files().values()))
        self._assert_lockstep([code], "the code of a plug-in (surgery.method, algo.loss)")

    # ---- one update ------------------------------------------------------------------------

    def load_batch(
        self,
        micro_batches: Mapping[str, Sequence[MicroBatch]],
        totals: BatchTotals,
        half_sizes: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    ) -> None:
        """Take this rank's micro-batches; score them with the reference if the KL needs it."""
        self._totals, self._half_sizes = totals, half_sizes
        self._assert_lockstep([len(micro_batches)], "the number of domains")
        counts = [*map(_code, micro_batches), *map(len, micro_batches.values())]
        self._assert_lockstep(counts, "domains and numbers of micro-batches")
        with self.reference.at_hand() if self.reference is not None else nullcontext():
            self._batch = {
                domain: [self._prepare(batch) for batch in batches]
                for domain, batches in micro_batches.items()
            }
        self.teachers.score(self._batch)
        self.grads.start(list(self._batch), halves=bool(half_sizes))

    def _prepare(self, batch: MicroBatch) -> Prepared:
        batch = moved(batch, self._rank.device)
        ref = self.reference if self._spec.algos[batch.domain].kl_coef > 0 else None
        return Prepared(batch, ref.logprobs(batch) if ref else None)

    def _forward(
        self, batch: MicroBatch, entropy: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probabilities, entropies), both [B, L], of the policy; see `PolicyForward`."""
        found: tuple[torch.Tensor, torch.Tensor] = self._engine(
            batch.token_ids_T, batch.layout, batch.response_mask_BL, batch.temperature, entropy
        )
        return found

    def accumulate(self, domain: str) -> DomainStats:
        """Forward, loss, backward over one domain's micro-batches; its gradient is kept apart.

        Micro-batches that do not train are computed forwards only. A domain of no others has a
        gradient of zero.

        Raises:
            InvariantError: the ranks hold different domains in one micro-step (on all ranks).
        """
        sums: dict[str, torch.Tensor] = {}
        for item in self._batch[domain]:
            if self._spec.learner.assert_purity:
                batch = item.batch
                self._assert_lockstep(
                    [_code(domain), _code(batch.domain), batch.half, batch.trains],
                    f"the domain of a micro-step ({domain})",
                )
            with torch.set_grad_enabled(item.batch.trains):
                found = self._micro_step(domain, item)
            for name, value in found.items():
                sums[name] = sums[name] + value if name in sums else value
        if not any(item.batch.trains for item in self._batch[domain]):
            self.grads.add_nothing(domain)
        return self._domain_stats(domain, sums)

    def _micro_step(self, domain: str, item: Prepared) -> dict[str, torch.Tensor]:
        batch = item.batch
        if batch.domain != domain:
            raise InvariantError(f"a micro-batch of {batch.domain} among those of {domain}")
        logprobs_BL, entropy_BL = self._forward(batch)
        output = self._objective()(item, logprobs_BL, entropy_BL)
        if item.old_logprobs_BL is None and self._spec.updates_per_batch > 1:
            item.old_logprobs_BL = logprobs_BL.detach()
        if batch.trains:
            self.grads.expect(domain, batch.half)
            # The denominators are global and DeepSpeed takes the mean over ranks: undo the mean.
            self._engine.backward(output.loss * self._rank.world_size, scale_wrt_gas=False)
            self.grads.add(domain, batch.half)
        return output.sums

    def _objective(self) -> Objective:
        return Objective(self._spec.algos, self._policy_losses, self._totals)

    def _domain_stats(self, domain: str, sums: dict[str, torch.Tensor]) -> DomainStats:
        names = sorted(sums)
        total = torch.stack([sums[name].double() for name in names]).to(self._rank.device)
        dist.all_reduce(total)
        return domain_stats(dict(zip(names, total.tolist())), self._spec.algos[domain])

    def probe_steps(self, step: int) -> StepProbe | None:
        """Try the steps that could follow on what was accumulated, of a batch packed in halves,
        and take them back: the weights, the optimizer and the gradients stay as they are, to the
        bit. None where a gradient is not finite."""
        held_back = HeldBack(
            self._batch, self._forward, self._objective(), step_seed(self._spec.seed, step)
        )
        spec, device, memory = self._spec, self._rank.device, self.memory.of(self.grads.domains)
        return probe_steps(
            self.grads, self.layout, spec, step, self._half_sizes, held_back, device, memory
        )

    def resolve_conflicts(self, step: int) -> SurgeryReport:
        """Gramian per module (one all-reduce), weights, and the combination in place.

        A Gramian that is not finite, or for which the method finds no finite weights, gives
        weights of zero, and `optimizer_step` skips the step. All ranks hold the same Gramian,
        so they skip together.
        """
        domains = self.grads.domains
        report = resolve(
            self.grads.gramian(),
            domains,
            self.grads.modules,
            self._spec.surgery,
            step_seed(self._spec.seed, step),
            [self._half_sizes[domain] for domain in domains] if self._half_sizes else (),
            self.memory.of(domains),
        )
        if (method := self._spec.surgery.method) not in SURGERY_METHODS.members:
            # A user's that draws from a generator of its own would tear the ranks' weights apart.
            decided = zlib.crc32(report.weights_MD.numpy().tobytes())
            self._assert_lockstep([decided], f"what surgery.method={method} gave")
        if report.problem is None:
            self.grads.combine(report.weights_MD)
        self._report = report
        return report

    def optimizer_step(self, step: int) -> StepStats:
        """Clip by the global norm and step AdamW, at the learning rate of step `step`.

        Skipped, with the reason, when there is no finite update to make.
        """
        report, self._report = self._report, None
        if report is None:
            raise InvariantError("optimizer_step should follow resolve_conflicts")
        self.memory.keep(report.domains, report.memory)  # not before: a signal saves the last step
        lr = learning_rate(self._spec.learner.optimizer, step, self._spec.num_steps)
        gram_MDD, weights_MD = report.gram_MDD, report.weights_MD
        # |sum_d w_d g_d|^2 = w^T G w: the global norm, known on every rank already.
        square = torch.einsum("md,mde,me->", weights_MD, gram_MDD, weights_MD).item()
        if report.problem is not None or not math.isfinite(square):
            self.grads.restart()
            reason = report.problem or "the norm of the resolved gradient is not finite"
            return StepStats(math.nan, lr, skipped=True, reason=reason)
        set_learning_rate(self._engine, lr)
        self.layout.check_present()
        self.layout.put_gradient(self.grads.combined())
        self._engine.step()
        self.layout.clear_gradients()
        self.grads.restart()  # the next update on the same batch, if any
        return StepStats(math.sqrt(max(square, 0.0)), lr, skipped=False)

    # ---- weights ---------------------------------------------------------------------------

    @torch.no_grad()
    def logprobs(self, sequences: Sequence[Sequence[int]], temperature: float) -> list[list[float]]:
        """Log-probability of every token given its prefix (0.0 for the first), per sequence."""
        size = self._spec.learner.micro_batch_size
        rows: list[list[float]] = []
        for start in range(0, len(sequences), size):
            part = sequences[start : start + size]
            batch = moved(scoring_batch(part, temperature), self._rank.device)
            scored_BL = self._forward(batch, entropy=False)[0].cpu()
            rows += [
                [0.0, *row[: len(tokens) - 1].tolist()] for row, tokens in zip(scored_BL, part)
            ]
        return rows

    def fingerprints(self) -> Published:
        """Of what was last published; on rank 0, empty on the others."""
        return self._line.fingerprints if self._line is not None else {}

    def connect_rollouts(self, handles: Sequence[Any], transfer: str, engines: Engines) -> None:
        """Open the line to the rollout actors, by a transfer that was chosen."""
        from mgsrl.sync.client import RolloutClient

        client = RolloutClient(
            handles,
            engines.limit_s,
            ranks_per_worker=engines.ranks_per_worker,
            busy_limit_s=engines.busy_limit_s,
        )
        publication = Publication(
            self.source,
            self.policy,
            as_checkpoint=engines.take_checkpoints,
            engine_dtype=DTYPES[engines.dtype],
            keep=self._rank.index == 0,
        )
        if self._line is not None:
            self._line.close()
        self._line = WeightLine(transfer, publication, client, self._rank.index, self._host)

    def publish(self, version: int) -> list[int]:
        """Send the current weights to the connected rollout actors as `version`.

        Returns:
            Positions of the actors that died (rank 0 knows; empty on the others): they must be
            replaced and connected, and the version published again.
        """
        if self._line is None:
            raise InvariantError("publish should follow connect_rollouts")
        lost = self._line.publish(version)
        if self._resting:  # the engine on this GPU takes the rest of it next
            runtime.free_cache(self._rank.device)
        return lost

    def rest(self) -> None:
        """Free what only learning needs (`learner.offload_during_rollout`); publishing goes on."""
        self.grads.release()
        if self._spec.learner.offload_during_rollout:
            frozen = filter(None, (self.reference, *self.teachers.models))
            self._parking.park_learner(self.layout, self.policy, frozen)
        self._resting = True
        runtime.free_cache(self._rank.device)

    def resume(self) -> None:
        """Be able to learn again after `rest`."""
        self._parking.bring_back()
        self._resting = False

    # ---- state -----------------------------------------------------------------------------

    def save(self, path: str, background: bool = False) -> None:
        """Write this rank's part of a checkpoint into the folder `path`; in the background, return
        when the state is copied (its memory: `shard_file.py`). `saved` tells how it ends."""
        self._saving = checkpoint.state_file(Path(path), self.layout, self.reference, self.memory)
        self._saving.write(background=background)

    def saved(self, wait: bool = True) -> Written | None:
        """What became of the last `save`, this rank's part; None while it is under way."""
        if self._saving is None:
            raise InvariantError("saved should follow save")
        return self._saving.outcome(wait=wait)

    def load(self, path: str) -> None:
        """Continue from a checkpoint, of any world size and ZeRO stage."""
        checkpoint.load_state(Path(path), self.layout, self.reference, self.memory)

    def reset_optimizer(self) -> None:
        """Fresh AdamW moments, as before the first step."""
        self.layout.reset_optimizer()

    def move_reference(self) -> None:
        """Make the current policy the reference of the KL term (if there is one)."""
        if self.reference is not None:
            self.reference.move_to(self.source)

    def stop(self) -> None:
        """Leave the process group."""
        if self._line is not None:
            self._line.close()
        if dist.is_initialized():
            dist.destroy_process_group()

    def _assert_lockstep(self, values: list[int], what: str) -> None:
        if not runtime.all_equal(values, self._rank.device):
            raise InvariantError(f"the learner ranks differ in {what}")


def _code(name: str) -> int:
    return zlib.crc32(name.encode())
