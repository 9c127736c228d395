"""Asks the hub once whether a model or data set is there, before a library asks many times.

The libraries that load from it try again for up to a minute where there is no network or a name is
mistyped. Left out: whether single files are there, and revisions.
"""

from functools import cache
from pathlib import Path
from typing import Any, Literal

from mgsrl.errors import MissingPathError

ANSWER_LIMIT_S = 10.0
"""How long the hub may take to say that it is there."""
Kind = Literal["model", "dataset"]


def check_on_hub(repo: str, kind: Kind, key: str, todo: str) -> None:
    """Return when `repo` is in the hub's cache on this machine, or the hub knows it.

    Args:
        key: the configuration key or option that names it, for messages.
        todo: what to do instead of fetching it from the hub.

    Raises:
        MissingPathError: no such repository, or no way to the hub.
    """
    if not _is_cached(repo, kind):
        hub_info(repo, kind, key, todo)


def hub_info(repo: str, kind: Kind, key: str, todo: str) -> Any:
    """What the hub says of a repository (`sha`, ...), None where it does not answer such questions.

    Raises:
        MissingPathError: as `check_on_hub`.
    """
    # Imported here: it takes a moment, and only hub ids need it.
    from huggingface_hub import errors

    final = (errors.RepositoryNotFoundError, errors.GatedRepoError, errors.DisabledRepoError)
    reason: Exception
    try:
        return _ask(repo, kind)
    except errors.HfHubHTTPError as error:
        if not isinstance(error, final):
            return None  # a mirror without this part of the interface: loading will tell
        reason = error
    except Exception as error:  # of the HTTP library beneath, or the name is none
        reason = error
    from huggingface_hub import constants

    place = f"{'datasets/' if kind == 'dataset' else ''}{repo}"
    text = (str(reason).strip().splitlines() or [""])[0][:200]
    raise MissingPathError(
        f"{key}: the hub has no {kind} {repo!r}, or is out of reach.",
        expected=f"{constants.ENDPOINT}/{place} within reach of this machine",
        found=f"{type(reason).__name__}: {text}",
        todo=f"correct the name; check the network (HF_ENDPOINT names a mirror) and, for a "
        f"gated one, `hf auth login`; or {todo}",
    ) from reason


@cache
def _ask(repo: str, kind: Kind) -> Any:
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:
        raise errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set, and it is not in the cache")
    return HfApi().repo_info(repo, repo_type=kind, timeout=ANSWER_LIMIT_S)


def _is_cached(repo: str, kind: Kind) -> bool:
    from huggingface_hub import constants

    name = f"{kind}s--{repo.replace('/', '--')}"
    if any((Path(constants.HF_HUB_CACHE) / name / "snapshots").glob("*/*")):
        return True
    if kind == "model":
        return False
    from datasets import config

    return (Path(config.HF_DATASETS_CACHE) / repo.replace("/", "___").lower()).is_dir()
