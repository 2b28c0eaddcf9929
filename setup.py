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
    version="0.7.0",
    description="K-Net: unified image segmentation for Detectron2",
    license="Apache-2.0",
    cmdclass={"build_py": BuildWithConfigs},
    package_dir={"": "projects/KNet"},
    packages=find_packages("projects/KNet", include=["knet", "knet.*"]),
    package_data={
        "knet.report": ["*.css", "*.js"],
        "knet.visualization": ["*.css"],
        "knet.web": ["*.css"],
    },
    py_modules=["knet_cli"],
    entry_points={"console_scripts": ["knet = knet_cli:main"]},
    python_requires=">=3.10",
    # Not here: torch, torchvision and detectron2, which must match each other, and COCO's panoptic
    # tool, which as released asks for NumPy 1. projects/KNet/tools/set_up.py installs them.
    install_requires=[
        "fvcore",
        "iopath",
        "matplotlib",
        "numpy",
        "opencv-python-headless",
        "pillow",
        "portalocker",
        "pycocotools",
        "scipy",
        "tabulate",
        "tqdm",
    ],
    extras_require={
        "cityscapes": ["cityscapesscripts"],
        "docs": ["latex2mathml", "mkdocs<2", "mkdocs-material"],
        "evaluation": ["hotcoco"],
        "export": ["onnx", "onnxruntime", "onnxscript"],
        "ray": ["ray[data]"],
        "safetensors": ["safetensors"],
        "tiff": ["imagecodecs", "tifffile"],
        "timm": ["timm"],
        "video": ["av"],
        "web": ["gradio>=6"],
    },
)
