"""A comparison as Slurm arrays: one array of seeds for each arm, by `scripts/slurm/train.sbatch`.

That script makes the tasks of an array the seeds of a run and gives each the folder `-seedN`, which
is what cells are called. So the arrays need nothing of their own, requeueing included, and the
command without `--slurm` finds their runs where its own would be. Left out: submitting (the options
of `sbatch` are the cluster's), and one array over different arms.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from mgsrl.compare.cells import Cell, read_plan, standing, write_plan
from mgsrl.config.compose import config_dir
from mgsrl.config.quoting import spelled
from mgsrl.errors import ConfigError, MissingPathError

FILE = "submit.sh"


def write_submit_script(cells: Sequence[Cell], folder: Path) -> tuple[Path, int]:
    """Write `folder/submit.sh`, which submits what is not finished; its arguments are options of
    `sbatch`. Returns the script and how many runs it starts.

    Raises:
        MissingPathError: this is no checkout, where `scripts/` is.
        ConfigError: `folder` has characters that the job's script cannot add a seed to.
    """
    sbatch = config_dir().parent / "scripts" / "slurm" / "train.sbatch"
    if not sbatch.is_file():
        raise MissingPathError(
            "--slurm needs the job's script.",
            expected="a checkout of mgsrl",
            found=f"no {sbatch}",
            todo="run mgsrl from a checkout (pip install -e .)",
        )
    if spelled(str(folder)) != str(folder):
        raise ConfigError(
            "--slurm cannot use this folder.",
            expected="letters, digits and / . - _ in compare.dir",
            found=str(folder),
            todo="choose another compare.dir",
        )
    lines = [
        "#!/usr/bin/env bash",
        "# Submits the runs of this comparison that were not finished when it was written: one",
        "# array of seeds for each arm. Arguments are options of sbatch:",
        f"#   bash {shlex.quote(str(folder / FILE))} --gpus-per-node=8 --time=24:00:00",
        "set -euo pipefail",
        f"cd {shlex.quote(str(Path.cwd()))}",
    ]
    missing = [cell for cell in cells if standing(cell).state != "finished"]
    for arm in dict.fromkeys(cell.arm for cell in missing):
        own = [cell for cell in missing if cell.arm == arm]
        seeds = ",".join(str(cell.seed) for cell in own)
        first = own[0]
        place = str(first.dir).removesuffix(f"-seed{first.seed}")
        words = [*first.overrides[:-2], f"run.dir={spelled(place)}", *first.files]
        job = f"--job-name={first.dir.name.removesuffix(f'-seed{first.seed}')}"
        command = ["sbatch", f"--array={seeds}", job]
        lines.append(f'{shlex.join(command)} "$@" {shlex.join([str(sbatch), *words])}')
    write_plan(folder, cells, read_plan(folder).get("cells", {}))
    (folder / FILE).write_text("\n".join([*lines, ""]), encoding="utf-8")
    return folder / FILE, len(missing)
