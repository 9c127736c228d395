"""What a strategy is called: the label of run folders, reports and comparisons.

It is read off what the run does, so that one label is one method. Left out: settings that a method
may have without becoming another (`surgery.order`, lengths of phases).
"""

from itertools import product
from pathlib import Path

from mgsrl.config.curriculum import CURRICULA, FIXED
from mgsrl.config.root import Config
from mgsrl.config.surgery import GATES, GRANULARITIES, SURGERY_METHODS, SurgeryConfig
from mgsrl.errors import ConfigError

PUBLISHED = {("pcgrad", "module"): "mgs", ("pcgrad", "global"): "global_surgery"}
"""Names of the paper (arXiv 2602.02301) for (method, granularity)."""


def strategy_label(config: Config) -> str:
    """`strategy.name`, or where that is empty what is run (`mgs`, `mixed`, `upgrad_layer`, ...).

    Raises:
        ConfigError: `strategy.name` is what another strategy is called.
    """
    label, name = _derived(config), config.strategy.name.strip()
    if not name or name == label:
        return label
    if name in _all_labels(list(config.domains)):
        raise ConfigError(
            f"strategy.name={name} is what another strategy is called.",
            expected=f"{label}: it is what would run",
            found=name,
            todo="leave strategy.name out, choose a label of your own, or run the other "
            "strategy (strategy=mgs, strategy=mixed, ...)",
        )
    return name


def _derived(config: Config) -> str:
    curriculum = config.data.curriculum
    suffix = f"_{_plain(curriculum.kind)}" if curriculum.adapts else ""
    return _method(config) + suffix


def _method(config: Config) -> str:
    """The label but for the curriculum."""
    names = config.strategy.domain_order or list(config.domains)
    trained = [name for name in names if name in config.domains and config.domains[name].weight > 0]
    update = _of(config.surgery)
    if config.strategy.phases:
        return _whitened(f"phases_{update}", config.algo.whiten_per_domain)
    if len(trained) == 1:
        update = "single"
    elif config.strategy.sequential:
        update = "sequential"
    return _whitened(update, config.algo.whiten_per_domain)


def _of(surgery: SurgeryConfig) -> str:
    method = "none" if surgery.measure_only else _plain(surgery.method)
    return _update(method, surgery.granularity, surgery.gate, surgery.protect)


def _plain(method: str) -> str:
    """Fit for a folder's name: `my.drop` for `lab/my.py:drop`, which no name of ours can be."""
    where, colon, attribute = method.rpartition(":")
    where = Path(where).stem if where.endswith(".py") else where
    return f"{where}.{attribute}" if colon else method


def _update(method: str, granularity: str, gate: str, protect: str) -> str:
    if method == "none":
        return "mixed"
    name = PUBLISHED.get((method, granularity))
    if name is None:
        name = method if granularity == "module" else f"{method}_{granularity}"
    name = name if gate == "off" else f"{name}_{gate}"
    return f"{name}_protect_{protect}" if protect else name


def _whitened(update: str, whiten: bool) -> str:
    if not whiten:
        return update
    return "normalized_advantage" if update == "mixed" else f"{update}_whitened"


def _all_labels(domains: list[str]) -> set[str]:
    choices = product(SURGERY_METHODS.names(), GRANULARITIES, GATES, ["", *domains])
    updates = {_update(*parts) for parts in choices}
    bases = updates | {f"phases_{update}" for update in updates} | {"single", "sequential"}
    methods = {_whitened(base, whiten) for base in bases for whiten in (False, True)}
    adaptive = [f"_{name}" for name in CURRICULA.names() if name not in FIXED]
    return {f"{method}{suffix}" for method in methods for suffix in ("", *adaptive)}
