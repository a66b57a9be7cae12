"""Runs the command line: `python -m nextpixel`."""

import sys

from nextpixel.cli.main import main

sys.exit(main())
