"""``python -m zoo ...`` is the ``zoo`` command; ``torchrun --nproc-per-node=2 -m zoo train ...`` trains with processes of torchrun's."""

import os
import sys

from zoo.cli.main import main

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code and os.environ.get("WORLD_SIZE", "1") != "1":  # threads of a broken collective must not hold a rank that has failed
        os._exit(code)
    sys.exit(code)
