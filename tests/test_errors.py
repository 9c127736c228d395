"""Which errors are the disk's."""

import errno

import pytest
from ray.exceptions import RayTaskError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import zeros

from mgsrl.errors import EndpointError, disk_problem, file_problem


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_disk_that_does_not_take_a_file(number: int) -> None:
    problem = disk_problem(OSError(number, "its own words", "/run/metrics.jsonl"))
    assert problem is not None
    assert problem.endswith(": /run/metrics.jsonl")


def test_libraries_that_hide_the_number_are_understood(small_disk) -> None:
    with pytest.raises(SafetensorError, match="os error") as caught:
        save_file({"a": zeros(3 << 20)}, small_disk / "a.safetensors")
    assert disk_problem(caught.value) == "No space left on device"


@pytest.mark.parametrize(
    "error", [ConnectionResetError(104, "reset"), EndpointError("no"), KeyError()]
)
def test_other_errors_are_not_the_disks(error: Exception) -> None:
    assert disk_problem(error) is None


def test_any_error_of_a_file_is_the_disks_but_for_what_an_actor_raised() -> None:
    """A network's file system that is gone answers with the words of sockets."""
    gone = OSError(errno.ESHUTDOWN, "Cannot send after transport endpoint shutdown", "/run/a")
    assert disk_problem(gone) is None
    assert "Cannot send after transport endpoint shutdown" in (file_problem(gone) or "")
    assert file_problem(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
    assert file_problem(ValueError("no file")) is None
    raised = RayTaskError("save", "Traceback ...", ConnectionResetError("by peer"), "x", 1, "::1")
    assert isinstance(raised.as_instanceof_cause(), OSError)
    assert file_problem(raised.as_instanceof_cause()) is None
