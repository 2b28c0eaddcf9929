#!/usr/bin/env python
"""A page to try a model on one's own picture, in the browser; see docs/web.md.

python projects/KNet/tools/web.py --weights model_final.pth
"""

import sys

from knet.web.main import main

if __name__ == "__main__":
    sys.exit(main())
