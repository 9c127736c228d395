"""The KubeRay manifest and the images, as far as it goes without a cluster and a docker daemon."""

import json
import re
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mgsrl.config.compose import compose_config, list_choices
from mgsrl.training.places import wanted_gpus
from tests.documented import ROOT

MANIFEST = ROOT / "scripts/kuberay/rayjob.yaml"
JOB: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())
CLUSTER = JOB["spec"]["rayClusterSpec"]
PODS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
SCHEMA = json.loads((Path(__file__).parent / "rayjob_schema.json").read_text())
"""Of `ray.io/v1` RayJob in KubeRay 1.7: all fields of the objects that the manifest has; those that
it does not use take anything."""
LOCKS = [ROOT / "requirements.lock", ROOT / "docker/requirements-ray.lock"]
DOCKERFILES = [ROOT / "docker/Dockerfile", ROOT / "docker/Dockerfile.gpu"]


def test_the_manifest_is_a_rayjob() -> None:
    jsonschema.validate(JOB, SCHEMA)
    for key, value in (("workerGroupSpec", []), ("backoffLimit", "three"), ("submissionMod", "x")):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(JOB | {"spec": JOB["spec"] | {key: value}}, SCHEMA)


def test_the_run_of_the_manifest_uses_the_gpus_of_its_workers() -> None:
    words = JOB["spec"]["entrypoint"].split()
    assert words[:2] == ["mgsrl", "train"]
    there = 0
    for group in CLUSTER["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        there += group["replicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert wanted_gpus(compose_config(words[2:])).disjoint == there
    (head,) = CLUSTER["headGroupSpec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert CLUSTER["rayVersion"] == metadata.version("ray")


def test_the_launchers_wait_for_what_recipes_save() -> None:
    recipes = [compose_config([f"experiment={name}"]) for name in list_choices("experiment")]
    asked = max(config.checkpoint.grace_s for config in recipes)
    slurm = (ROOT / "scripts/slurm/train.sbatch").read_text()
    ends = re.findall(r"--signal=B:USR1@(\d+)", slurm)
    hooks = re.findall(r"timeout=(\d+)", MANIFEST.read_text())
    pods = [group["template"]["spec"]["terminationGracePeriodSeconds"] for group in PODS]
    for text, limits in ((slurm, ends), (JOB["spec"]["entrypoint"], [*hooks, *pods])):
        (grace_s,) = re.findall(r"checkpoint\.grace_s=(\d+)", text)
        assert asked <= int(grace_s) <= min(map(int, limits)) - 30


@pytest.mark.parametrize("group", PODS, ids=["head", "workers"])
def test_pods_are_of_the_image_s_user_and_find_their_volumes(group: dict[str, Any]) -> None:
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"USER {pod['securityContext']['runAsUser']}:1000" in DOCKERFILES[1].read_text()
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
    assert mounted["shm"] == "/dev/shm"
    run_dir = re.search(r"run\.dir=(\S+)", JOB["spec"]["entrypoint"])
    assert run_dir is not None
    assert run_dir[1].startswith(mounted["shared"])


@pytest.mark.parametrize("group", PODS, ids=["head", "workers"])
def test_a_pod_that_has_to_go_waits_until_the_run_has_left(
    group: dict[str, Any], tmp_path: Path
) -> None:
    """In a process namespace of its own: the hook stops every `mgsrl` that it sees."""
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a process namespace")
    (container,) = group["template"]["spec"]["containers"]
    python, *arguments = container["lifecycle"]["preStop"]["exec"]["command"]
    assert python == "python"
    (tmp_path / "mgsrl").write_text(
        "import os, signal, sys, time\n"
        "os.mkfifo('actor')\n"
        "def leave(*_):\n"
        "    print('saved', flush=True)\n"
        "    open('actor', 'w').close()\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "print('runs', flush=True)\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "pod.sh").write_text(
        'cd "${0%/*}"; "$1" "$PWD/mgsrl" train >log &\n'
        "until grep -qs runs log; do sleep 0.05; done\n"
        "(exec -a ray::Learner.save cat actor) &\n"
        "until grep -qs ^ray:: /proc/$!/cmdline; do sleep 0.05; done\n"
        '"$@"; cat log; jobs -r\n'
    )
    done = subprocess.run(
        [*alone, "bash", str(tmp_path / "pod.sh"), sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["runs", "saved"], done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_pinned_and_take_what_the_build_context_has(path: Path) -> None:
    text = path.read_text()
    (base,) = re.findall(r"(?m)^ARG BASE=(\S+)", text)
    assert re.fullmatch(r"[\w/.-]+:v?\d+\.\d+\.\d+[\w.-]*|\S+@sha256:\w{64}", base), "no exact tag"
    assert re.findall(r"(?m)^FROM (\S+)", text) == ["${BASE}", "${BASE}"]
    assert text.rindex("USER 1000:1000") > text.rindex("\nFROM")
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    for sources in re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", text):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in kept, f"{source}: not in the build context"


def test_the_locks_hold_what_job_submission_needs() -> None:
    pins: dict[str, str] = {}
    for lock in LOCKS:
        for line in lock.read_text().splitlines():
            if line and not line.startswith("#"):
                name, version = line.split("==")
                assert canonicalize_name(name) not in pins, f"{name} is pinned twice"
                pins[canonicalize_name(name)] = version
    hashed = dict(
        re.findall(
            r"(?m)^(\S+)==(\S+) --hash=sha256:[0-9a-f]{64}$",
            (ROOT / "docker/requirements-cpu.txt").read_text(),
        )
    )
    assert hashed == pins, "make image-lock"
    needed = [Requirement(text) for text in metadata.requires("ray") or []]
    needed = [r for r in needed if r.marker and r.marker.evaluate({"extra": "default"})]
    assert len(needed) > 8
    for requirement in needed:
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement


def test_what_a_base_has_stays_and_the_rest_is_the_lock_s() -> None:
    constraints = runpy.run_path(str(ROOT / "docker/constraints.py"))["constraints"]
    locks = ["# a comment\nRay==2.60.0\ntorch==2.13.0\n", "smart_open==9.0.2\n"]
    base = {"torch": "2.13.0+cu130", "numpy": "2.3.0"}
    assert constraints(locks, base) == [
        "numpy==2.3.0",
        "ray==2.60.0",
        "smart-open==9.0.2",
        "torch==2.13.0+cu130",
    ]
