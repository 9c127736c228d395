#!/usr/bin/env bash
# Two nodes on one machine: network namespaces with addresses of their own, joined by a cable that
# can be cut; each has its own processes, host name, shared memory and Ray. Trains on both, loses
# one in the middle in several ways, compares every number with a run on one node, removes all.
#
#   scripts/two_node_test.sh [--short] [--keep] [--python PYTHON] [TRIAL ...]
#
# Trials: both, killed, cut, engine, returned, refused (all of them when none is named); --short is `killed`.
# Exit codes: 0 all as it should be, 1 something is not, 77 namespaces are not allowed here.
# Left out: what only another machine shows (its own disk, its own clock, a real switch).
set -euo pipefail

python=${PYTHON:-python}
steps=5 keep=0 trials=()
while (($#)); do
  case $1 in
    --short) steps=4 trials=(killed) ;;
    --keep) keep=1 ;;
    --python) python=$2; shift ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    both | killed | cut | engine | returned | refused) trials+=("$1") ;;
    *) echo "unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
((${#trials[@]})) || trials=(both killed cut engine returned refused)
python=$(command -v "$python")
ray=$(dirname "$python")/ray

# What started this may have set them for processes of its own, on loopback.
unset RAY_ADDRESS RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER GLOO_SOCKET_IFNAME NCCL_SOCKET_IFNAME VLLM_HOST_IP
id=mgsrl-$$
work=$(mktemp -d "/var/tmp/$id.XXXX")
port=6379
declare -A address=([a]=10.213.7.1 [b]=10.213.7.2) init=() unshared=()
begin=$SECONDS failed=0

say() { printf '%4d s  %s\n' $((SECONDS - begin)) "$*"; }

remove_node() { # NAME: every process of it at once, as when the power goes
  if [[ -n ${init[$1]:-} ]]; then
    kill -KILL "${init[$1]}" 2>/dev/null || true
    wait "${unshared[$1]}" 2>/dev/null || true
    unset "init[$1]"
  fi
}

cleanup() {
  local code=$?
  trap - EXIT INT TERM
  for name in a b; do remove_node $name; done
  for name in a b; do ip netns delete "$id-$name" 2>/dev/null || true; done
  if ((keep)); then touch "$work/keep"; echo "kept: $work"; else rm -rf "$work"; fi
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

skip() { echo "SKIP: $*"; exit 77; }

# ---- the two machines -------------------------------------------------------------------------

build() {
  [[ $(id -u) == 0 ]] || skip "network namespaces need root"
  local tool problem
  for tool in ip unshare nsenter mount setpriv; do
    command -v $tool >/dev/null || skip "no command $tool (Debian: apt-get install iproute2 util-linux)"
  done
  local old pid
  for old in /run/netns/mgsrl-*-[ab] /var/tmp/mgsrl-*; do # of a script that was killed
    pid=${old##*/mgsrl-} pid=${pid%%[-.]*}
    [[ ! -e $old || -e $old/keep || -d /proc/$pid ]] && continue
    if [[ $old == /run/* ]]; then ip netns delete "${old##*/}"; else rm -rf "$old"; fi
  done
  problem=$(ip netns add "$id-a" 2>&1) || skip "network namespaces are not allowed here: $problem"
  problem=$(ip netns add "$id-b" 2>&1) || skip "network namespaces are not allowed here: $problem"
  problem=$(ip link add cable netns "$id-a" type veth peer name cable netns "$id-b" 2>&1) ||
    skip "virtual cables are not allowed here: $problem"
  problem=$(unshare --mount --uts --ipc --pid --fork mount -t proc proc /proc 2>&1) ||
    skip "process namespaces are not allowed here: $problem"
  for name in a b; do
    mkdir -p "$work/$name/ray"
    ip -n "$id-$name" address add "${address[$name]}/24" dev cable
    ip -n "$id-$name" link set lo up
    ip -n "$id-$name" link set cable up
    ip -n "$id-$name" route add default dev cable
    # As Debian writes it: who takes his own name for his address is reached by nobody.
    echo "127.0.0.1 localhost
127.0.1.1 node-$name" >"$work/$name/hosts"
  done
  mkdir -p "$work/runs" /tmp/ray
  (umask 077 && "$python" -c 'import secrets; print(secrets.token_hex(32))' >"$work/token")
  cat >"$work/node.sh" <<'NODE'
set -e
hostname "node-$1"
mount -t proc proc /proc
mount -t tmpfs -o size=3g tmpfs /dev/shm
mount --bind "$2/$1/ray" /tmp/ray
mount --bind "$2/$1/hosts" /etc/hosts
shift 2
"$@" &
wait
NODE
}

node_env=(
  RAY_AUTH_MODE=token "RAY_AUTH_TOKEN_PATH=$work/token" RAY_USAGE_STATS_ENABLED=0
  # A node whose cable is cut counts as lost after about 5 s instead of half a minute.
  RAY_health_check_initial_delay_ms=1000 RAY_health_check_period_ms=1000
  RAY_health_check_timeout_ms=2000 RAY_health_check_failure_threshold=3
  RAY_prestart_worker_first_driver=0
)

node_up() { # NAME [ray start arguments]
  local name=$1 log=$work/$1/node.log limit
  shift
  : >"$log"
  env "${node_env[@]}" setpriv --pdeathsig KILL ip netns exec "$id-$name" \
    unshare --mount --uts --ipc --pid --fork --kill-child \
    bash "$work/node.sh" "$name" "$work" "$ray" start --node-ip-address="${address[$name]}" \
    --num-cpus=2 --object-store-memory=200000000 --disable-usage-stats --block "$@" \
    >"$log" 2>&1 &
  unshared[$name]=$!
  for ((limit = SECONDS + 90; SECONDS < limit; )); do
    grep -q "Ray runtime started" "$log" && break
    kill -0 "${unshared[$name]}" 2>/dev/null || break
    sleep 0.2
  done
  grep -q "Ray runtime started" "$log" || { cat "$log"; echo "node $name did not start"; exit 1; }
  init[$name]=$(tr -d ' ' <"/proc/${unshared[$name]}/task/${unshared[$name]}/children")
  say "node-$name is up at ${address[$name]}"
}

head_up() { node_up a --head --port=$port --include-dashboard=false; }
second_up() { node_up b --address="${address[a]}:$port" "$@"; }

on_a() { # COMMAND: on the first node, which has the drivers
  nsenter --target "${init[a]}" --mount --uts --ipc --net --pid --wd="$PWD" \
    env "${node_env[@]}" PYTHONUNBUFFERED=1 COLUMNS=100 "$@"
}

# ---- runs -------------------------------------------------------------------------------------

run=(
  "$python" -m mgsrl.cli train "train.num_steps=$steps" rollout.engine=transformers
  rollout.max_new_tokens=24 rollout.num_workers=2 algo.prompts_per_domain=2
  algo.samples_per_prompt=4 learner.world_size=2 learner.micro_batch_size=8
  learner.threads_per_rank=1 evaluate.prompts_per_domain=4 evaluate.samples_per_prompt=1 checkpoint.every=1 trackers.wandb=disabled
  cluster.object_store_gib=0.2
)

train() { # NAME [overrides]: in the background
  local name=$1
  shift
  on_a "${run[@]}" "run.dir=$work/runs/$name" "$@" >"$work/runs/$name.log" 2>&1 &
  driver=$!
}

finish() { # NAME: the run that `train` began
  local code=0
  wait "$driver" || code=$?
  sed 's/^/        | /' "$work/runs/$1.log"
  if ((code)); then say "FAILED: $1 ended with code $code"; failed=1; fi
}

steps_done() { if [[ -f $1 ]]; then wc -l <"$1"; else echo 0; fi; }

wait_for_step() { # NAME STEP
  local limit=$((SECONDS + 240))
  while (($(steps_done "$work/runs/$1/metrics.jsonl") < $2)); do
    kill -0 "$driver" 2>/dev/null || break
    ((SECONDS < limit)) || { say "FAILED: $1 made no step $2 within 240 s"; failed=1; break; }
    sleep 0.1
  done
}

same_numbers() { # NAME [REFERENCE]
  "$python" - "$work/runs/${2:-one_node}" "$work/runs/$1" "$steps" <<'PY' || failed=1
import json, sys
from pathlib import Path

def rows(folder):
    clock = ("time/", "throughput/", "timestamp", "rollout/engine_busy", "restarts/")
    read = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(clock)} for row in read]

one, two, steps = rows(sys.argv[1]), rows(sys.argv[2]), int(sys.argv[3])
shards = [sorted((Path(f) / f"checkpoints/step_{steps}/learner").glob("*")) for f in sys.argv[1:3]]
weights = [[p.read_bytes() for p in folder if p.suffix == ".safetensors"] for folder in shards]
differ = {k for a, b in zip(one, two) for k in {*a, *b} if a.get(k) != b.get(k)}
good = len(one) == len(two) == steps and not differ and weights[0] == weights[1] != []
verdict = "the same to the bit" if good else f"DIFFERENT ({len(one)}, {len(two)} steps: {differ})"
print(f"        {len(two)} steps, {len(two[-1])} numbers a step, {len(weights[1])} shards: {verdict}")
sys.exit(not good)
PY
}

where() { # NAME: who ran where
  "$python" - "$work/runs/$1/run.json" <<'PY'
import json, sys
placement = json.load(open(sys.argv[1]))["placement"]
engines = [worker["host"] for worker in placement["rollout_workers"]]
print("        learners on", *placement["learner_addresses"], "| rollout workers on", *engines)
PY
}

refused() { # WORDS-THAT-IT-SAYS COMMAND...: ends with code 2, soon, and starts no actor
  local words=$1 code=0 began=$SECONDS log=$work/runs/refused.log
  shift
  on_a timeout 120 "$@" >"$log" 2>&1 || code=$?
  sed -n 's/ *$//; /^ fail/s/^/        |/p; /^mgsrl:/,$s/^/        | /p' "$log"
  if ((code == 2)) && grep -qF -- "$words" "$log"; then
    say "refused within $((SECONDS - began)) s: $words"
  else
    tail -n 20 "$log"; say "FAILED: code $code instead of 2 with \"$words\""; failed=1
  fi
}

trial() {
  say "== $1"
  local cluster=cluster.address=${address[a]}:$port
  case $1 in
    both)
      on_a "$python" -m mgsrl.cli doctor "$cluster" "run.dir=$work/runs/both" 2>&1 |
        sed -n '/ machines /,$s/^\(.*[^ ]\) *$/        | \1/p'
      train both "$cluster"; finish both; where both; same_numbers both ;;
    killed)
      train killed "$cluster" cluster.node_wait_s=3
      wait_for_step killed 2; remove_node b; say "node-b is dead: all its processes at once"
      finish killed; where killed; same_numbers killed; second_up ;;
    cut)
      train cut "$cluster" cluster.node_wait_s=3
      wait_for_step cut 2; ip -n "$id-a" link set cable down; say "the cable is cut"
      finish cut; where cut; same_numbers cut
      ip -n "$id-a" link set cable up; remove_node b; second_up ;;
    engine) # all learners are on node-a
      train one_rank cluster.address=local learner.world_size=1; finish one_rank
      train engine "$cluster" learner.world_size=1
      wait_for_step engine 2; remove_node b; say "node-b is dead: all its processes at once"
      finish engine; where engine; same_numbers engine one_rank; second_up
      if ! grep -q "worker . is replaced" "$work/runs/engine.log" ||
        grep -q "restart 1 of" "$work/runs/engine.log"; then
        say "FAILED: the loss of an engine alone should replace it and repeat nothing"; failed=1
      fi ;;
    returned) # only node-b has a GPU (in name), which a reward worker asks for
      remove_node b; second_up --num-gpus=1
      train returned "$cluster" domains.math.reward.num_gpus=1 cluster.node_wait_s=120
      wait_for_step returned 2; remove_node b; say "node-b is dead: all its processes at once"
      sleep 10; second_up --num-gpus=1
      finish returned; where returned; same_numbers returned ;;
    refused)
      cp -r "$("$python" -c 'import mgsrl; print(mgsrl.__path__[0])')/assets/pocket_policy" "$work/a/ray/"
      refused "more processes than the cluster of 2 machines" \
        "${run[@]}" "$cluster" "run.dir=$work/runs/refused" rollout.num_workers=1000
      refused "policy.path" "$python" -m mgsrl.cli doctor "$cluster" \
        "run.dir=$work/runs/refused" policy.path=/tmp/ray/pocket_policy
      refused "run folder" "$python" -m mgsrl.cli doctor "$cluster" run.dir=/tmp/ray/run
      refused "Ray could not connect to cluster.address" \
        env RAY_AUTH_TOKEN=wrong "$python" -m mgsrl.cli doctor "$cluster" ;;
  esac
}

build
say "two namespaces with a cable between them; work in $work"
head_up
second_up
train one_node cluster.address=local; finish one_node
for each in "${trials[@]}"; do trial "$each"; done
if ((failed)); then say "FAILED"; exit 1; fi
say "all as it should be"
