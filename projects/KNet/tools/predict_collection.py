#!/usr/bin/env python
"""The command ``knet predict-collection`` from a checkout."""

import sys

from knet.commands.predict_collection import main

if __name__ == "__main__":
    sys.exit(main())
