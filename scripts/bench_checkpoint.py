"""What saving a checkpoint costs: how long training waits, how long the disk takes, what memory.

    python scripts/bench_checkpoint.py --model ./models/SmolLM2-135M-Instruct --zero 2 3 --ranks 1 2

Real learner actors make one optimizer step (so that AdamW's moments are there), then save, in the
background and in the foreground by turns; the checkpoint is completed and loaded as a run does it.
Memory is the kernel's: the growth of each rank's peak RSS over what it had before the save
(`VmHWM`, reset by `/proc/PID/clear_refs`; torch's memory is unknown to Python's tracemalloc), so
this runs on Linux. Every row is the median of `--repeat` saves. Seconds of CPU are of all ranks and
the driver together.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from mgsrl.cluster.session import ray_session
from mgsrl.config import AlgoConfig, ClusterConfig, LearnerConfig, PolicyConfig, SurgeryConfig
from mgsrl.data.packing import Packing, pack
from mgsrl.learner.group import LearnerGroup
from mgsrl.learner.spec import LearnerSpec
from mgsrl.training.checkpoint import Draft, load_checkpoint, prune_checkpoints
from mgsrl.types import Prompt, Reward, Rollout, RolloutGroup

GIB = 2**30
POLL_S = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--zero", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    args = parser.parse_args()
    print(
        "| zero | ranks | mode | training waits | until on disk | complete | CPU s | bytes | "
        "peak memory a rank | load: verify | load: learners |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    with ray_session(ClusterConfig(object_store_gib=0.2)):
        for stage in args.zero:
            for ranks in args.ranks:
                measure(args, stage, ranks)


def measure(args: argparse.Namespace, stage: int, ranks: int) -> None:
    """Both modes by turns on one set of learners."""
    learners = _learners(args, stage, ranks)
    rows: dict[str, list[dict[str, float]]] = {"background": [], "foreground": []}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        step = 0
        for _ in range(args.repeat):
            for mode, found in rows.items():
                step += 1
                found.append(save(learners, Path(folder), step, mode == "background"))
                prune_checkpoints(Path(folder), 1)
    learners.stop()
    for mode, found in rows.items():
        row = {name: statistics.median(each[name] for each in found) for name in found[0]}
        print(
            f"| {stage} | {ranks} | {mode} | {row['wait']:.2f} s | {row['disk']:.2f} s "
            f"| {row['complete'] * 1e3:.0f} ms | {row['cpu']:.1f} | {row['bytes'] / GIB:.3f} GiB "
            f"| {row['memory'] / GIB:.3f} GiB | {row['verify']:.2f} s | {row['load']:.2f} s |",
            flush=True,
        )


def save(learners: LearnerGroup, folder: Path, step: int, background: bool) -> dict[str, float]:
    """One checkpoint: seconds, bytes, and the largest growth of a rank's peak memory in bytes."""
    ranks = [p for p in psutil.Process().children(recursive=True) if _is_learner(p)]
    before = [_memory(rank, "VmRSS") for rank in ranks]
    for rank in ranks:
        Path(f"/proc/{rank.pid}/clear_refs").write_text("5")
    cpu, begin = _cpu_seconds(ranks), time.perf_counter()
    draft = Draft(folder, step)
    draft.add({})
    learners.save(draft.learner, background=background)
    wait = time.perf_counter() - begin
    while (written := learners.saved(wait=False)) is None:
        time.sleep(POLL_S)
    disk = time.perf_counter() - begin
    path = draft.complete(written)
    complete = time.perf_counter() - begin - disk
    cpu = _cpu_seconds(ranks) - cpu
    peak = [_memory(rank, "VmHWM") for rank in ranks]
    begin = time.perf_counter()
    load_checkpoint(path)
    verify = time.perf_counter() - begin
    learners.load(path / "learner")
    return {
        "wait": wait,
        "disk": disk,
        "complete": complete,
        "cpu": cpu,
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "memory": max(after - start for after, start in zip(peak, before, strict=True)),
        "verify": verify,
        "load": time.perf_counter() - begin - verify,
    }


def _learners(args: argparse.Namespace, stage: int, ranks: int) -> LearnerGroup:
    spec = LearnerSpec(
        policy=PolicyConfig(path=args.model),
        learner=LearnerConfig(
            world_size=ranks,
            zero_stage=stage,
            device=args.device,
            dtype=args.dtype,
            micro_batch_size=1,
        ),
        algos={"math": AlgoConfig(kl_coef=0.0)},
        surgery=SurgeryConfig(),
        seed=0,
        num_steps=2,
    )
    learners = LearnerGroup(spec)
    rollouts = tuple(Rollout(f"{i}", (5, 6 + i, 7), (-1.0,) * 3, "", "stop", 0) for i in range(2))
    prompt = Prompt("0", "math", (), (3, 4))
    group = RolloutGroup(prompt, rollouts, (Reward(1.0), Reward(0.0)), (1.0, -1.0))
    packing = Packing(
        micro_batch_size=1,
        world_size=ranks,
        max_response_length=8,
        temperatures={"math": 1.0},
    )
    learners.load_batch(pack({"math": [group]}, packing))
    learners.accumulate("math")
    learners.resolve_conflicts(0)
    learners.optimizer_step(0)
    return learners


def _is_learner(process: psutil.Process) -> bool:
    try:
        return "ray::LearnerWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _memory(process: psutil.Process, field: str) -> int:
    """Bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text().split()
    return int(status[status.index(f"{field}:") + 1]) * 1024


def _cpu_seconds(ranks: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in (*ranks, psutil.Process())]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    main()
