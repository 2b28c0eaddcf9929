"""A page to try a model on one's own picture, in the browser. It needs ``knet[web]``."""
