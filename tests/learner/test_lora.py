"""Adapters: the update against the textbook; what is published, saved and exported.

Two processes talk over gloo; each world size starts once and runs all its cases.
"""

import math
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from mgsrl.config.policy import LoraConfig, PolicyConfig
from mgsrl.errors import ConfigError
from mgsrl.learner.checkpoint import read_weights
from mgsrl.learner.engine import deepspeed_config
from mgsrl.learner.lora import merge_adapters
from mgsrl.learner.policy import load_policy
from mgsrl.surgery import module_map
from mgsrl.sync.source import WeightSource
from tests.capabilities import marked, named
from tests.learner.parts import (
    Case,
    make_batch,
    make_spec,
    one_step,
    relative_error,
    save_all,
    spawn,
    textbook,
    whole_weights,
)

pytestmark = pytest.mark.timeout(600)

STEPS = 2
SEQUENCE = (5, 9, 7, 3, 11)
BASE = Case(lora=LoraConfig(rank=4, alpha=12.0), micro_batch_size=3)
ATTENTION = LoraConfig(rank=2, alpha=4.0, target_modules=["q_proj", "self_attn.v_proj"])
STAGES = {f"stage{stage}": replace(BASE, zero_stage=stage) for stage in range(4)}
OPTIONS = {
    "partitioned": replace(BASE, zero_stage=3, gradient_checkpointing=True),
    "attention": replace(BASE, zero_stage=3, offload_optimizer=True, lora=ATTENTION),
}
BF16 = {
    f"bf16_stage{stage}": replace(BASE, zero_stage=stage, dtype="bfloat16", micro_batch_size=16)
    for stage in (2, 3)
}
CASES = {1: {"stage2": STAGES["stage2"]}, 2: {**STAGES, **OPTIONS, **BF16}}
"""By world size."""
RUNS = [(name, world_size) for world_size in CASES for name in CASES[world_size]]
EXACT = [run for run in RUNS if run[0] not in BF16]
RESUMED = ("stage0", "stage2", "partitioned", "bf16_stage3")
ELSEWHERE = (("stage0", 3), ("partitioned", 1))
"""Saved by two ranks, loaded by one with another stage."""


def _all_partitioned(*args: Any) -> dict[str, Any]:
    """DeepSpeed's settings; ZeRO-3 keeps no parameter whole because it is small."""
    config = deepspeed_config(*args)
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return config


def _worker(name: str, case: Case, rank: int, world_size: int, address: str, model: Path) -> Any:
    from mgsrl.learner.worker import LearnerWorker

    worker = LearnerWorker(make_spec(model, case, world_size), rank, world_size, "cpu", 1)
    with ExitStack() as stack:
        if name == "partitioned":
            for place in ("engine", "reference"):
                stack.enter_context(
                    patch(f"mgsrl.learner.{place}.deepspeed_config", _all_partitioned)
                )
        worker.start(address)
    return worker


def _step(worker: Any, case: Case, rank: int, world_size: int, step: int) -> Any:
    vocab_size = worker.policy.config.vocab_size
    batch = make_batch(vocab_size, world_size, case.micro_batch_size, seed=step)
    return one_step(worker, batch, rank, step)


def _raw(model: Any) -> dict[str, torch.Tensor]:
    """Copies of base weights and adapters under their own names (a collective under ZeRO-3)."""
    import deepspeed

    params = dict(model.named_parameters())
    partitioned = [p for p in params.values() if hasattr(p, "ds_id")]
    with ExitStack() as stack:
        if partitioned:
            stack.enter_context(deepspeed.zero.GatheredParameters(partitioned))
        return {name: p.detach().clone() for name, p in params.items()}


def run_cases(
    rank: int, world_size: int, address: str, model: Path, root: Path
) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for name, case in CASES[world_size].items():
        worker = _worker(name, case, rank, world_size, address, model)
        result: dict[str, Any] = {"start": _raw(worker.policy), "norms": []}
        result["published_first"] = whole_weights(worker)
        for step in range(STEPS):
            _, _, stats = _step(worker, case, rank, world_size, step)
            result["norms"].append(stats.grad_norm)
        result["raw"] = _raw(worker.policy)
        result["published"] = whole_weights(worker)
        result["raw_after_publishing"] = _raw(worker.policy)
        result["metadata"] = worker.source.metadata()
        result["logprobs"] = worker.logprobs([SEQUENCE], 1.0)[0]
        result["masters"] = [
            (s.name, s.start, worker.layout.master(s).clone()) for s in worker.layout.shards
        ]
        worker.move_reference()
        result["reference"] = _raw(worker.reference.model)
        folder = root / f"{name}_{world_size}"
        save_all(worker, folder)
        if name in RESUMED:
            _step(worker, case, rank, world_size, STEPS)
            result["next"] = _raw(worker.policy)
            result |= _resume(name, case, rank, world_size, address, model, folder)
        results[name] = result
    worker.stop()
    return results


def _resume(
    name: str, case: Case, rank: int, world_size: int, address: str, model: Path, folder: Path
) -> dict[str, Any]:
    worker = _worker(name, case, rank, world_size, address, model)
    worker.load(str(folder))
    loaded = {"loaded": _raw(worker.policy), "loaded_reference": _raw(worker.reference.model)}
    _step(worker, case, rank, world_size, STEPS)
    return {**loaded, "resumed": _raw(worker.policy)}


def run_alone(
    rank: int, world_size: int, address: str, model: Path, root: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """One rank's own cases, and what it makes of checkpoints of two ranks."""
    elsewhere = {}
    for name, stage in ELSEWHERE:
        case, folder = replace(BASE, zero_stage=stage), root / f"{name}_2"
        elsewhere[name] = _resume(name, case, rank, world_size, address, model, folder)
    return run_cases(rank, world_size, address, model, root), elsewhere


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def both_ranks(tiny_untied_model: Path, root: Path) -> list[dict[str, Any]]:
    return spawn(run_cases, 2, tiny_untied_model, root)


@pytest.fixture(scope="module")
def alone(both_ranks: Any, tiny_untied_model: Path, root: Path) -> Any:
    return spawn(run_alone, 1, tiny_untied_model, root)[0]


@pytest.fixture(scope="module")
def results(both_ranks: list[dict[str, Any]], alone: Any) -> dict[int, dict[str, Any]]:
    return {1: alone[0], 2: both_ranks[0]}


@pytest.fixture(scope="module")
def expected(tiny_untied_model: Path, results: dict[int, Any]) -> dict[str, Any]:
    """The textbook's (adapters, norms) for every fp32 case; most share one."""
    start = _adapters(results[2]["stage0"]["start"])
    shared = textbook(tiny_untied_model, BASE, STEPS, module_map(list(start)), start)
    found = dict.fromkeys([name for name, _ in EXACT], shared)
    start = _adapters(results[2]["attention"]["start"])
    found["attention"] = textbook(
        tiny_untied_model, OPTIONS["attention"], STEPS, module_map(list(start)), start
    )
    return found


def _adapters(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights.items() if "lora_" in name}


def _plain(weights: dict[str, torch.Tensor], scaling: float) -> dict[str, torch.Tensor]:
    """What a plain model with the same outputs has as weights, float64."""
    plain = {}
    for name, weight in weights.items():
        if ".base_layer." in name:
            a, b = (weights[name.replace("base_layer", f"lora_{x}.default")] for x in "AB")
            weight = weight.double() + scaling * b.double() @ a.double()
            name = name.replace(".base_layer.", ".")
        if "lora_" not in name:
            plain[name] = weight.double()
    return plain


@pytest.mark.parametrize(("name", "world_size"), marked(CASES, EXACT))
def test_adapters_are_trained_as_in_the_textbook(
    name: str, world_size: int, results: dict[int, Any], expected: dict[str, Any]
) -> None:
    result, (adapters, norms) = results[world_size][name], expected[name]
    found, start = _adapters(result["raw"]), result["start"]
    for factor in ("lora_A", "lora_B"):
        wanted = {name: value for name, value in adapters.items() if factor in name}
        assert relative_error(found, start, wanted) < 1e-5, factor
    assert found.keys() == adapters.keys()
    assert result["norms"] == pytest.approx(norms if len(norms) == STEPS else norms[1::2], rel=1e-5)


@pytest.mark.parametrize(("name", "world_size"), RUNS)
def test_the_base_model_stays(name: str, world_size: int, results: dict[int, Any]) -> None:
    result = results[world_size][name]
    for parameter, value in result["raw"].items():
        same = torch.equal(value, result["start"][parameter])
        assert same is ("lora_" not in parameter), parameter
    trained = {parameter for parameter, _, _ in result["masters"]}
    assert trained <= _adapters(result["raw"]).keys()


@pytest.mark.parametrize(("name", "world_size"), marked(CASES, RUNS, "publishing weights"))
def test_a_plain_merged_model_is_published(
    name: str, world_size: int, results: dict[int, Any], tiny_untied_model: Path
) -> None:
    from transformers import AutoModelForCausalLM

    result, case = results[world_size][name], CASES[world_size][name]
    published = result["published"]
    model = AutoModelForCausalLM.from_pretrained(tiny_untied_model)
    dtype = next(iter(result["raw"].values())).dtype
    assert published.keys() == {name for name, _ in model.named_parameters()}
    for parameter, value in model.named_parameters():  # B is zero: the base model itself
        assert torch.equal(result["published_first"][parameter], value.to(dtype))
    merged = _plain(result["raw"], case.lora.alpha / case.lora.rank)
    eps = torch.finfo(dtype).eps
    for parameter, value in published.items():
        torch.testing.assert_close(
            value.double(), merged[parameter], rtol=eps, atol=1e-7, msg=parameter
        )
        assert torch.equal(value, result["reference"][parameter])  # moved to the merged policy
    for parameter, value in result["raw"].items():
        assert torch.equal(value, result["raw_after_publishing"][parameter])
    for meta in result["metadata"]:
        value = published[meta.name]
        assert (meta.shape, meta.dtype) == (tuple(value.shape), value.dtype)
    if name not in BF16:  # in bfloat16 the merged weights are rounded, the sum of outputs is not
        model.load_state_dict(published, strict=True)
        table = torch.log_softmax(model(torch.tensor([SEQUENCE])).logits[0], -1)
        rows = range(1, len(SEQUENCE))
        logprobs = [0.0, *(table[t - 1, SEQUENCE[t]].item() for t in rows)]
        assert result["logprobs"] == pytest.approx(logprobs, abs=1e-5)


def test_all_ranks_and_layouts_start_alike(results: dict[int, Any]) -> None:
    """ZeRO-3 takes each rank's part of a parameter from that rank's own copy."""
    start = results[1]["stage2"]["start"]
    assert _adapters(start)
    for name in (*STAGES, "partitioned"):
        assert results[2][name]["start"]
        for parameter, value in results[2][name]["start"].items():
            assert torch.equal(value, start[parameter]), (name, parameter)
    assert all(value.any() == ("lora_A" in name) for name, value in _adapters(start).items())


@pytest.mark.parametrize("name", named(CASES[2], BF16))
def test_bfloat16_has_fp32_masters(
    name: str, both_ranks: list[dict[str, Any]], expected: dict[str, Any]
) -> None:
    for rank in both_ranks:
        assert rank[name]["masters"]
        for parameter, start, master in rank[name]["masters"]:
            weight = rank[name]["raw"][parameter].reshape(-1)[start:][: master.numel()]
            assert master.dtype is torch.float32
            assert torch.equal(master.bfloat16(), weight), parameter
    norms = expected["stage2"][1]
    assert both_ranks[0][name]["norms"] == pytest.approx(norms, rel=0.1)
    start, (adapters, _) = both_ranks[0]["stage2"]["start"], expected["stage2"]
    error = size = 0.0
    for rank in both_ranks:
        for parameter, first, master in rank[name]["masters"]:
            piece = slice(first, first + master.numel())
            own_start = rank[name]["start"][parameter].double().reshape(-1)[piece]
            wanted = (adapters[parameter] - start[parameter].double()).reshape(-1)[piece]
            error += ((master.double() - own_start - wanted) ** 2).sum().item()
            size += (wanted**2).sum().item()
    assert math.sqrt(error / size) < 0.2


@pytest.mark.parametrize("name", named(CASES[2], RESUMED, "resuming to the bit"))
def test_going_on_equals_never_having_stopped(name: str, both_ranks: list[dict[str, Any]]) -> None:
    for rank in both_ranks:
        result = rank[name]
        assert result["raw"]
        for parameter, value in result["raw"].items():
            assert torch.equal(value, result["loaded"][parameter]), parameter
            assert torch.equal(result["next"][parameter], result["resumed"][parameter]), parameter
        for parameter, value in result["reference"].items():
            assert torch.equal(value, result["loaded_reference"][parameter]), parameter


@pytest.mark.parametrize(
    "name",
    named(CASES[2], [n for n, _ in ELSEWHERE], "resuming with other ranks and another stage"),
)
def test_another_world_size_and_stage(
    name: str, both_ranks: list[dict[str, Any]], alone: Any
) -> None:
    original, result = both_ranks[0][name], alone[1][name]
    assert original["raw"]
    for parameter, value in original["raw"].items():
        assert torch.equal(value, result["loaded"][parameter]), parameter
    for parameter, value in original["reference"].items():
        assert torch.equal(value, result["loaded_reference"][parameter]), parameter
    adapters = _adapters(original["next"])
    assert relative_error(result["resumed"], original["raw"], adapters) < 1e-5


def test_checkpoints_hold_adapters_and_a_moved_reference_only(
    both_ranks: list[dict[str, Any]], root: Path
) -> None:
    from safetensors import safe_open

    kinds: dict[str, set[str]] = {}
    for path in (root / "stage3_2").glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                name, _, _, kind = key.split("|")
                kinds.setdefault(kind, set()).add(name)
    adapters = _adapters(both_ranks[0]["stage3"]["raw"]).keys()
    assert kinds["master"] == kinds["exp_avg"] == kinds["exp_avg_sq"] == adapters
    assert kinds["reference"] == both_ranks[0]["stage3"]["published"].keys()


def test_a_checkpoint_merges_into_a_plain_folder(
    both_ranks: list[dict[str, Any]], tiny_untied_model: Path, root: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    config = PolicyConfig(path=str(tiny_untied_model), lora=BASE.lora)
    model: Any = load_policy(config, torch.float32)
    read_weights(root / "stage3_2", model)
    merge_adapters(model)
    model.save_pretrained(tmp_path)
    plain, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, value in plain.named_parameters():
        assert torch.equal(value, both_ranks[0]["stage3"]["published"][name]), name


@pytest.mark.parametrize("fixture", ["tiny_model", "tiny_untied_model"])
def test_all_linear_layers_but_the_head(fixture: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(fixture)
    model = load_policy(PolicyConfig(path=str(path), lora=LoraConfig(rank=2)), torch.bfloat16)
    adapted = [meta.name for meta in WeightSource(model).metadata()]
    plain = load_policy(PolicyConfig(path=str(path)), torch.bfloat16)
    assert adapted == [name for name, _ in plain.named_parameters()]
    trained = {name for name, param in model.named_parameters() if param.requires_grad}
    assert len(trained) == 2 * 2 * 7  # layers, factors, linear maps
    assert not any("lm_head" in name or "embed" in name for name in trained)
    assert {param.dtype for param in model.parameters()} == {torch.bfloat16}


def test_both_factors_belong_to_the_module_of_their_layer(tiny_model: Path) -> None:
    model = load_policy(PolicyConfig(path=str(tiny_model), lora=LoraConfig(rank=2)), torch.float32)
    modules = module_map([name for name, p in model.named_parameters() if p.requires_grad])
    assert set(modules.values()) == {
        f"layers.{i}.{m}" for i in (0, 1) for m in ("attention", "mlp")
    }
    for name, module in modules.items():
        kind = "attention" if "self_attn" in name else "mlp"
        assert module == f"layers.{name.split('.')[2]}.{kind}", name


@pytest.mark.parametrize("wanted", [["q_prj"], ["q_proj", "lm_head"], ["all-linear"], ["proj"]])
def test_unknown_layers_are_refused_with_those_there_are(
    wanted: list[str], tiny_untied_model: Path
) -> None:
    config = PolicyConfig(
        path=str(tiny_untied_model), lora=LoraConfig(rank=2, target_modules=wanted)
    )
    with pytest.raises(ConfigError, match=r"down_proj, gate_proj, k_proj") as caught:
        load_policy(config, torch.float32)
    assert f"target_modules={[wanted[-1]]}" in str(caught.value)


def test_a_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ConfigError, match="a GPT2LMHeadModel without any"):
        load_policy(PolicyConfig(path=str(tmp_path), lora=LoraConfig(rank=2)), torch.float32)
