"""The table of cards, and the cores of this machine."""

import pytest

from mgsrl.cluster.hardware import GPUS, gpu_named, gpu_of_card, measured_cores
from mgsrl.errors import ConfigError


def test_cards_are_found_by_the_names_they_give_themselves() -> None:
    for card, name in {
        "NVIDIA H100 80GB HBM3": "H100-80GB",
        "NVIDIA H100 PCIe": "H100-PCIe-80GB",
        "NVIDIA H200": "H200-141GB",
        "NVIDIA A100-SXM4-80GB": "A100-80GB",
        "NVIDIA A100-SXM4-40GB": "A100-40GB",
        "NVIDIA L40S": "L40S-48GB",
        "NVIDIA L4": "L4-24GB",
        "NVIDIA GeForce RTX 4090": "RTX4090-24GB",
    }.items():
        found = gpu_of_card(card, 11.0)
        assert found is not None
        assert (found.name, found.gib) == (name, 11.0)
    assert gpu_of_card("Radeon", 11.0) is None


def test_the_table_is_of_cards_not_of_wishes() -> None:
    for gpu in GPUS.values():
        size = float(gpu.name.rpartition("-")[2].removesuffix("GB"))
        assert 0.85 * size / 1.0737 <= gpu.gib <= size
        assert gpu.network_gbs <= gpu.link_gbs < gpu.memory_gbs


def test_names_are_not_case_sensitive_and_mistakes_are_told() -> None:
    assert gpu_named("h100-80gb").tflops == 989
    with pytest.raises(ConfigError, match="did you mean 'H100-80GB'"):
        gpu_named("H100")


def test_cores_are_measured() -> None:
    one, two = (measured_cores(count, 256, 0.02) for count in (1, 2))
    assert one.gflops > 0.5
    assert one.memory_gbs > 0.1
    assert two.count == 2
