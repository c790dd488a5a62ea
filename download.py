"""Door to git_caption.downloads: `python3 download.py --data_root data/conceptual`, `--help` for the rest."""

import sys

from git_caption.downloads.main import main

if __name__ == "__main__":
    sys.exit(main())
