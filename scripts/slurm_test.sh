#!/usr/bin/env bash
# scripts/slurm/train.sbatch under a real Slurm of two nodes, both on this machine; started here and
# removed again. Needs slurmctld, slurmd and munged (Debian: slurm-wlm, munge) and takes some minutes.
#   1. two seeds of an array at the same time, one a node, stopped by their time limit, requeued by the
#      script, gone on with: every step is there once
#   2. one run over both nodes, whose second raylet is killed in the middle
# Left out: GPUs (Slurm is told of none).
set -euo pipefail
cd "$(dirname "$0")/.."
for program in slurmctld slurmd munged sbatch; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || { echo "skipped: $program is not installed"; exit 0; }
done
export PATH=$PATH:/usr/sbin:/sbin
[ -x .venv/bin/mgsrl ] && export PATH=$PWD/.venv/bin:$PATH
command -v mgsrl >/dev/null || { echo "mgsrl is not on PATH: make setup"; exit 2; }

room=$(mktemp -d /tmp/mgsrl-slurm.XXXXXX)
export SLURM_CONF=$room/slurm.conf
stop() {
  scancel --user="$(id -un)" 2>/dev/null || true
  for _ in $(seq 60); do [ -z "$(squeue -h 2>/dev/null)" ] && break; sleep 1; done
  for file in "$room"/*.pid; do kill "$(cat "$file")" 2>/dev/null || true; done
  echo "logs of Slurm and of the jobs: $room"
}
trap stop EXIT

read -r controller_port node1_port node2_port < <(python3 - <<'PYTHON'
import socket

sockets = [socket.socket() for _ in range(3)]
for each in sockets:
    each.bind(("", 0))
print(*(each.getsockname()[1] for each in sockets))
PYTHON
)
mkdir "$room/state" "$room/spool"
(umask 077 && head -c 64 /dev/urandom >"$room/munge.key")
cat >"$SLURM_CONF" <<CONF
ClusterName=trial
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$controller_port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$room/munge.sock,cred_expire=5
StateSaveLocation=$room/state
SlurmdSpoolDir=$room/spool/%n
SlurmctldPidFile=$room/slurmctld.pid
SlurmdPidFile=$room/slurmd-%n.pid
SlurmctldLogFile=$room/slurmctld.log
SlurmdLogFile=$room/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
NodeName=n[1-2] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$node1_port,$node2_port CPUs=2 RealMemory=1000
PartitionName=all Nodes=ALL Default=YES
CONF
munged --force --socket="$room/munge.sock" --key-file="$room/munge.key" --pid-file="$room/munged.pid" \
  --log-file="$room/munged.log" --seed-file="$room/munge.seed"
slurmctld -c
for node in n1 n2; do slurmd -N "$node"; done
for _ in $(seq 60); do [ "$(sinfo -h -o %t)" = idle ] && break; sleep 1; done
sinfo

small=(rollout.engine=transformers rollout.max_new_tokens=24 algo.prompts_per_domain=2
  algo.samples_per_prompt=4 learner.micro_batch_size=8 evaluate.prompts_per_domain=0
  checkpoint.every=5 trackers.wandb=disabled)
export MGSRL_NODE_IP=127.0.0.1
limited_steps=${STEPS:-200}
steps() { if [ -f "$1/metrics.jsonl" ]; then wc -l <"$1/metrics.jsonl"; else echo 0; fi; }
fail() {
  echo "FAILED: $1"
  tail -n 40 "$room"/job-*.log
  exit 1
}
finish() { # of job $1, within $2 seconds
  for _ in $(seq "$2"); do [ -z "$(squeue -h --jobs="$1" 2>/dev/null)" ] && return; sleep 1; done
  fail "job $1 did not end within $2 s"
}
check() { # that run $1 has steps 1 to $2, each once
  python3 - "$1/metrics.jsonl" "$2" <<'PYTHON' || fail "$1 has other steps than 1 to $2, once each"
import json
import sys

found = [json.loads(line)["step"] for line in open(sys.argv[1])]
sys.exit(found != list(range(1, int(sys.argv[2]) + 1)))
PYTHON
}

echo "--- an array of two seeds; the signal comes 100 s before the end"
job=$(sbatch --parsable --array=0-1 --nodes=1 --time=60 --signal=B:USR1@100 --output="$room/job-%A_%a.log" \
  scripts/slurm/train.sbatch "${small[@]}" train.num_steps="$limited_steps" run.dir="$room/run")
SECONDS=0
for _ in $(seq 1200); do
  [ "$(steps "$room/run-seed0")" -ge 6 ] && [ "$(steps "$room/run-seed1")" -ge 6 ] && break
  sleep 1
done
# Two or three minutes from here, of every attempt: however slow two starts are, each saves a step
scontrol update JobId="$job" TimeLimit=$((SECONDS / 60 + 3))
finish "$job" 3600
for seed in 0 1; do
  grep -h '^\[' "$room/job-${job}_$seed.log"
  grep -q 'attempt 2\]' "$room/job-${job}_$seed.log" || fail "seed $seed was not requeued: set STEPS higher"
  check "$room/run-seed$seed" "$limited_steps"
done

echo "--- one run over both nodes; the second node's raylet is killed after step 3"
job=$(sbatch --parsable --nodes=2 --time=30 --output="$room/job-%j.log" \
  scripts/slurm/train.sbatch "${small[@]}" train.num_steps=12 rollout.num_workers=2 run.dir="$room/two")
for _ in $(seq 300); do [ "$(steps "$room/two")" -ge 3 ] && break; sleep 1; done
raylet=$(pgrep -f "raylet/raylet .*mgsrl-$job/" | tail -n 1) || fail "no raylet of job $job"
kill -9 "$raylet"
finish "$job" 900
grep -h '^\[' "$room/job-$job.log"
check "$room/two" 12
echo "all of it holds"
