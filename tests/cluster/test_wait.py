"""Why a worker died, in one line."""

from mgsrl.cluster.wait import LONGEST_REASON, short_reason, timed_out
from mgsrl.errors import WorkerDiedError

RAY_SAYS = """The actor died unexpectedly before finishing this task.
\tclass_name: A
\tactor_id: 5f3e668a22377333d684e7a601000000
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with a connection error code 2. End of file. There are some \
potential root causes. (1) The process is killed by SIGKILL by OOM killer due to high memory usage.
"""


def test_rays_dozen_lines_become_one() -> None:
    reason = short_reason(WorkerDiedError(f"an actor died while x was waited for: {RAY_SAYS}"))
    assert reason == "Worker unexpectedly exits with a connection error code 2. End of file."


def test_any_error_has_a_short_reason() -> None:
    assert short_reason(WorkerDiedError("")) == "WorkerDiedError"
    assert short_reason(timed_out("waited 3 s", "rollout.time_limit_s")) == "waited 3 s"
    assert len(short_reason(WorkerDiedError("x" * 999))) == LONGEST_REASON + 3
