#!/usr/bin/env python3
"""Set up an environment for K-Net, or add what is missing to the present one.

    python projects/KNet/tools/set_up.py                      # .venv, as make demo and make test do
    python projects/KNet/tools/set_up.py --python python3.10  # .venv of that Python
    python projects/KNet/tools/set_up.py --here               # the environment of this Python

Python 3.10 gets the reference set of requirements.txt, a newer one requirements-py311.txt.
``--here`` takes torch, Detectron2 and all else as it finds them. docs/install.md says more. Any
Python from 3.8 on runs this file, so that it can look for a newer one.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple
from zipfile import ZIP_DEFLATED, ZipFile

REPO = Path(__file__).resolve().parents[3]
OLDEST = (3, 10)
REFERENCE, CURRENT, DEV = "requirements.txt", "requirements-py311.txt", "requirements-dev.txt"

# by the names of pip: what K-Net imports, and what Detectron2 does
NEEDED = (
    *("torch", "torchvision", "numpy", "scipy", "opencv-python-headless", "pillow", "pycocotools"),
    *("fvcore", "iopath", "matplotlib", "portalocker", "tabulate"),
    *("cloudpickle", "hydra-core", "omegaconf", "packaging", "tensorboard", "termcolor", "tqdm"),
    "yacs",
)
MODULES = {
    "hydra-core": "hydra",
    "opencv-python-headless": "cv2",
    "panopticapi-lite": "panopticapi",
    "pillow": "PIL",
    "sal-detectron2": "detectron2",
}
# released for Python 3.10 or NumPy 1 alone; their Python files work with newer ones
PYTHON_FILES = ("sal-detectron2", "panopticapi-lite")
BINARIES = (".so", ".pyd", ".dylib")

# GB to download and on the disk, all packages, on Linux
SIZES = {REFERENCE: (3.2, 6.1), CURRENT: (3.4, 6.6)}
SIZE_WITHOUT_GPU = (0.6, 2.0)


class SetUpError(Exception):
    """What the user has to change, in one sentence."""


class Python(NamedTuple):
    """An interpreter that runs."""

    path: str
    version: Tuple[int, int]
    has_venv: bool  # it can make environments

    @property
    def requirements(self) -> str:
        return REFERENCE if self.version < (3, 11) else CURRENT

    def __str__(self) -> str:
        return f"Python {dotted(self.version)} ({self.path})"


def dotted(version: Tuple[int, int]) -> str:
    return ".".join(map(str, version))


def say(text: str) -> None:
    print(text, flush=True)


# ---- choosing a Python


def probe(path: str) -> Optional[Python]:
    """Ask an interpreter what it is; None if it does not run, as some of pyenv's shims do not."""
    program = (
        "import importlib.util as u, json, sys; print(json.dumps([sys.version_info[:2], "
        "all(map(u.find_spec, ('venv', 'ensurepip'))), getattr(sys, '_base_executable', '')]))"
    )
    try:
        told = subprocess.run(
            [path, "-I", "-c", program], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
        version, has_venv, base = json.loads(told.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    # an environment's base, which stays when the environment is renewed
    return Python(base or path, tuple(version), has_venv)


def named(pattern: str) -> Iterator[str]:
    """Programs whose whole name fits: those of PATH in its order, then pyenv's, newest first."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    versions = sorted(pyenv.glob("*"), key=lambda v: [int(n) for n in re.findall(r"\d+", v.name)])
    folders = [Path(folder) for folder in os.get_exec_path()]
    for folder in [*folders, *(version / "bin" for version in reversed(versions))]:
        if folder.is_dir():
            ending = "(?:[.]exe)?" if sys.platform == "win32" else ""
            program = re.compile(f"(?:{pattern}){ending}")
            names = sorted(name for name in os.listdir(folder) if program.fullmatch(name))
            yield from (str(folder / name) for name in names)


def choose_python(asked: Optional[str]) -> Python:
    """The Python asked for; else python3 of PATH; else the newest that is found.

    Args:
        asked: a path, or a name on PATH or among pyenv's.

    Raises:
        SetUpError: it does not run, is too old or cannot make environments; none is found.
    """
    if asked:
        is_path = os.path.basename(asked) != asked
        paths = [os.path.expanduser(asked)] if is_path else named(re.escape(asked))
        found = list(filter(None, map(probe, paths)))
        if not found:
            raise SetUpError(f"the Python asked for, '{asked}', is not found or does not run")
    else:
        default = next(filter(None, map(probe, named("python3"))), None)
        if default and default.version >= OLDEST and default.has_venv:
            return default
        others = filter(None, map(probe, named(r"python(3(\.\d+)?)?")))
        found = sorted(others, key=lambda python: python.version, reverse=True)
    recent = [python for python in found if python.version >= OLDEST]
    usable = [python for python in recent if python.has_venv]
    if usable:
        return usable[0]
    if recent:
        raise SetUpError(
            f"{recent[0]} cannot make environments: install its module venv (on Debian and Ubuntu "
            f"the package python{dotted(recent[0].version)}-venv), or name another Python"
        )
    raise SetUpError(
        f"K-Net needs Python {dotted(OLDEST)} or newer, found is {found[0] if found else 'none'}: "
        "install one, or name it, as in make test PYTHON=/path/to/python3"
    )


# ---- pip

REASONS = (  # what pip says, what the user is told
    ("No space left on device", "the disk is full (pip also keeps files in TMPDIR and its cache)"),
    ("externally-managed", "this Python is the system's: make an environment (python3 -m venv)"),
    ("No module named pip", "this environment has no pip: python -m ensurepip"),
    (
        "NewConnectionError|NameResolution|Temporary failure in name|Connection refused"
        "|ConnectTimeout|ReadTimeout|ProxyError|SSLError",
        "the package index is not reached: check the network, or pip's settings (pip config list)",
    ),
)


def pip(python: str, *arguments: str, total: float = 0.0) -> None:
    """Run pip, and name each file of 1 MB and more as it comes.

    Args:
        python: runs pip.
        arguments: of pip.
        total: GB that it will download, about; 0 if it is little.

    Raises:
        SetUpError: pip failed.
    """
    process = subprocess.Popen(
        [python, "-m", "pip", *arguments, "--disable-pip-version-check", "--no-input"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines, done = [], 0.0
    for line in process.stdout:
        lines.append(line.strip())
        file = re.match(r"(?:Downloading|Using cached) (\S+?)-(\d[^-]*)\S* \((\S+) MB\)", lines[-1])
        if file:
            done += float(file[3]) / 1000
            say(
                f"    {file[1]} {file[2]}: {file[3]} MB"
                + f", {done:.1f} of {total} GB" * bool(total)
            )
        elif "Retrying (" in line:
            say("    no answer from the package index, trying again")
        elif total and lines[-1].startswith("Installing collected packages"):
            say("    unpacking, which takes minutes as well")
    if process.wait():
        raise SetUpError(why_pip_failed(lines))


def why_pip_failed(lines: List[str]) -> str:
    """A sentence from pip's last lines."""
    for pattern, reason in REASONS:
        if re.search(pattern, "\n".join(lines[-60:])):
            return reason
    errors = [line for line in lines if re.match("error:", line, re.IGNORECASE)]
    return f"pip stopped: {(errors or lines or ['it said nothing'])[-1]}"


def pinned(names: Sequence[str], requirements: str = REFERENCE) -> List[str]:
    """name==version of each, as the requirements file has it."""
    lines = [line.partition(" ")[0] for line in (REPO / requirements).read_text().splitlines()]
    return [line for line in lines if line.partition("==")[0] in names]


def python_files_only(wheel: Path, folder: Path) -> Path:
    """Write a wheel for any Python 3: the same without binaries, and without requirements."""
    result = folder / ("-".join(wheel.name.split("-")[:2]) + "-py3-none-any.whl")
    with ZipFile(wheel) as source, ZipFile(result, "w", ZIP_DEFLATED) as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".dist-info/WHEEL"):
                content = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            elif name.endswith(".dist-info/METADATA"):
                content = re.sub(rb"(?m)^Requires-Dist:.*\n", b"", content)
            elif name.endswith(".dist-info/RECORD"):
                content = b""  # pip writes its own
            if not name.endswith(BINARIES):
                target.writestr(name, content)
    return result


def install_python_files(python: str, names: Sequence[str]) -> None:
    """Install the Python files of packages whose wheels are for Python 3.10."""
    say(f"  {', '.join(names)}: the Python files, nothing is compiled")
    with tempfile.TemporaryDirectory() as temporary:
        downloads, wheels = Path(temporary, "downloads"), Path(temporary, "wheels")
        wheels.mkdir()
        options = ("--no-deps", "--only-binary=:all:", "--python-version", "3.10")
        pip(python, "download", *options, "--dest", str(downloads), *pinned(names))
        files = [str(python_files_only(wheel, wheels)) for wheel in downloads.glob("*.whl")]
        pip(python, "install", "--no-deps", "--force-reinstall", *files)


def install_knet(python: str) -> None:
    """Install this checkout and import it; a SetUpError says why it cannot be imported."""
    say(f"  K-Net from {REPO}")
    pip(python, "install", "--no-deps", "--editable", str(REPO))
    program = (
        "import platform, torch, detectron2, knet; print('Ready: Python', "
        "platform.python_version(), 'with torch', torch.__version__)"
    )
    told = subprocess.run([python, "-c", program], capture_output=True, text=True, cwd=REPO)
    if told.returncode:
        reason = (told.stderr.strip().splitlines() or ["silence"])[-1]
        raise SetUpError(f"all is installed, but `import knet` ends in {reason}")
    say(told.stdout.strip())


# ---- an environment of its own


def fingerprint(version: Tuple[int, int]) -> str:
    """Of all that says what belongs into an environment of this checkout."""
    files = (REFERENCE, CURRENT, DEV, "setup.py", "pyproject.toml")
    parts = [dotted(version).encode(), bytes(REPO), *((REPO / file).read_bytes() for file in files)]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


def make_environment(folder: Path, python: Python, disk: float) -> None:
    """Make an empty environment; what an older one holds is removed.

    Raises:
        SetUpError: the folder holds something else, or it cannot be made, or the disk has less
            space than ``disk`` GB.
    """
    if folder.exists() and not (folder / "pyvenv.cfg").is_file() and any(folder.iterdir()):
        raise SetUpError(f"{folder} is no environment: remove it, or name another --venv")
    made = subprocess.run(
        [python.path, "-m", "venv", "--clear", str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        reason = ((made.stdout + made.stderr).strip().splitlines() or ["silence"])[-1]
        raise SetUpError(f"{python} cannot make {folder}: {reason}")
    free = shutil.disk_usage(folder).free / 1e9
    if free < disk:
        raise SetUpError(
            f"{folder} needs {disk:.1f} GB and its disk has {free:.1f} GB left: make space, or "
            "take a torch without GPU support (docs/install.md)"
        )


def python_in(folder: Path) -> str:
    """The Python of an environment, there or to be made."""
    return str(folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))


def set_up_environment(folder: Path, asked: Optional[str], torch_index: str) -> None:
    """Make the environment, or renew it where it is older than the requirements.

    Args:
        folder: of the environment.
        asked: the Python it should have; any usable one that it has already if None.
        torch_index: address of a package index to take torch and torchvision from; "" for pip's.
    """
    inside, stamp = python_in(folder), folder / ".ready"
    present = probe(inside)
    python = choose_python(asked) if asked or not present or present.version < OLDEST else present
    ready, _, ready_index = stamp.read_text().partition("\n") if stamp.is_file() else ("", "", "")
    is_kept = present and present.version == python.version and torch_index in ("", ready_index)
    if is_kept and ready == fingerprint(python.version):
        return
    torch_index = torch_index or (ready_index if is_kept else "")
    size = SIZE_WITHOUT_GPU if torch_index else SIZES[python.requirements]
    if is_kept:
        say(f"Bringing {folder} up to date ({present})")
    else:
        say(f"Making {folder} with {python}")
        make_environment(folder, python, size[1])
    stamp.unlink(missing_ok=True)
    say("  {}: about {} GB to download, {} GB on the disk".format(python.requirements, *size))
    if torch_index:
        torch = pinned(("torch", "torchvision"), python.requirements)
        pip(inside, "install", "--no-deps", "--index-url", torch_index, *torch, total=size[0])
    files = [word for file in (python.requirements, DEV) for word in ("-r", str(REPO / file))]
    pip(inside, "install", *files, total=size[0])
    if python.requirements == CURRENT:
        install_python_files(inside, PYTHON_FILES)
    install_knet(inside)
    stamp.write_text(f"{fingerprint(python.version)}\n{torch_index}")


# ---- the present environment


def is_here(name: str) -> bool:
    return importlib.util.find_spec(MODULES.get(name, name)) is not None


def missing_packages(requirements: str) -> Tuple[List[str], List[str]]:
    """What to install here, and pip's constraints that keep what is here as it is."""
    missing = [name for name in NEEDED if not is_here(name)]
    constraints = []
    for name in set(NEEDED).difference(missing):
        try:
            constraints.append(f"{name}=={metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue  # the module comes from a package of another name
    if "torch" in missing:
        pins = {pin.partition("==")[0]: pin for pin in pinned(missing, requirements)}
        missing = [pins[name] if name in ("torch", "torchvision") else name for name in missing]
    return missing, constraints


def set_up_here() -> None:
    """Add to the environment of this Python what it lacks; a SetUpError says why it cannot."""
    here = Python(sys.executable, sys.version_info[:2], True)
    if here.version < OLDEST:
        raise SetUpError(f"K-Net needs Python {dotted(OLDEST)} or newer, not {here}")
    missing, constraints = missing_packages(here.requirements)
    say(f"Adding to {here} what is missing")
    if missing:
        say(f"  {', '.join(missing)}")
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder, "constraints.txt")
            kept.write_text("\n".join(constraints))
            total = 0.0 if is_here("torch") else SIZES[here.requirements][0]
            pip(here.path, "install", "--constraint", str(kept), *missing, total=total)
    names = [name for name in PYTHON_FILES if not is_here(name)]
    if names:
        install_python_files(here.path, names)
    install_knet(here.path)


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", default=".venv", help="folder of the environment")
    parser.add_argument("--python", help="its Python: a path, or a name on PATH or in pyenv")
    parser.add_argument("--torch-index", default="", help="URL of a package index for torch alone")
    parser.add_argument("--here", action="store_true", help="add what this Python's one lacks")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        if args.here:
            set_up_here()
        else:
            set_up_environment(Path(args.venv), args.python, args.torch_index)
    except SetUpError as error:
        print(f"set_up.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set_up.py: stopped; started again it goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
