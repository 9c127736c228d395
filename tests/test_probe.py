"""The probe in other trainers: what it does to their updates, and the examples of the page."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import mgsrl
from mgsrl.config import SurgeryConfig
from mgsrl.config.surgery import ReliabilityConfig, StepProbeConfig
from mgsrl.errors import ConfigError
from mgsrl.learner.spec import step_seed
from mgsrl.surgery import resolve
from tests.report.synthetic import make_run

PAGE = Path(__file__).parents[1] / "docs" / "python_api.md"
DOMAINS = ("math", "chat", "code")
NAMES = (
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "lm_head.weight",
)


def model(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.zeros(3, 4, dtype=dtype)) for name in NAMES}


def give(parameters: dict[str, nn.Parameter], gradients: Tensor) -> None:
    """One domain's backward: [parameters, 3, 4], added as autograd adds."""
    for p, gradient in zip(parameters.values(), gradients):
        p.grad = gradient.to(p) if p.grad is None else p.grad + gradient.to(p)


def random_gradients(seed: int, num_domains: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_domains, len(NAMES), 3, 4, generator=generator)


def updated(gradients: Tensor, config: SurgeryConfig, **options: Any) -> Tensor:
    parameters = model()
    probe = mgsrl.SurgeryProbe(parameters.items(), DOMAINS, config=config, **options)
    for domain, own in zip(DOMAINS, gradients, strict=True):
        give(parameters, own)
        probe.take(domain)
        assert all(p.grad is None for p in parameters.values())
    probe.step()
    return torch.stack([p.grad for p in parameters.values() if p.grad is not None])


def projected(gradients_DN: Tensor) -> Tensor:
    """PCGrad (arXiv 2001.06782) on two plain vectors."""
    a, b = gradients_DN
    inner = a @ b
    if inner >= 0:
        return a + b
    return a - inner / (b @ b) * b + b - inner / (a @ a) * a


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_conflicts_are_resolved_in_every_module(seed: int) -> None:
    gradients = random_gradients(seed)
    gradients[2] = 0  # a domain without a gradient changes nothing
    found = updated(gradients, SurgeryConfig(), seed=seed)
    for module in range(len(NAMES)):
        expected = projected(gradients[:2, module].flatten(1))
        torch.testing.assert_close(found[module].flatten(), expected, rtol=1e-4, atol=1e-5)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_measuring_leaves_the_update_as_it_was(seed: int) -> None:
    gradients = random_gradients(seed)
    parameters = model()
    for own in gradients:
        give(parameters, own)
    plain = torch.stack([p.grad for p in parameters.values() if p.grad is not None])
    assert torch.equal(updated(gradients, SurgeryConfig(measure_only=True)), plain)
    torch.testing.assert_close(updated(gradients, SurgeryConfig(method="none")), plain)


def test_micro_batches_add_up_and_the_next_step_begins_anew() -> None:
    gradients = random_gradients(1)
    expected = updated(gradients, SurgeryConfig())
    parameters = model()
    probe = mgsrl.SurgeryProbe(parameters.items(), DOMAINS, first_step=1)
    for step in (1, 2):
        for part in (0.25, 0.75):
            for domain, own in zip(DOMAINS, gradients):
                give(parameters, own * part)
                probe.take(domain)
        report = probe.step()
        assert probe.last_step == step
        assert len(report.modules) == 3
        if step == 1:  # the orders of a step are its own
            found = [p.grad for p in parameters.values()]
            torch.testing.assert_close(found, list(expected), rtol=1e-4, atol=1e-5)
        for p in parameters.values():
            p.grad = None
    with pytest.raises(ValueError, match="did you mean 'math'"):
        probe.take("maths")


@pytest.mark.parametrize("measure_only", [False, True])
def test_without_finite_gradients_there_is_no_update(measure_only: bool) -> None:
    parameters = model()
    config = SurgeryConfig(measure_only=measure_only)
    probe = mgsrl.SurgeryProbe(parameters.items(), DOMAINS, config=config)
    give(parameters, random_gradients(0)[0] * float("nan"))
    probe.take("math")
    assert probe.step().problem == "a gradient is not finite"
    assert all((p.grad is None) != measure_only for p in parameters.values())
    give(parameters, random_gradients(0)[0])
    for p in parameters.values():
        p.grad = None
    probe.take("math")
    assert probe.step().problem is None  # nothing of it is left
    with pytest.raises(ValueError, match="step should follow take"):
        probe.step()  # nothing was taken since


def test_frozen_and_half_precision_parameters() -> None:
    parameters = model(torch.bfloat16)
    parameters[NAMES[2]].requires_grad_(False)
    probe = mgsrl.SurgeryProbe(parameters.items(), DOMAINS)
    assert probe.modules == ("layers.0.attention", "layers.0.mlp")
    for domain, own in zip(DOMAINS, random_gradients(2)):
        give({name: parameters[name] for name in NAMES[:2]}, own)
        probe.take(domain)
    probe.step()
    assert [p.grad is None or p.grad.dtype for p in parameters.values()] == [
        torch.bfloat16,
        torch.bfloat16,
        True,
    ]


def test_the_folder_is_read_as_that_of_a_run(tmp_path: Path) -> None:
    def probed(steps: int, first_step: int) -> None:
        probe = mgsrl.SurgeryProbe(model().items(), DOMAINS, tmp_path, first_step=first_step)
        rows = random_gradients(first_step).flatten(2).double()
        for _ in range(steps):
            gram_MDD = torch.einsum("dmn,emn->mde", rows, rows)
            report = probe.record(gram_MDD)  # whoever has a Gramian needs no gradients
            assert report.weights_MD.shape == (3, 3)
        assert "surgery" in probe.write_report().read_text()

    probed(5, 1)
    probed(2, 3)  # a trainer that resumes after step 2
    run = mgsrl.load_run(tmp_path)
    assert list(run.metrics.index) == [1, 2, 3, 4]
    assert {f"surgery/cosine/{pair}" for pair in ("math-chat", "math-code", "chat-code")} < set(
        run.metrics
    )
    assert set(run.surgery["step"]) == {1, 2, 3, 4}
    assert (tmp_path / "surgery" / "heat_map.png").is_file()
    assert not mgsrl.load_run(make_run(tmp_path / "run", steps=2)).surgery.empty
    with pytest.raises(ConfigError, match="choose another folder"):
        mgsrl.SurgeryProbe(model().items(), DOMAINS, tmp_path / "run")
    assert len(mgsrl.load_run(tmp_path / "run").metrics) == 2


def quadratics(seed: int, parameters: dict[str, nn.Parameter]) -> Any:
    """Losses L_d(w) = <g_d, w> + c |w|^2 / 2 of a domain, all gradients g_d, and c."""
    gradients, curvature = random_gradients(seed), 3.0

    def loss(domain: int) -> Tensor:
        weights = torch.stack(list(parameters.values())).double()
        return (gradients[domain] * weights).sum() + curvature * (weights * weights).sum() / 2

    losses = {name: (lambda d=d: loss(d)) for d, name in enumerate(DOMAINS)}
    return losses, gradients.double().flatten(1), curvature


@given(seed=st.integers(0, 10**6), rate=st.floats(1e-3, 0.3))
@settings(max_examples=15, deadline=None)
def test_tried_steps_are_those_of_a_quadratic(seed: int, rate: float) -> None:
    """Gradient descent from w = 0: everything is known in closed form."""
    parameters = model()
    losses, gradients_DN, curvature = quadratics(seed, parameters)
    config = SurgeryConfig(method="none")
    probe = mgsrl.SurgeryProbe(parameters.items(), DOMAINS, config=config)
    for domain in DOMAINS:
        losses[domain]().backward()
        probe.take(domain)
    found = probe.try_steps(torch.optim.SGD(parameters.values(), lr=rate), losses)
    zero_1N = torch.zeros_like(gradients_DN[:1])
    steps = -rate * torch.cat([gradients_DN.sum(0, keepdim=True), gradients_DN, zero_1N])
    predicted = steps @ gradients_DN.T
    change = predicted + curvature * (steps * steps).sum(1, keepdim=True) / 2
    torch.testing.assert_close(found.predicted_SD, predicted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.change_SD, change, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.norm_S, steps.norm(dim=1), rtol=1e-5, atol=1e-9)
    clip = probe.try_steps(torch.optim.SGD(parameters.values(), lr=rate), losses, 0.5)
    torch.testing.assert_close(clip.norm_S[:-1], torch.full((4,), 0.5 * rate).double())
    report = probe.step()
    assert report.step_probe is clip
    assert "surgery/probe/curvature" in report.scalars


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (torch.optim.AdamW, torch.float32),
        (torch.optim.AdamW, torch.bfloat16),
        (torch.optim.Adagrad, torch.float32),
        (lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9), torch.float32),
        (lambda p, lr: torch.optim.NAdam(p, lr=lr), torch.float32),
    ],
)
def test_nothing_of_tried_steps_remains(make: Any, dtype: torch.dtype) -> None:
    """A training of three steps is to the bit the one without them, from the first step on, when
    the optimizer has no state yet."""

    def trained(tries: bool) -> list[Tensor]:
        torch.manual_seed(3)
        parameters = model(dtype)
        losses, _, _ = quadratics(1, parameters)
        optimizer = make(parameters.values(), lr=0.05)
        probe = mgsrl.SurgeryProbe(parameters.items(), DOMAINS)
        drawn = []
        for _ in range(3):
            for domain in DOMAINS:
                losses[domain]().backward()
                probe.take(domain)
            if tries:
                noisy = {
                    d: (lambda f=f: f() * (1 + 0.1 * torch.rand(()))) for d, f in losses.items()
                }
                found = probe.try_steps(optimizer, noisy)
                assert found.change_SD[:-1].ne(0).all()
            assert all(p.grad is None for p in parameters.values())
            drawn.append(torch.rand(2))
            probe.step()
            optimizer.step()
            for p in parameters.values():
                p.grad = None
        state = [v for own in optimizer.state.values() for v in own.values() if torch.is_tensor(v)]
        return [*parameters.values(), *state, *drawn]

    for plain, tried in zip(trained(False), trained(True), strict=True):
        assert torch.equal(plain, tried)


def test_mistakes_with_tried_steps(tmp_path: Path) -> None:
    parameters = model()
    losses, _, _ = quadratics(0, parameters)
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    probe = mgsrl.SurgeryProbe(parameters.items(), DOMAINS, tmp_path)
    with pytest.raises(ValueError, match="should follow take"):
        probe.try_steps(optimizer, losses)
    for domain in DOMAINS:
        losses[domain]().backward()
        probe.take(domain, tokens=len(domain))
    with pytest.raises(ValueError, match=r"none of \['code'\]"):
        probe.try_steps(optimizer, {d: losses[d] for d in DOMAINS[:2]})

    def fails() -> Tensor:
        if not torch.is_grad_enabled() and parameters[NAMES[0]].any():
            raise RuntimeError("on purpose")
        return losses["math"]()

    with pytest.raises(RuntimeError, match="on purpose"):
        probe.try_steps(optimizer, {**losses, "math": fails})
    assert not any(p.any() for p in parameters.values())  # taken back even so
    probe.try_steps(optimizer, losses)
    probe.step()
    run = mgsrl.load_run(tmp_path)
    assert len(run.step_probes) == 5 * 3
    assert run.shares["token_share"].tolist() == [1 / 3] * 3
    assert set(run.kinds["domain_a"]) == set(DOMAINS)
    give(parameters, random_gradients(0)[0] * float("nan"))
    probe.take("math")
    assert probe.try_steps(optimizer, losses) is None


@pytest.mark.parametrize("gate", ["off", "reliable"])
def test_reliability_is_measured_of_two_halves(gate: str) -> None:
    """As `resolve` does of the Gramian of all six half gradients; the update is of their sums."""
    config = SurgeryConfig(gate=gate, reliability=ReliabilityConfig(every=2))
    parameters = model()
    probe = mgsrl.SurgeryProbe(parameters.items(), DOMAINS, config=config)
    halves = torch.stack([random_gradients(1), random_gradients(2)])

    def take_all() -> None:
        for half in (0, 1):
            for domain, own in zip(DOMAINS, halves[half], strict=True):
                give(parameters, own)
                probe.take(domain, prompts=3 + half, half=half)

    for step in (1, 2):
        take_all()
        tried = probe.try_steps(
            torch.optim.SGD(list(parameters.values()), lr=0.1),
            {d: lambda: sum(p.sum() for p in parameters.values()) for d in DOMAINS},
        )
        report = probe.step()
        update = torch.stack([p.grad for p in parameters.values() if p.grad is not None])
        for p in parameters.values():
            p.grad = None
        assert tried is not None
        assert tried.norm_S[0] == pytest.approx(0.1 * update.norm().item(), rel=1e-5)
        assert (report.reliability is None) == (gate == "off" and step == 1)
    rows_MRN = halves.flatten(0, 1).flatten(2).transpose(0, 1).double()
    gram_MRR = rows_MRN @ rows_MRN.mT
    order = [probe.modules.index(name) for name in dict.fromkeys(probe.modules)]
    by_hand = resolve(
        gram_MRR[order], DOMAINS, probe.modules, config, step_seed(0, 2), [(3, 4)] * 3
    )
    torch.testing.assert_close(report.weights_MD, by_hand.weights_MD)
    for name, value in by_hand.scalars.items():
        assert report.scalars[name] == pytest.approx(value, nan_ok=True, abs=1e-6), name


def test_halves_without_prompts_are_a_mistake() -> None:
    probe = mgsrl.SurgeryProbe(model().items(), DOMAINS, config=SurgeryConfig(gate="reliable"))
    probe.take("math")
    with pytest.raises(ValueError, match="prompts= and half="):
        probe.step()
    with pytest.raises(ValueError, match="half should be"):
        mgsrl.SurgeryProbe(model().items(), DOMAINS).take("math", half=1)


@pytest.mark.parametrize(
    "config",
    [
        SurgeryConfig(step_probe=StepProbeConfig(every=5)),
        SurgeryConfig(buffer_dtype="bfloat16"),
        SurgeryConfig(method="pcgrid"),
    ],
)
def test_what_a_probe_does_not_have_is_refused(config: SurgeryConfig) -> None:
    with pytest.raises(ConfigError):
        mgsrl.SurgeryProbe(model().items(), DOMAINS, config=config)


def test_mistakes_in_the_order_of_calls() -> None:
    probe = mgsrl.SurgeryProbe(model().items(), DOMAINS)
    with pytest.raises(ValueError, match="should follow take"):
        probe.step()
    with pytest.raises(ValueError, match="without a folder"):
        probe.write_report()


# ---- the page ------------------------------------------------------------------------------------


def examples(title: str) -> str:
    """The Python of the page's section `title`."""
    section = re.split(r"^##+ ", PAGE.read_text(encoding="utf-8"), flags=re.M)
    (text,) = (part for part in section if part.startswith(f"{title}\n"))
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))


page = pytest.mark.skipif(not PAGE.is_file(), reason="the documentation is not beside the tests")


@page
@pytest.mark.slow
@pytest.mark.ray_cluster
@pytest.mark.timeout(600)
def test_the_examples_of_a_run(tmp_path: Path) -> None:
    """In a process of its own, whose Ray ends with it."""
    code = "import mgsrl\n" + examples("Train") + examples("Read a run")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished 8 {" in done.stdout.splitlines()[-1]
    assert len(mgsrl.load_run(tmp_path / "runs" / "first").metrics) == 4


@page
def test_the_example_of_a_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = examples("A plain loop")
    assert len(code.splitlines()) <= 30
    space: dict[str, Any] = {"mgsrl": mgsrl}
    exec(code, space)
    metrics = mgsrl.load_run("runs/plain").metrics
    assert len(metrics) == 5
    assert metrics["grad_norm/math"].gt(0).all()
    assert all(parameter.grad is None for parameter in space["model"].parameters())
    assert Path("runs/plain/report.html").is_file()

    exec(examples("What a step does to the other domains"), space)  # the loop goes on
    table = mgsrl.load_run("runs/plain").step_probes
    assert set(table["trial"]) == {"resolved", "own", "idle"}
    assert set(table["step"]) == {6}
    own = table[(table["trial"] == "own") & (table["of"] == table["on"])]
    assert len(own) == 2
    assert own["change"].lt(0).all()
    report = Path("runs/plain/report.html").read_text(encoding="utf-8")
    assert "What a step on one domain does" in report


@page
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason='needs pip install "mgsrl[trl]"'
)
def test_the_example_of_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that only measures leaves the weights that GRPOTrainer itself comes to."""
    monkeypatch.chdir(tmp_path)
    # the steps of Adam are as long for rounding errors as for gradients
    code = examples("TRL's GRPOTrainer").replace("logging_steps", 'optim="sgd", logging_steps')
    space: dict[str, Any] = {"mgsrl": mgsrl, "torch": torch}
    exec(code, space)
    metrics = mgsrl.load_run("runs/probe").metrics
    assert len(metrics) == 3
    assert metrics[["grad_norm/math", "grad_norm/chat"]].gt(0).all(axis=None)
    assert Path("runs/probe/report.html").is_file()
    trained = dict(space["trainer"].model.named_parameters())

    loaded = space["AutoModelForCausalLM"].from_pretrained(space["policy"])
    before = {name: p.detach().clone() for name, p in loaded.named_parameters()}
    plain = space["GRPOTrainer"](
        model=loaded,
        **{name: getattr(space["trainer"], name) for name in ("processing_class", "reward_funcs")},
        train_dataset=space["Dataset"].from_list(space["rows"]),
        args=space["trainer"].args,
    )
    plain.train()
    moved = 0.0
    for name, p in plain.model.named_parameters():
        moved += (p - before[name]).abs().sum().item()
        torch.testing.assert_close(p, trained[name], rtol=0, atol=1e-6)
    assert moved > 1e-3
    losses = [
        [row["loss"] for row in t.state.log_history if "loss" in row]
        for t in (plain, space["trainer"])
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
