"""``python -m wnseq`` is the ``wnseq`` command."""

import sys

from wnseq.training.cli.command import main

sys.exit(main())
