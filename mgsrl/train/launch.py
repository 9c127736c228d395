"""One `mgsrl train` from the checked configuration to the report."""

import time
from pathlib import Path

from mgsrl.config import Config
from mgsrl.obs.console import Console
from mgsrl.train.checkpoint import Checkpoint
from mgsrl.train.folder import run_folder


def launch(config: Config) -> None:
    """Train (or go on training) and write the report; the last line says where it is."""
    from mgsrl.report.build import build_report

    begin = time.monotonic()
    notes: list[str] = []
    with run_folder(config, notes.append) as checkpoint:
        for note in notes:
            print(note)
        folder = Path(config.run.dir)
        done = checkpoint.step if checkpoint else 0
        if done >= config.train.num_steps:
            print(f"{folder} is finished ({done} steps); resume=never starts it anew")
        else:
            _train(config, checkpoint)
        report = build_report(folder)
    print(f"done in {(time.monotonic() - begin) / 60:.1f} min; report: {report.resolve()}")


def _train(config: Config, checkpoint: Checkpoint | None) -> None:
    # Imported here: torch and Ray take seconds, which a finished run need not wait for.
    from mgsrl.cluster.session import ray_session
    from mgsrl.obs.run_record import finish_run_record
    from mgsrl.train.build import build, plan
    from mgsrl.train.loop import train

    first_step = checkpoint.step if checkpoint else 0
    folder = Path(config.run.dir)
    with Console(config.trackers.console, config.train.num_steps, first_step=first_step) as console:
        with console.stage("loading model and data"):
            ready = plan(config)
        for note in ready.notes:
            console.note(note)
        with ray_session(config.cluster), build(config, ready, checkpoint, console) as run:
            try:
                train(run)
            except BaseException as error:
                run.trackers.close()
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                message = f"{type(error).__name__}: {error}"
                finish_run_record(folder, status=status, last_step=run.step, error=message)
                raise
            finish_run_record(folder, status="finished", last_step=run.step)
