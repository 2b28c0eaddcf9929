#!/usr/bin/env python
"""The command ``knet draw-run`` from a checkout."""

import sys

from knet.commands.draw_run import main

if __name__ == "__main__":
    sys.exit(main())
