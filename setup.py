"""Installs the package ``knet`` from projects/KNet."""

from setuptools import find_packages, setup

setup(
    name="knet-detectron2",
    version="0.1.0",
    description="K-Net: unified image segmentation for Detectron2",
    license="Apache-2.0",
    package_dir={"": "projects/KNet"},
    packages=find_packages("projects/KNet", include=["knet", "knet.*"]),
    python_requires=">=3.10",
    # torch, torchvision and detectron2 must match each other: requirements.txt pins a set that does
    install_requires=[
        "fvcore",
        "iopath",
        "matplotlib",
        "numpy",
        "opencv-python-headless",
        "panopticapi-lite",
        "pycocotools",
        "scipy",
        "tabulate",
    ],
)
