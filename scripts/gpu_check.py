#!/usr/bin/env python
"""Is mgsrl right on this card, and how fast is it? What to run first on a GPU.

Four parts, each of sections with a process and a time limit of their own; what needs a package that
is not installed is skipped, and says so:

  a  kernels  Gramian and combination of gradients, fingerprints of weights, log-probabilities in
              chunks: against float64, and in multiples of the time that moving the bytes takes
     forward  log-probabilities and gradients of packed rows and shared prompts, with and without
              recomputed activations: against float32 on the CPU
     updates  whole updates over ZeRO stages, types, adapters, offload, kinds of gradient buffers,
              with a checkpoint's round trip: against a textbook of the method and against the CPU
     speed    seconds, tokens/s, use of the card's arithmetic, and memory of a step with random
              weights of published shapes
  b  engines  log-probabilities of learner and transformers engine; weights equal to the bit; the
              bundled reward model
  c  vllm     the vLLM engine: log-probabilities, sleep and wake, new weights, canary
  d  run      five steps of the bundled run with engine and learner on one device

    python scripts/gpu_check.py                      # under eight minutes on one card
    python scripts/gpu_check.py --quick --out check.json
    python scripts/gpu_check.py --device cpu --quick # is the script right? A minute or two

Parts a and b need neither Ray nor vLLM nor Hydra (docs/cluster.md: what they need). Every check is
caught alone; the exit code is 1 when one fails, and 2 where torch does not see the machine's GPU.
Left out: several GPUs.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # the package and the textbook, of this clone
os.environ.setdefault("DS_BUILD_OPS", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for name in ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NVIDIA_TF32_OVERRIDE"):  # float32 is checked
    os.environ.pop(name, None)

from gpu_checks.report import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(__doc__, Path(__file__)))
