"""How the answers of several machines are compared; that they answer is tried by
`tests/scripts/test_two_nodes.py`."""

from pathlib import Path
from typing import Any

from mgsrl.cluster import probe
from mgsrl.cluster.nodes import (
    Needs,
    _memory_check,
    _path_checks,
    _shared_memory_check,
    _told,
    _version_checks,
)


def facts(**other: Any) -> dict[str, Any]:
    return {
        "versions": probe.versions(),
        "paths": {},
        "hub": {},
        "memory_gib": (20.0, 24.0),
        "shm_gib": 8.0,
        **other,
    }


def test_equal_versions_are_one_line() -> None:
    (check,) = _version_checks({"10.0.0.1": facts(), "10.0.0.2": facts()})
    assert check.status == "ok"
    assert check.found.startswith("the same everywhere: ")
    assert f"mgsrl {probe.versions()['mgsrl']}" in check.found


def test_another_version_is_named_with_its_machine() -> None:
    def rows(**changed: str | None) -> dict[str, Any]:
        mine = {k: v for k, v in {**probe.versions(), **changed}.items() if v is not None}
        checks = _version_checks({"10.0.0.1": facts(), "10.0.0.2": facts(versions=mine)})
        return {check.name: check for check in checks}

    found = rows(mgsrl="0.0 (code 12345678)")
    assert found["mgsrl"].status == "fail"
    assert found["mgsrl"].found.endswith("; 10.0.0.2: 0.0 (code 12345678)")
    assert found["mgsrl"].todo
    assert "mgsrl" not in found["versions"].found
    assert rows(transformers=None)["transformers"].status == "fail"
    assert rows(deepspeed=None)["deepspeed"].status == "warn"
    assert rows(deepspeed="0.1")["deepspeed"].status == "fail"
    mine = probe.versions()["torch"].partition("+")[0]
    assert list(rows(torch=f"{mine}+cu130")) == ["versions"]  # a head without GPUs


def test_paths_are_compared_with_the_drivers(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    here, path = probe.outline(model), str(model)
    needs = Needs(tmp_path, everywhere={"policy.path": path}, of_driver={"data": path})

    def rows(seen: str) -> dict[str, Any]:
        all_ = {"10.0.0.1": facts(paths={path: here}), "10.0.0.2": facts(paths={path: seen})}
        return {check.name: check for check in _path_checks(needs, all_)}

    assert {check.status for check in rows(here).values()} == {"ok"}
    missing = rows("")
    assert missing["policy.path"].status == "fail"
    assert missing["policy.path"].found.endswith("; 10.0.0.2: nothing there")
    assert missing["data"].status == "warn"
    assert rows("1 files, 0.0 MiB, digest 00000000")["policy.path"].status == "fail"


def test_hub_models_have_one_commit(tmp_path: Path) -> None:
    def row(first: str, second: str) -> str:
        needs = Needs(tmp_path, hub={"policy.path": "a/b"})
        all_ = {"1": facts(hub={"a/b": first}), "2": facts(hub={"a/b": second})}
        (check,) = _path_checks(needs, all_)
        return check.status

    assert [row("c1", "c1"), row("c1", ""), row("c1", "c2")] == ["ok", "warn", "fail"]


def test_a_machine_without_room_is_named() -> None:
    low = {"10.0.0.1": facts(), "10.0.0.2": facts(memory_gib=(0.5, 24.0), shm_gib=None)}
    assert _memory_check(low).found == "10.0.0.2: 0.5 GiB free"
    assert _shared_memory_check(low).found == "10.0.0.2: none"
    fine = {"10.0.0.1": facts(), "10.0.0.2": facts()}
    assert _memory_check(fine).found == "48 GiB in all, 20.0 GiB or more free on each"
    assert _shared_memory_check(fine).status == "ok"


def test_many_machines_with_one_answer_are_counted() -> None:
    names = {f"10.0.0.{index}": "2.59" for index in range(9)}
    assert _told(names) == "10.0.0.0, 10.0.0.1, 10.0.0.2, 10.0.0.3 and 5 more: 2.59"
