"""Where a model is: the one meaning of `policy.path` and of a reward model's `path`.

A path is `pocket` or `pocket_styles` (models inside the package), a folder with `config.json`, or
a hub id OWNER/NAME. Nothing heavy is imported, so a wrong path is told before any actor starts.
"""

import os
import re
from pathlib import Path

from mgsrl.config.hub import check_on_hub
from mgsrl.errors import MissingPathError

POCKET = "pocket"
POCKET_STYLES = "pocket_styles"
"""The smaller policy of the testbed `pocket_conflict`; its folder is called the same."""
POCKET_POLICY = "pocket_policy"
POCKET_REWARD_MODEL = "pocket_reward_model"
ASSETS = Path(__file__).resolve().parents[1] / "assets"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve_model_path(path: str, key: str, pocket: str, also: str = "") -> str:
    """The absolute folder of `pocket` or of a local path; a hub id stays as it is.

    Args:
        key: the configuration key that holds `path`, for messages.
        pocket: what the name `pocket` means there: `POCKET_POLICY` or `POCKET_REWARD_MODEL`.
        also: what else `key` may name, for messages; ends with a comma.

    Raises:
        MissingPathError: there is no model at `path`. OWNER/NAME is no hub id when a folder OWNER
            is here: then a local path was mistyped.
    """
    if path == POCKET:
        return _pocket_folder(pocket)
    if path == POCKET_STYLES and pocket == POCKET_POLICY:
        return _pocket_folder(path)
    folder = Path(os.path.expanduser(path))  # Path.expanduser raises for an unknown user
    if path and (folder / "config.json").is_file():
        return str(folder.resolve())
    if not path:
        found = "nothing: it is empty"
    elif folder.is_dir():
        names = sorted(item.name for item in folder.iterdir())
        found = f"{path!r} with {', '.join(names[:8]) or 'nothing in it'}, but no config.json"
    elif folder.exists():
        found = f"{path!r} (a file)"
    elif _HUB_ID.fullmatch(path) and not folder.parent.is_dir():
        return path
    else:
        found = f"{path!r} (nothing there)"
    hint = " (`mgsrl data prepare smollm2` puts SmolLM2 under models/)"
    hint = hint if pocket == POCKET_POLICY else ""
    raise MissingPathError(
        f"{key} does not name a model.",
        expected=f"{also}{POCKET!r}, a Hugging Face model folder (config.json, weights, "
        "tokenizer) or a hub id OWNER/NAME",
        found=found,
        todo=f"correct {key}{hint}",
    )


def find_model(path: str, key: str, pocket: str, also: str = "") -> str:
    """`resolve_model_path`, and of a hub id that the hub knows it: for use before actors start.

    Raises:
        MissingPathError: there is no model at `path`, or no way to the hub.
    """
    found = resolve_model_path(path, key, pocket, also)
    if not os.path.isabs(found):
        check_on_hub(found, "model", key, f"download the model and give {key} its folder")
    return found


def _pocket_folder(pocket: str) -> str:
    folder = ASSETS / pocket
    if not (folder / "config.json").is_file():
        raise MissingPathError(
            f"The bundled {pocket.replace('_', ' ')} is not installed.",
            expected=f"{folder}/config.json",
            found="nothing there",
            todo="reinstall mgsrl, or rebuild the pocket models as their model cards say",
        )
    return str(folder)
