"""Door to git_caption.training: `python3 train.py --config configs/shapes.yaml`, `--help` for the rest."""

import sys

from git_caption.training.main import main

if __name__ == "__main__":
    sys.exit(main())
