"""How the domains' gradients are combined (Modular Gradient Surgery, arXiv 2602.02301)."""

from dataclasses import dataclass, field, fields

from mgsrl.config.require import at_least, one_of, within
from mgsrl.errors import ConfigError
from mgsrl.plugins import Registry

SURGERY_METHODS = Registry(
    "surgery method",
    "mgsrl.surgery_methods",
    {
        "pcgrad": "mgsrl.surgery.pcgrad:pcgrad",
        "none": "mgsrl.surgery.none:none",
        "norm_balanced": "mgsrl.surgery.norm_balanced:norm_balanced",
        "gradvac": "mgsrl.surgery.gradvac:gradvac",
        "pcgrad_smoothed": "mgsrl.surgery.pcgrad_smoothed:pcgrad_smoothed",
        "aligned_mtl": "mgsrl.surgery.torchjd_adapter:aligned_mtl",
        "cagrad": "mgsrl.surgery.torchjd_adapter:cagrad",
        "dualproj": "mgsrl.surgery.torchjd_adapter:dualproj",
        "fairgrad": "mgsrl.surgery.torchjd_adapter:fairgrad",
        "imtl_g": "mgsrl.surgery.torchjd_adapter:imtl_g",
        "krum": "mgsrl.surgery.torchjd_adapter:krum",
        "mean": "mgsrl.surgery.torchjd_adapter:mean",
        "mgda": "mgsrl.surgery.torchjd_adapter:mgda",
        "nash_mtl": "mgsrl.surgery.torchjd_adapter:nash_mtl",
        "pcd": "mgsrl.surgery.torchjd_adapter:pcd",
        "random": "mgsrl.surgery.torchjd_adapter:random",
        "upgrad": "mgsrl.surgery.torchjd_adapter:upgrad",
    },
)
GRANULARITIES = ("parameter", "module", "layer", "global")
ORDERS = ("random", "all")
GATES = ("off", "reliable")
BUFFER_DTYPES = ("float32", "bfloat16")
BUFFER_DEVICES = ("same", "cpu")


@dataclass
class ReliabilityConfig:
    every: int = 0
    """Steps between measurements of how much of the gradients is noise (split-half reliability);
    0: never. Such a step keeps two gradients per domain instead of one."""
    level: float = 0.05
    """Accepted share of false conflicts: a conflict is reliable when chance alone would show it
    that rarely."""


@dataclass
class StepProbeConfig:
    every: int = 0
    """Steps between trials of what the steps would do: the resolved one and each domain's own are
    made of half of the prompts, the loss of every domain is measured on the other half, and all is
    taken back (docs/surgery.md); 0: never. The update is made of all prompts as ever. Such a step
    measures the reliability, too."""


@dataclass
class GradVacConfig:
    beta: float = 0.01
    """Weight of an update's cosine in the running average that is the pair's target."""


@dataclass
class SmoothingConfig:
    beta: float = 0.1
    """Weight of an update's cosine in the running average: it looks back over about 1 / beta."""
    level: float = 0.05
    """Accepted share of false conflicts: an average is a conflict when chance alone would make it
    as negative that rarely. 0.5: its sign decides."""


@dataclass
class SurgeryConfig:
    method: str = "pcgrad"
    """`pcgrad` projects conflicting gradients, `pcgrad_smoothed` only those that conflict on the
    average of the last updates; `gradvac` keeps their cosines at the usual value; `norm_balanced`
    makes them equally long; `none` is the plain sum (Mixed RL); the others come from TorchJD
    (`pip install "torchjd[full]"`), for example `upgrad`, `mgda`, `cagrad`. Your own:
    `module:function` or `file.py:function` (docs/surgery.md)."""
    granularity: str = "module"
    """Where conflicts are resolved: `parameter` | `module` (attention, MLP, norms, embeddings,
    LM head) | `layer` | `global` (PCGrad on the flattened gradient)."""
    order: str = "random"
    """`random`: one seeded projection order per module, domain and step; `all`: the mean over
    all orders (deterministic)."""
    protect: str = ""
    """A domain against whose gradient alone the others are projected, and which keeps its own (a
    guard against forgetting it); for methods that project. Empty: all give way to all."""

    measure_only: bool = False
    """Record everything and leave the update alone: the plain sum, as with `method=none` (what
    `method` would do is recorded; with `none` what `pcgrad` would)."""
    gate: str = "off"
    """`reliable`: methods that project (`pcgrad`, `pcgrad_smoothed`, `gradvac`, or your own, if it
    takes `may_project_MDD`) do so only for conflicts that stand out of the noise; the reliability
    is then measured on every step."""
    reliability: ReliabilityConfig = field(default_factory=ReliabilityConfig)
    """How much of a conflict is noise."""
    step_probe: StepProbeConfig = field(default_factory=StepProbeConfig)
    """What a step on one domain does to the others' losses."""
    gradvac: GradVacConfig = field(default_factory=GradVacConfig)
    """Of `method=gradvac`."""
    pcgrad_smoothed: SmoothingConfig = field(default_factory=SmoothingConfig)
    """Of `method=pcgrad_smoothed`."""

    buffer_dtype: str = "float32"
    """Type of the kept gradients, one row per domain: `bfloat16` halves them and adds its rounding
    to every micro-batch."""
    buffer_device: str = "same"
    """Where the kept gradients are: `same` as the learner, or `cpu`, which takes no GPU memory and
    moves the gradient of every micro-batch over. The CPU under `learner.offload_optimizer`."""

    patterns: dict[str, str] = field(default_factory=dict)
    """Regular expression -> module name, for parameters that the built-in rules do not know."""
    split_experts: bool = False
    """One module per routed expert instead of one per layer (separate expert parameters only)."""

    alarm_dominance: float = 0.9
    """A line is printed when one domain's gradient comes to have more than this share of the norm
    (its norm by the sum of all domains' norms). 1: never."""
    alarm_projected: float = 0.9
    """A line is printed when projections come to take away more than this share of the squared
    norm of a domain's gradient. 1: never."""

    def validate(self) -> None:
        SURGERY_METHODS.check_name(self.method, "surgery.method")
        one_of("surgery.granularity", self.granularity, GRANULARITIES)
        one_of("surgery.order", self.order, ORDERS)
        one_of("surgery.gate", self.gate, GATES)
        one_of("surgery.buffer_dtype", self.buffer_dtype, BUFFER_DTYPES)
        one_of("surgery.buffer_device", self.buffer_device, BUFFER_DEVICES)
        at_least("surgery.reliability.every", self.reliability.every, 0)
        at_least("surgery.step_probe.every", self.step_probe.every, 0)
        within("surgery.reliability.level", self.reliability.level, 1e-6, 0.5)
        within("surgery.gradvac.beta", self.gradvac.beta, 1e-6, 1.0)
        within("surgery.pcgrad_smoothed.beta", self.pcgrad_smoothed.beta, 1e-6, 1.0)
        within("surgery.pcgrad_smoothed.level", self.pcgrad_smoothed.level, 1e-6, 0.5)
        within("surgery.alarm_dominance", self.alarm_dominance, 0.0, 1.0)
        within("surgery.alarm_projected", self.alarm_projected, 0.0, 1.0)
        self._check_read()

    def _check_read(self) -> None:
        """Raise ConfigError for a key that is set and that only another method reads."""
        for method, settings in (
            ("gradvac", self.gradvac),
            ("pcgrad_smoothed", self.pcgrad_smoothed),
        ):
            for item in fields(settings):
                key, value = f"surgery.{method}.{item.name}", getattr(settings, item.name)
                if self.method != method and value != item.default:
                    raise ConfigError(
                        f"{key} is read by surgery.method={method} only.",
                        expected=f"surgery.method={method} beside it",
                        found=f"surgery.method={self.method} {key}={value:g}",
                        todo=f"set {key}={item.default}, or surgery.method={method}",
                    )

    def settings(self, method: str) -> GradVacConfig | SmoothingConfig | None:
        """The keys of one method alone, if it has any."""
        if method == "gradvac":
            return self.gradvac
        return self.pcgrad_smoothed if method == "pcgrad_smoothed" else None

    def measures_reliability(self, step: int) -> bool:
        """Whether `step` (counted from 1) keeps the gradients of two halves and measures it."""
        every = 1 if self.gate == "reliable" else self.reliability.every
        return _due(every, step) or self.probes_steps(step)

    @property
    def ever_measures(self) -> bool:
        """Whether some step of a long run does."""
        return self.gate == "reliable" or self.reliability.every > 0 or self.step_probe.every > 0

    def probes_steps(self, step: int) -> bool:
        """Whether steps are tried on `step` (counted from 1)."""
        return _due(self.step_probe.every, step)


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
