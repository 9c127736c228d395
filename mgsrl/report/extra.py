"""matplotlib is an extra, `mgsrl[report]`: a node that only trains does without it."""

from mgsrl.errors import ConfigError

INSTALL = 'pip install "mgsrl[report]"'


def can_draw() -> bool:
    """Whether matplotlib is there. It takes half a second to import: to be asked when drawing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def need_drawing(what: str) -> None:
    """Raise ConfigError where `what` (`The report`) cannot be drawn."""
    if not can_draw():
        raise ConfigError(
            f"{what} needs a package that is not installed.",
            expected="the package matplotlib",
            found="none",
            todo=INSTALL,
        )
