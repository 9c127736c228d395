"""What `import mgsrl` offers: train, and read what a run left behind. `mgsrl train` calls the same.

`report/load.py` reads run folders too, and never fails: a report is wanted most after a crash.
Here a damaged file is an error, told when it is asked for. Left out: starting a run without waiting
for it (a process of its own does that), and verifying checkpoints.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgsrl.config import Config
from mgsrl.config.compose import checked_config, compose_config, config_from_yaml

if TYPE_CHECKING:
    import pandas as pd


def train(
    overrides: Sequence[str] | Config = (),
    file: Path | str | None = None,
    folder: Path | str | None = None,
) -> "RunFolder":
    """Train to the last step, or go on with a run that was stopped, and return its folder.

    The same run as `mgsrl train OVERRIDES`, to the bit. It may be called again and again in one
    process, and where an event loop is running (a notebook). A Ray session of this process is used
    only with `cluster.address=auto`, and left as it is.

    Args:
        overrides: as on the command line, `["strategy=mixed", "train.num_steps=5"]`; or a whole
            configuration, made by `compose_config` and changed since.
        file: an experiment of one's own, a YAML file (`--config`).
        folder: configuration files of one's own (`--config-dir`); None takes `./configs`.

    Raises:
        UserError: a configuration, path or data file that cannot work.
        MgsrlError: what ended the run otherwise.
        KeyboardInterrupt: Ctrl-C; how to go on is printed, as on the command line.
    """
    command: list[str] = []
    if isinstance(overrides, Config):
        config = checked_config(overrides)
    else:
        config = compose_config(overrides, file, folder)
        command = ["mgsrl", "train", *overrides]
        for flag, path in zip(("--config", "--config-dir"), (file, folder)):
            command += [flag, str(path)] if path is not None else []
    _check_places(config)
    # Imported here: torch and Ray take seconds, which a mistake must not wait for.
    from mgsrl.training.launch import launch

    launch(config, command)
    return RunFolder(Path(config.run.dir))


def load_run(run_dir: Path | str) -> "RunFolder":
    """The run in `run_dir`, finished or not.

    Raises:
        MissingPathError: the folder does not exist or holds nothing of a run.
    """
    from mgsrl.report.load import check_run_folder

    folder = Path(run_dir).expanduser()
    check_run_folder(folder)
    return RunFolder(folder)


@dataclass(frozen=True)
class RunFolder:
    """A run's folder. Tables are read when they are first asked for, and kept: of a run that goes
    on, `load_run` again sees more. It serves as a path (`open`, `os.path.join`, `Path`)."""

    dir: Path

    def __fspath__(self) -> str:
        return str(self.dir)

    @cached_property
    def config(self) -> Config:
        """The whole configuration. Raises MissingPathError without `config.yaml`, ConfigError for
        that of another version."""
        return config_from_yaml(self.dir / "config.yaml")

    @cached_property
    def record(self) -> dict[str, Any]:
        """`run.json`: status, sessions, versions, hardware; empty if there is none."""
        from mgsrl.obs.run_record import read_run_record

        return read_run_record(self.dir)

    @cached_property
    def metrics(self) -> "pd.DataFrame":
        """A row for each training step, indexed by `step` (ascending, each once); `docs/metrics.md`
        lists the columns. NaN where a step did not log a value or it was not finite. No rows before
        the first step. Raises DataError for a damaged line (but the last)."""
        import pandas as pd

        from mgsrl.obs.metrics import read_metrics

        rows = read_metrics(self.dir)
        index = pd.Index([row.pop("step") for row in rows], name="step", dtype="int64")
        # null stands for NaN in the file; of nulls alone pandas would make a column of objects
        values = [{k: float("nan") if v is None else v for k, v in row.items()} for row in rows]
        return pd.DataFrame(values, index=index)

    @cached_property
    def evaluations(self) -> "pd.DataFrame":
        """Held-out scores: a row for each step and domain, the columns those of
        `obs.evaluation_log.EvalResult`; step 0 is before training. No rows without evaluations.
        Raises DataError for a damaged line (but the last)."""
        import pandas as pd

        from mgsrl.obs.evaluation_log import EvalResult, read_evaluations

        columns = [field.name for field in fields(EvalResult)]
        return pd.DataFrame([asdict(r) for r in read_evaluations(self.dir)], columns=columns)

    @cached_property
    def surgery(self) -> "pd.DataFrame":
        """What surgery saw: a row for each step, module and pair of domains; `obs/surgery_log.py`
        describes the columns. Large for long runs of many domains."""
        from mgsrl.obs.surgery_log import read_surgery

        return read_surgery(self.dir).to_pandas()

    @cached_property
    def kinds(self) -> "pd.DataFrame":
        """The same per kind of module (attention, mlp, ...), with conflict rates and effective
        dimension: a row for each step, kind and pair of domains."""
        from mgsrl.obs.surgery_log import read_surgery

        return read_surgery(self.dir, table="kinds").to_pandas()

    @cached_property
    def shares(self) -> "pd.DataFrame":
        """What each domain has of a step's tokens and gradients: a row for each step and domain;
        `obs/surgery_log.py` describes the columns, here and of `step_probes`."""
        from mgsrl.obs.surgery_log import read_surgery

        return read_surgery(self.dir, table="domains").to_pandas()

    @cached_property
    def step_probes(self) -> "pd.DataFrame":
        """What steps that were tried (`surgery.step_probe`) did to the domains' losses: a row for
        each probed step, trial and domain. No rows without probes."""
        from mgsrl.obs.surgery_log import read_surgery

        return read_surgery(self.dir, table="probe").to_pandas()

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Step -> folder of every complete checkpoint now, ascending."""
        from mgsrl.training.checkpoint import checkpoint_steps

        folder = self.dir / "checkpoints"
        return {step: folder / f"step_{step}" for step in checkpoint_steps(folder)}

    @property
    def best(self) -> Path | None:
        """The checkpoint with the best held-out scores, which may be no better than the policy
        before training; None when none was ever compared. Raises MissingPathError when it is gone.
        """
        from mgsrl.training.checkpoint import BEST, best_checkpoint

        folder = self.dir / "checkpoints"
        return best_checkpoint(folder) if (folder / BEST).is_file() else None


def _check_places(config: Config) -> None:
    from mgsrl.cluster.preflight import has_gpu_device
    from mgsrl.config.places import check_places

    wants_gpus = config.learner.device == "cuda" or any(
        domain.reward.num_gpus for domain in config.domains.values()
    )
    if has_gpu_device() or not wants_gpus:  # else a lack of GPUs is told first
        check_places(config)
