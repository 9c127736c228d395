"""Which curriculum shares a step among the domains.

The keys of one curriculum stand beside its class (`data/curricula/bandit.py`: `BanditConfig`), and
beside these keys in YAML: `{kind: bandit, floor: 0.2, temperature: 0.1}`. `CURRICULA` knows them.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from mgsrl.config.keys import MEMBERS, member_config
from mgsrl.config.require import within
from mgsrl.config.typed import plain, read_config
from mgsrl.plugins import Registry

FIXED = ("steps", "linear")
"""Those whose shares follow from the configuration and the step alone."""
CURRICULA = Registry(
    "curriculum",
    "mgsrl.curricula",
    {
        "steps": "mgsrl.data.curricula.fixed:Fixed",
        "linear": "mgsrl.data.curricula.fixed:Fixed",
        "bandit": "mgsrl.data.curricula.bandit:Bandit",
        "worst_task": "mgsrl.data.curricula.worst_task:WorstTask",
        "transfer": "mgsrl.data.curricula.transfer:Transfer",
    },
    base="mgsrl.data.curricula.protocol:Curriculum",
)


@dataclass
class CurriculumConfig:
    SHORT: ClassVar[str] = "kind"
    kind: str = "steps"
    """`steps` and `linear` are fixed: between two points of `domains.NAME.schedule` the one keeps
    the earlier, the other interpolates. `bandit` (to where advantages are large), `worst_task` (to
    where rewards are low) and `transfer` (to what also helps the others) move the shares by what
    each step showed (docs/data.md). Or a class of yours: `module:Class` or `file.py:Class`.
    `data.curriculum=bandit` is short for it."""
    options: Any = field(default=None, metadata={MEMBERS: CURRICULA})
    """The keys that this kind alone has, an instance of its class's `Config`."""
    floor: float = 0.1
    """Part of its configured share that every domain keeps in every step, whatever the curriculum
    says; the rest is what it moves. 1 moves nothing. Of no effect under `steps` and `linear`."""

    def __post_init__(self) -> None:
        if self.options is None:
            self.options = member_config(CURRICULA, self.kind, "data.curriculum.kind")()

    def __reduce__(self) -> tuple[Any, ...]:
        # A user's class may lie in a file that the receiving process has not loaded.
        return read_config, (type(self), plain(self))

    @property
    def adapts(self) -> bool:
        """Whether the shares depend on what was observed."""
        return self.kind not in FIXED

    def validate(self, key: str) -> None:
        within(f"{key}.floor", self.floor, 0.0, 1.0)
        if hasattr(self.options, "validate"):
            self.options.validate(key)
