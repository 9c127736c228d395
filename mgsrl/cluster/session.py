"""One Ray session around a run: started, announced, and always taken down.

A local session listens on the loopback interface only and starts no dashboard. SIGTERM and
SIGINT end the run through the same `finally`, so nothing is left running.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mgsrl.cluster.watch import watched_ray
from mgsrl.config import ClusterConfig
from mgsrl.errors import ConfigError, explain

GIB = 1 << 30


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""


_signals: list[str] = []
"""SIGTERMs that arrived. Ray's calls make a plain KeyboardInterrupt of whatever interrupts them."""


def on_sigterm(signum: int, frame: FrameType | None) -> None:
    """A signal handler: end through every `finally`, as Ctrl-C does."""
    _signals.append("SIGTERM")
    raise Terminated("SIGTERM")


def stopped_by() -> str:
    """Which signal a KeyboardInterrupt came from."""
    return _signals[0] if _signals else "Ctrl-C"


@contextmanager
def ray_session(
    config: ClusterConfig, on_death: Callable[[str], None] = lambda message: None
) -> Iterator[None]:
    """Start or join Ray; on leaving, take down what was started.

    Args:
        on_death: told when one of Ray's own processes died, before this process ends (`watch.py`).

    Raises:
        ConfigError: no cluster answers at `config.address`.
    """
    # Ray reads these when it is imported or started.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    import ray

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        try:
            _init(config)
        except SystemExit as error:  # what Ray's own handler makes of SIGTERM while it starts
            if error.code != signal.SIGTERM:
                raise
            on_sigterm(signal.SIGTERM, None)
        if in_main_thread:  # after ray.init, which installs a handler of its own
            signal.signal(signal.SIGTERM, on_sigterm)
        ours = config.address == "local"
        with watched_ray(on_death, lambda: bool(_signals), ours=ours):
            yield
    finally:
        if in_main_thread:
            # A second signal must not interrupt the clean-up half way.
            interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ray.shutdown()
        if in_main_thread:
            signal.signal(signal.SIGINT, interrupt)
            signal.signal(signal.SIGTERM, before)


def _init(config: ClusterConfig) -> None:
    import ray

    # Says at every start that local sessions are guarded by a token; they are, and that is fine.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    if config.address == "local":
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level="warning",
            num_gpus=config.num_gpus,
            object_store_memory=int(config.object_store_gib * GIB),
        )
        return
    try:
        ray.init(address=config.address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            explain(
                "cluster.address does not answer.",
                expected="a running Ray cluster",
                found=f"{config.address}: {error}",
                todo="start one with `ray start --head`, or set cluster.address=local",
            )
        ) from error
