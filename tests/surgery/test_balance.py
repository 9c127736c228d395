"""Equal norms, GradVac, smoothed PCGrad and the guard of one domain, against textbooks."""

import itertools
from contextlib import nullcontext
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from mgsrl.config.compose import compose_config
from mgsrl.config.surgery import GradVacConfig, SmoothingConfig, SurgeryConfig
from mgsrl.errors import ConfigError, NoWeightsError
from mgsrl.probe import SurgeryProbe
from mgsrl.surgery import (
    SurgeryMemory,
    check_method,
    resolve,
    surgery_coefficients,
    surgery_decision,
    surgery_weights,
)
from mgsrl.surgery.methods import contributions, surgery_method
from mgsrl.surgery.protect import protecting_pairs
from mgsrl.surgery.weights import random_orders
from mgsrl.testing.surgery import draw_gradients
from tests.surgery.textbook import GradVacBook, SmoothedBook

NAMES = ("math", "chat", "code")
ABSENT = [(), (), ("chat",), (), ("math", "code"), (), ("code",), ()]
"""Domains without a part in each update of a run."""


def gram(gradients_MDN: Tensor) -> Tensor:
    return gradients_MDN @ gradients_MDN.mT


def config_of(method: str, **keys: float) -> SurgeryConfig:
    if method == "gradvac":
        return SurgeryConfig(method=method, gradvac=GradVacConfig(**keys))
    return SurgeryConfig(method=method, pcgrad_smoothed=SmoothingConfig(**keys))


# ---------------------------------------------------------------- equal norms


def test_equal_norms_are_the_mean_norm() -> None:
    gradients = draw_gradients(3, 4, 3)
    weighted = surgery_weights(gram(gradients), "norm_balanced").unsqueeze(-1) * gradients
    mean_M1 = gradients.norm(dim=-1).mean(-1, keepdim=True)
    torch.testing.assert_close(weighted.norm(dim=-1), mean_M1.expand(-1, 3))
    cosines = torch.nn.functional.cosine_similarity(weighted, gradients, dim=-1)
    torch.testing.assert_close(cosines, torch.ones_like(cosines))


def test_zero_gradients_have_no_part_in_the_mean_norm() -> None:
    gradients = draw_gradients(0, 2, 3)
    gradients[0, 1], gradients[1] = 0, 0
    weights = surgery_weights(gram(gradients), "norm_balanced")
    norms = gradients[0].norm(dim=-1)
    expected = (norms[0] + norms[2]) / 2 / norms[[0, 2]]
    torch.testing.assert_close(weights[0, [0, 2]], expected)
    assert weights[1].tolist() == [1.0, 1.0, 1.0]


# ---------------------------------------------------------------- methods with memory


@pytest.mark.parametrize(
    ("method", "keys"),
    [
        ("gradvac", {"beta": 0.3}),
        ("gradvac", {"beta": 0.01}),
        ("pcgrad_smoothed", {"beta": 0.3, "level": 0.2}),
        ("pcgrad_smoothed", {"beta": 0.1, "level": 0.05}),
    ],
)
def test_a_run_is_the_textbooks(method: str, keys: dict[str, float]) -> None:
    """Over updates of which some lack domains, and with gradients of zero in one module."""
    num_modules = 3
    if method == "gradvac":
        books = [GradVacBook(keys["beta"]) for _ in range(num_modules)]
    else:
        limit = NormalDist().inv_cdf(1 - keys["level"])
        books = [SmoothedBook(keys["beta"], limit) for _ in range(num_modules)]
    memory = SurgeryMemory(method, ["a", "b", "c"])
    shared = draw_gradients(99, num_modules, 3, columns=6)
    plain = 0
    for step, absent in enumerate(ABSENT * 3):
        present = [name for name in NAMES if name not in absent]
        present = present[::-1] if step % 2 else present
        rows = [NAMES.index(name) for name in present]
        gradients = (shared + draw_gradients(step, num_modules, 3, columns=6))[:, rows]
        if step % 3 == 1:
            gradients[0, 0] = 0
        orders = random_orders(num_modules, len(rows), torch.Generator().manual_seed(step))
        found = surgery_decision(
            gram(gradients),
            method,
            orders,
            memory=memory.of(present),
            config=config_of(method, **keys),
        )
        memory.keep(present, found.memory)
        for module, book in enumerate(books):
            vectors = dict(zip(present, gradients[module], strict=True))
            named = {
                name: [present[e] for e in order]
                for name, order in zip(present, orders[module].tolist(), strict=True)
            }
            expected = book.update(vectors, named)
            torch.testing.assert_close(
                found.coefficients_MDD[module].sum(0) @ gradients[module], expected
            )
            plain += torch.equal(expected, gradients[module].sum(0))
    assert 0 < plain < 3 * len(ABSENT) * num_modules
    kept = memory.of(NAMES)
    if method == "gradvac":
        for (d, name), (e, other) in itertools.permutations(enumerate(NAMES), 2):
            for module, book in enumerate(books):
                found_target = kept["target"][module, d, e].item()
                assert found_target == pytest.approx(book.target[name, other], abs=1e-12)


def test_gradvac_is_torchjds_with_its_memory() -> None:
    library = pytest.importorskip("torchjd.aggregation")
    theirs, memory = library.GradVacWeighting(beta=0.2, eps=0.0), None
    for step in range(6):
        gramian = gram(draw_gradients(step, 1, 2) + draw_gradients(50, 1, 2))
        found = surgery_decision(
            gramian, "gradvac", memory=memory, config=config_of("gradvac", beta=0.2)
        )
        memory = found.memory
        torch.testing.assert_close(found.coefficients_MDD[0].sum(0), theirs(gramian[0]))


def test_the_first_update_of_gradvac_is_pcgrads() -> None:
    gramian = gram(draw_gradients(5, 6, 4))
    for orders in ("random", "all"):
        torch.testing.assert_close(
            surgery_coefficients(gramian, "gradvac", orders, 3),
            surgery_coefficients(gramian, "pcgrad", orders, 3),
        )


def test_without_a_past_and_a_margin_smoothed_pcgrad_is_pcgrad() -> None:
    """Of two domains; of three PCGrad also sees conflicts that only a projection has made."""
    config, memory = config_of("pcgrad_smoothed", beta=1.0, level=0.5), None
    for seed in range(3):
        gramian = gram(draw_gradients(seed, 6, 2))
        found = surgery_decision(
            gramian, "pcgrad_smoothed", seed=seed, memory=memory, config=config
        )
        memory = found.memory
        assert torch.equal(
            found.coefficients_MDD, surgery_coefficients(gramian, "pcgrad", seed=seed)
        )


@pytest.mark.parametrize("method", ["gradvac", "pcgrad_smoothed"])
def test_all_orders_are_the_mean_of_each(method: str) -> None:
    gramian, memory = gram(draw_gradients(0, 2, 3)), None
    for seed in range(4):
        memory = surgery_decision(gram(draw_gradients(seed, 2, 3)), method, memory=memory).memory
    found = surgery_decision(gramian, method, "all", memory=memory)
    others = [[[1, 2], [2, 1]], [[0, 2], [2, 0]], [[0, 1], [1, 0]]]
    each = [
        surgery_decision(gramian, method, torch.tensor([[o[k] for o in others]] * 2), memory=memory)
        for k in (0, 1)
    ]
    torch.testing.assert_close(
        found.coefficients_MDD, (each[0].coefficients_MDD + each[1].coefficients_MDD) / 2
    )
    assert found.memory
    for name, values in found.memory.items():
        torch.testing.assert_close(values, (each[0].memory[name] + each[1].memory[name]) / 2)


@pytest.mark.parametrize("method", ["gradvac", "pcgrad_smoothed"])
def test_a_memory_that_was_stored_goes_on_to_the_bit(method: str) -> None:
    config, modules = SurgeryConfig(method=method), ["layers.0.mlp", "layers.1.mlp"]
    memory = SurgeryMemory(method, modules)
    for step in range(12):
        if step == 6:
            stored = memory.state_dict()
            again = SurgeryMemory(f"/elsewhere/{method}", modules)
            again.load_state_dict(stored)
        for each in (memory, again) if step >= 6 else (memory,):
            gramian = gram(draw_gradients(step, 2, 3) + draw_gradients(77, 2, 3))
            report = resolve(gramian, NAMES, modules, config, step, (), each.of(NAMES))
            each.keep(NAMES, report.memory)
            if each is memory:
                expected = report.weights_MD
            else:
                assert torch.equal(report.weights_MD, expected)
    assert memory.state_dict()["domains"] == list(NAMES)
    for other in (SurgeryMemory("else", modules), SurgeryMemory(method, ["all"])):
        other.load_state_dict(stored)
        assert other.of(NAMES) == {}


def test_pairs_that_are_absent_keep_what_they_had() -> None:
    memory = SurgeryMemory("gradvac", ["all"])
    assert memory.of(NAMES) == {}
    memory.keep(["math", "chat"], {"target": torch.tensor([[[0.0, 0.1], [0.2, 0.0]]])})
    memory.keep(["math"], {"target": torch.zeros(1, 1, 1)})
    memory.keep(["code"], None)
    memory.keep(["code", "chat"], {"target": torch.tensor([[[0.0, 0.3], [0.4, 0.0]]])})
    torch.testing.assert_close(
        memory.of(["chat", "math", "code"])["target"],
        torch.tensor([[[0.0, 0.2, 0.4], [0.1, 0.0, 0.0], [0.3, 0.0, 0.0]]]),
    )
    assert memory.of(["new"])["target"].tolist() == [[[0.0]]]


def test_a_step_that_is_skipped_is_not_remembered() -> None:
    gramian = gram(draw_gradients(0, 1, 3))
    assert resolve(gramian, NAMES, ["a"], SurgeryConfig(method="gradvac"), 0).memory is not None
    assert resolve(gramian, NAMES, ["a"], SurgeryConfig(), 0).memory is None
    gramian[0, 0, 0] = float("nan")
    assert resolve(gramian, NAMES, ["a"], SurgeryConfig(method="gradvac"), 0).memory is None


def test_what_a_method_remembers_is_looked_at() -> None:
    def mine(gram_MDD: Tensor, memory: dict[str, Tensor]) -> object:
        return torch.ones(gram_MDD.shape[:2]), {"seen": memory.get("seen", 0 * gram_MDD) + 1}

    gramian, memory = gram(draw_gradients(0, 2, 3)), None
    for _ in range(3):
        found = surgery_decision(gramian, mine, memory=memory)
        memory = found.memory
    assert (found.memory["seen"] == 3).all()
    for given, error in (
        (lambda gram, memory: gram, ValueError),
        (lambda gram, memory: (gram, {"seen": gram[0]}), ValueError),
        (lambda gram, memory: (gram, {"seen": gram / 0}), NoWeightsError),
    ):
        with pytest.raises(error, match=r"remember|memory"):
            contributions(surgery_method(given), gramian, memory={})


def test_a_probe_in_another_trainer_remembers() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    parameters = [("layers.0.mlp.weight", model.weight)]
    config = SurgeryConfig(method="gradvac", granularity="global")
    probe = SurgeryProbe(parameters, NAMES, config=config)
    probe.record(gram(draw_gradients(0, 1, 3)))
    again = SurgeryProbe(parameters, NAMES, config=config, first_step=2)
    again.memory.load_state_dict(probe.memory.state_dict())
    gramian = gram(draw_gradients(1, 1, 3))
    assert torch.equal(probe.record(gramian).weights_MD, again.record(gramian).weights_MD)
    with pytest.raises(ConfigError, match=r"surgery\.protect names"):
        SurgeryProbe(parameters, NAMES, config=replace(config, protect="maths"))


# ---------------------------------------------------------------- the guard of one domain


def test_the_protected_gradient_stays_and_no_other_harms_it() -> None:
    gradients = draw_gradients(4, 8, 3)
    gradients[:, 1] -= 2 * gradients[:, 0]
    config = SurgeryConfig(protect="math")
    report = resolve(gram(gradients), NAMES, list("abcdefgh"), config, 0)
    pairs = protecting_pairs(NAMES, "math")
    assert pairs.tolist() == [[False] * 3, [True, False, False], [True, False, False]]
    found = surgery_coefficients(gram(gradients), may_project_MDD=pairs.expand(8, 3, 3))
    torch.testing.assert_close(report.weights_MD, found.sum(1))
    projected = found @ gradients
    assert torch.equal(projected[:, 0], gradients[:, 0])
    inner = (gradients @ gradients.mT)[:, 1:, 0]
    after = (projected @ gradients[:, :1].mT)[:, 1:, 0]
    assert (inner < 0).any()
    torch.testing.assert_close(after, inner.clamp(min=0))
    reference = gradients[:, :1]  # A-GEM's equation, on vectors
    share = inner.clamp(max=0).unsqueeze(-1) / reference.square().sum(-1, keepdim=True)
    torch.testing.assert_close(projected[:, 1:], gradients[:, 1:] - share * reference)


def test_without_the_protected_domain_nothing_gives_way() -> None:
    gramian = gram(draw_gradients(4, 3, 2))
    report = resolve(gramian, NAMES[1:], list("abc"), SurgeryConfig(protect="math"), 0)
    assert torch.equal(report.weights_MD, torch.ones(3, 2, dtype=torch.float64))


def test_an_unknown_domain_cannot_be_protected() -> None:
    assert compose_config(["surgery.protect=math"]).surgery.protect == "math"
    with pytest.raises(ConfigError, match=r"surgery\.protect names a domain that does not exist"):
        compose_config(["surgery.protect=maths"])


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["strategy.domain_order=[chat,instruction_following]"], "chat, instruction_following"),
        (["domains.math.weight=0"], "chat, instruction_following"),
        (["domains.chat.weight=0", "domains.instruction_following.weight=0"], "math"),
        (["strategy=sequential", "surgery.method=pcgrad"], "math; then chat; then instruction_fol"),
        (["strategy.phases=[{domains:[math]},{domains:[chat]}]"], "math; then chat"),
    ],
)
def test_a_domain_that_is_trained_alone_cannot_be_protected(
    overrides: list[str], found: str
) -> None:
    with pytest.raises(ConfigError, match=rf"surgery\.protect guards(?s:.*)found: +{found}"):
        compose_config(["surgery.protect=math", *overrides])


@pytest.mark.parametrize(
    "phases", ["[{domains:[chat]},{domains:[math,chat]}]", "[{domains:[math,chat]}]"]
)
def test_one_phase_beside_others_is_enough(phases: str) -> None:
    words = ["surgery.protect=math", f"strategy.phases={phases}", "domains.chat.weight=0.5"]
    assert compose_config(words).surgery.protect == "math"


@pytest.mark.parametrize("method", ["pcgrad", "gradvac", "pcgrad_smoothed", "mine.py:drop"])
@pytest.mark.parametrize("key", ["gradvac.beta", "pcgrad_smoothed.beta", "pcgrad_smoothed.level"])
def test_a_key_that_only_another_method_reads_is_refused(method: str, key: str) -> None:
    owner, _, name = key.partition(".")
    config = SurgeryConfig(method=method)
    setattr(getattr(config, owner), name, 0.5)
    refused = pytest.raises(ConfigError, match=rf"surgery\.{key} is read by.*method={owner} only")
    with nullcontext() if method == owner else refused:
        config.validate()


def test_who_cannot_project_cannot_protect() -> None:
    for method in ("pcgrad", "pcgrad_smoothed", "gradvac"):
        check_method(SurgeryConfig(method=method, protect="math", gate="reliable"))
    with pytest.raises(ConfigError, match=r"surgery\.protect=math"):
        check_method(SurgeryConfig(method="norm_balanced", protect="math"))


@pytest.mark.parametrize(
    "config",
    [
        config_of("gradvac", beta=0.0),
        config_of("pcgrad_smoothed", beta=1.1),
        config_of("pcgrad_smoothed", level=0.6),
    ],
)
def test_impossible_values_are_refused(config: SurgeryConfig) -> None:
    with pytest.raises(ConfigError, match=rf"surgery\.{config.method}\."):
        config.validate()
