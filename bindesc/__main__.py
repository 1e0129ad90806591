"""``python -m bindesc``."""

import sys

from .cli import main

sys.exit(main())
