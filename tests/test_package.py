"""The package as pip installs it, away from the checkout."""

import os
import shutil
import subprocess
import sys

from tests.conftest import REPO


def test_models_are_found_by_name_without_the_checkout(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for part in ("configs", "projects"):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPO / part, source / part, ignore=ignore)
    shutil.copy(REPO / "setup.py", source)
    installed = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-lib", str(installed)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    shutil.rmtree(source)
    program = (
        "import knet; print(knet.__file__); "
        "print(knet.get_config('coco/panoptic/knet_r50_1x').SOLVER.MAX_ITER); "
        "print(knet.get_config('knet_semantic.yaml').MODEL.META_ARCHITECTURE); "
        "print(knet.get_config('mine.yaml').MODEL.KNET.KERNEL_HEAD.NAME); "
        "import knet_cli; print(knet_cli.main(['draw-losses', 'nowhere']))"
    )
    (tmp_path / "mine.yaml").write_text("_BASE_: knet_instance_fast.yaml")
    told = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    init = str(installed / "knet" / "__init__.py")
    assert told == [init, "87960", "SemanticKNet", "PointKernelHead", "1"]
