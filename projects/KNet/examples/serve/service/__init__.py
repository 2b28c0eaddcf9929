"""A service over HTTP for an exported K-Net. It needs neither torch nor Detectron2."""
