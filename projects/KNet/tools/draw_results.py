#!/usr/bin/env python
"""The command ``knet draw`` from a checkout."""

import sys

from knet.commands.draw_results import main

if __name__ == "__main__":
    sys.exit(main())
