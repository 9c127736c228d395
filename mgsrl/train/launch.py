"""One `mgsrl train`: from the checked configuration to the report."""

import time
from dataclasses import replace
from pathlib import Path

import torch

from mgsrl.cluster.session import ray_session
from mgsrl.config import Config
from mgsrl.config.compose import config_from_yaml, config_to_yaml
from mgsrl.config.resume import resume_obstacles
from mgsrl.obs.console import Console
from mgsrl.obs.run_record import finish_run_record
from mgsrl.report.build import build_report
from mgsrl.train.build import build, check_gpus
from mgsrl.train.checkpoint import Checkpoint
from mgsrl.train.folder import run_folder
from mgsrl.train.loop import train
from mgsrl.train.plan import plan


def launch(config: Config) -> None:
    """Train (or go on training) and write the report; the last line says where it is."""
    begin = time.monotonic()
    # Absolute from here on: actors have working directories of their own.
    config.run.dir = str(Path(config.run.dir).expanduser().resolve())
    folder, notes = Path(config.run.dir), list[str]()

    def changes(saved: Path) -> list[str]:
        return resume_obstacles(config_from_yaml(saved), config, notes.append)

    yaml = config_to_yaml(config)
    with run_folder(folder, config.resume, yaml, changes, notes.append) as checkpoint:
        for note in notes:
            print(note)
        done = checkpoint.step if checkpoint else 0
        if done >= config.train.num_steps:
            print(f"{folder} is finished ({done} steps); resume=never starts it anew")
        else:
            _train(config, checkpoint)
        report = build_report(folder)
    print(f"done in {(time.monotonic() - begin) / 60:.1f} min; report: {report.resolve()}")


def _train(config: Config, checkpoint: Checkpoint | None) -> None:
    first_step = checkpoint.step if checkpoint else 0
    folder = Path(config.run.dir)
    with Console(config.trackers.console, config.train.num_steps, first_step=first_step) as console:
        cluster = config.cluster
        if cluster.address == "local":  # checked before the seconds that loading takes
            gpus = _local_gpus(config)
            cluster = replace(cluster, num_gpus=gpus)
            check_gpus(config, gpus)
        with console.stage("loading model and data"):
            ready = plan(config)
        for note in ready.notes:
            console.note(note)
        with ray_session(cluster), build(config, ready, checkpoint, console) as run:
            try:
                train(run)
            except BaseException as error:
                run.journal.trackers.close()
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                message = f"{type(error).__name__}: {error}"
                finish_run_record(folder, status=status, last_step=run.step, error=message)
                raise
            finish_run_record(folder, status="finished", last_step=run.step)


def _local_gpus(config: Config) -> int:
    """GPUs that a Ray on this machine should hand out: none when nothing would use them."""
    wanted = config.learner.device != "cpu" or any(
        domain.reward.num_gpus > 0 for domain in config.domains.values()
    )
    limit = config.cluster.num_gpus
    found = torch.cuda.device_count() if wanted else 0
    return found if limit is None else min(found, limit)
