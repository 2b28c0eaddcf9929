"""Installs the package ``knet`` from projects/KNet, the configs with it."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Puts ``configs/`` into the package, so that models are found by name without a checkout."""

    def run(self):
        super().run()
        if not self.editable_mode:  # that one finds the checkout's
            target = Path(self.build_lib) / "knet" / "configs"
            shutil.copytree("configs", target, dirs_exist_ok=True)


setup(
    name="knet-detectron2",
    version="0.2.0",
    description="K-Net: unified image segmentation for Detectron2",
    license="Apache-2.0",
    cmdclass={"build_py": BuildWithConfigs},
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
    extras_require={"timm": ["timm"], "cityscapes": ["cityscapesscripts"]},
)
