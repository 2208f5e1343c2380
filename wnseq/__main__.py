"""``python -m wnseq`` is the ``wnseq`` command."""

import sys

from wnseq.training.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
