"""Loading a causal language model: whole, or not at all.

The learner and the transformers engine read the same files; both would compute with random
numbers, each with its own, where a weight is missing that transformers draws anew.

Left out: quantised weights.
"""

from typing import Any

from mgsrl.errors import UserError, shortened


def load_causal_lm(path: str, dtype: Any, *, trust_remote_code: bool, shown: str = "") -> Any:
    """The model of a folder or hub id on the CPU, in evaluation mode.

    Args:
        dtype: a torch type.
        shown: `path` as the user gave it, for messages.

    Raises:
        UserError: it cannot be loaded, or weights are missing.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    shown = shown or path
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            config=_config(path, trust_remote_code),
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,  # told below, by name
            output_loading_info=True,
        )
    except MemoryError:
        raise
    # Any other exception: the files are the user's, and transformers raises what it meets.
    except Exception as error:
        found = " ".join(str(error).split()) or repr(error)
        raise _refusal(shown, shortened(found, 300)) from error
    if report["missing_keys"]:
        names = _some(sorted(report["missing_keys"]))
        raise _refusal(shown, f"no weights for {names}; they would be drawn at random")
    if report["mismatched_keys"]:
        shapes = [
            f"{name} {tuple(found)} where config.json asks for {tuple(asked)}"
            for name, found, asked in sorted(report["mismatched_keys"])
        ]
        raise _refusal(shown, _some(shapes))
    return model


def _config(path: str, trust_remote_code: bool) -> Any:
    """The configuration, without a pad token that the embedding has no row for: torch would not
    build the model, and padding is masked anyway."""
    from transformers import AutoConfig

    whole = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    for config in (whole, whole.get_text_config()):
        pad, rows = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
        if pad is not None and rows is not None and not 0 <= pad < rows:
            config.pad_token_id = None
    return whole


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _refusal(path: str, found: str) -> UserError:
    return UserError(
        "policy.path cannot be loaded as a causal language model.",
        expected="a Hugging Face folder or hub id of a causal language model, with all its weights",
        found=f"{path!r}: {found}",
        todo="correct policy.path or its files (policy.trust_remote_code=true runs a model's "
        "own code)",
    )
