#!/usr/bin/env python3
"""Door to the jobs: python3 inference.py -p "{'type': 'help'}"."""

import sys

from git_caption.jobs.main import main

if __name__ == "__main__":
    sys.exit(main())
