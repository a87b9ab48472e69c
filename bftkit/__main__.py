"""``python -m bftkit`` is the command line."""

import sys

from bftkit.cli import main

sys.exit(main())
