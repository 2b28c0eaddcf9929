"""tools/set_up.py: which Python, what is installed, and what is told where it cannot."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.conftest import REPO

PROGRAM = REPO / "projects" / "KNet" / "tools" / "set_up.py"
OLD, REFERENCE, NEW, NEWEST = (3, 9), (3, 10), (3, 12), (3, 13)


@pytest.fixture
def set_up():
    spec = importlib.util.spec_from_file_location("set_up", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


@pytest.fixture
def pythons(set_up, monkeypatch, tmp_path):
    """Puts interpreters on PATH (``path/``) and into pyenv: call it with name=version, or with
    name=None for a shim that does not run. ``without_venv`` names those that lack the module."""
    known = {}
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(set_up, "probe", known.get)

    def put(path=(), pyenv=(), without_venv=()):
        places = {f"path/{name}": version for name, version in dict(path).items()}
        for version in pyenv:
            bin_folder = "pyenv/versions/{}.{}.1/bin".format(*version)
            places.update({f"{bin_folder}/python3": version})
            places.update({"{}/python{}.{}".format(bin_folder, *version): version})
        for place, version in places.items():
            file = tmp_path / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            if version:
                has_venv = file.name not in without_venv
                known[str(file)] = set_up.Python(str(file), version, has_venv)

    return put


def test_python3_of_path_is_taken_before_newer_ones(set_up, pythons):
    pythons(path={"python3": NEW, "python3.13": NEWEST}, pyenv=[NEWEST])
    assert set_up.choose_python(None).version == NEW


@pytest.mark.parametrize("python3", [OLD, None])
def test_the_newest_is_taken_where_python3_is_old_or_does_not_run(set_up, pythons, python3):
    pythons(path={"python3": python3, "python3.13": None}, pyenv=[OLD, REFERENCE, NEW])
    assert set_up.choose_python(None).version == NEW


def test_programs_of_windows_have_an_ending(set_up, pythons, monkeypatch):
    pythons(path={"python.exe": NEW, "python3.exe": None, "python.exe.txt": NEWEST})
    with pytest.raises(set_up.SetUpError):  # Linux on Windows has these on its PATH too
        set_up.choose_python(None)
    monkeypatch.setattr(sys, "platform", "win32")
    assert set_up.choose_python(None).version == NEW
    assert set_up.choose_python("python").version == NEW


def test_the_python_asked_for_is_found_in_pyenv(set_up, pythons, tmp_path):
    pythons(path={"python3": NEW, "python3.10": None}, pyenv=[REFERENCE, NEWEST])
    python = set_up.choose_python("python3.10")
    assert python.path == str(tmp_path / "pyenv/versions/3.10.1/bin/python3.10")
    assert set_up.choose_python(python.path) == python


@pytest.mark.parametrize(
    "asked, sentence",
    [
        ("python3.10", "'python3.10', is not found or does not run"),
        ("/nowhere/python3", "'/nowhere/python3', is not found or does not run"),
        ("python3.9", "K-Net needs Python 3.10 or newer, found is Python 3.9"),
        (
            "python3.12",
            "install its module venv (on Debian and Ubuntu the package python3.12-venv)",
        ),
        (None, "K-Net needs Python 3.10 or newer, found is Python 3.9"),
    ],
)
def test_a_python_that_cannot_serve_is_refused(set_up, pythons, asked, sentence):
    path = {"python3.9": OLD, "python3.10": None}
    if asked == "python3.12":
        path["python3.12"] = NEW
    pythons(path=path, without_venv=["python3.12"])
    with pytest.raises(set_up.SetUpError) as error:
        set_up.choose_python(asked)
    assert sentence in str(error.value)


def test_a_shim_that_does_not_run_is_no_python(set_up, tmp_path):
    shim = tmp_path / "python3.10"
    shim.write_text("#!/bin/sh\necho 'python3.10: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    assert set_up.probe(str(shim)) is None
    assert set_up.probe(sys.executable).version == sys.version_info[:2]


@pytest.fixture
def environment(set_up, monkeypatch, tmp_path):
    """Sets up ``tmp_path/venv`` as ``set_up_environment`` does, without making or installing
    anything; returns the list of what would have been done."""
    folder, done = tmp_path / "venv", []
    present = {}

    def make(folder, python, disk):
        done.append("make")
        folder.mkdir(exist_ok=True)
        place = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
        present[str(folder / place)] = python

    def choose(asked):
        return set_up.Python("python", REFERENCE if asked == "python3.10" else NEW, True)

    monkeypatch.setattr(set_up, "choose_python", choose)
    monkeypatch.setattr(set_up, "probe", present.get)
    monkeypatch.setattr(set_up, "make_environment", make)
    monkeypatch.setattr(set_up, "pip", lambda _, *words, **__: done.append(" ".join(words)))
    monkeypatch.setattr(set_up, "install_python_files", lambda *_: done.append("Python files"))
    monkeypatch.setattr(set_up, "install_knet", lambda _: done.append("knet"))

    def run(asked=None, torch_index=""):
        done.clear()
        set_up.set_up_environment(folder, asked, torch_index)
        return list(done)

    return run


def test_a_ready_environment_is_left_as_it_is(environment):
    made = environment()
    assert made[0] == "make" and "requirements-py311.txt" in made[1]
    assert made[2:] == ["Python files", "knet"]
    assert environment() == []


def test_windows_has_its_python_elsewhere(environment, monkeypatch):
    environment()
    monkeypatch.setattr(sys, "platform", "win32")
    assert environment()[0] == "make"  # there is none where Windows has it
    assert environment() == []


def test_changed_requirements_are_installed_over_the_old_ones(environment, set_up, monkeypatch):
    environment()
    monkeypatch.setattr(set_up, "fingerprint", lambda version: "another")
    assert "make" not in environment()
    assert environment() == []


def test_an_interrupted_installation_is_taken_up_again(environment, set_up, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(set_up, "install_knet", stop)
        with pytest.raises(KeyboardInterrupt):
            environment()
    assert environment()[-1] == "knet" and environment() == []


def test_another_python_makes_a_new_environment_with_its_own_requirements(environment):
    environment()
    made = environment("python3.10")
    assert made[0] == "make" and "requirements.txt" in made[1] and made[2:] == ["knet"]
    assert environment() == []  # the present one is usable, whatever the default Python


def test_torch_from_another_index_comes_first_and_stays(environment, set_up, monkeypatch):
    environment()
    made = environment(torch_index="https://example.org/cpu")
    assert made[0] == "make"
    assert made[1].startswith("install --no-deps --index-url https://example.org/cpu torch==")
    assert environment() == environment(torch_index="https://example.org/cpu") == []
    monkeypatch.setattr(set_up, "fingerprint", lambda version: "another")
    assert "--index-url https://example.org/cpu" in environment()[0]


def test_a_folder_that_is_no_environment_is_not_emptied(set_up, tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    assert set_up.main(["--venv", str(tmp_path), "--python", sys.executable]) == 1
    assert capsys.readouterr().err == (
        f"set_up.py: {tmp_path} is no environment: remove it, or name another --venv\n"
    )
    assert (tmp_path / "thesis.tex").exists()


def test_a_disk_too_small_is_told_before_anything_is_downloaded(set_up, tmp_path, capsys):
    set_up.SIZES = dict.fromkeys(set_up.SIZES, (1.0, 1e6))
    folder = tmp_path / "venv"
    assert set_up.main(["--venv", str(folder), "--python", sys.executable]) == 1
    error = capsys.readouterr().err
    assert f"{folder} needs 1000000.0 GB and its disk has " in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "said, sentence",
    [
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError("
            "failed)'\nERROR: No matching distribution found for torch==2.3.1",
            "the package index is not reached",
        ),
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk is full"),
        ("error: externally-managed-environment\n\nTo install Python packages", "is the system's"),
        ("/usr/bin/python3: No module named pip", "python -m ensurepip"),
        (
            "ERROR: No matching distribution found for x==1\n",
            "No matching distribution found for x",
        ),
    ],
)
def test_why_pip_failed_is_one_sentence(set_up, tmp_path, said, sentence):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(set_up.SetUpError) as error:
        set_up.pip(str(python), "install", "x")
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_downloads_are_told_with_their_sizes(set_up, tmp_path, capsys):
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\ncat <<'END'\n"
        "Collecting torch==2.14.1\n"
        "  Downloading torch-2.14.1-cp312-cp312-manylinux_2_28_x86_64.whl.metadata (31 kB)\n"
        "Downloading torch-2.14.1-cp312-cp312-manylinux_2_28_x86_64.whl (554.6 MB)\n"
        "Using cached nvidia_nccl_cu13-2.30.7-py3-none-manylinux_2_18_x86_64.whl (196.1 MB)\n"
        "END\n"
    )
    python.chmod(0o755)
    set_up.pip(str(python), "install", "torch", total=3.4)
    assert capsys.readouterr().out.splitlines() == [
        "    torch 2.14.1: 554.6 MB, 0.6 of 3.4 GB",
        "    nvidia_nccl_cu13 2.30.7: 196.1 MB, 0.8 of 3.4 GB",
    ]


def test_a_wheel_for_one_python_is_installed_without_its_binary(set_up, tmp_path):
    wheel = tmp_path / "boxes-1.2-cp36-none-any.whl"
    with ZipFile(wheel, "w") as file:
        file.writestr("boxes/__init__.py", "area = 6")
        file.writestr("boxes/_C.cpython-36m-x86_64-linux-gnu.so", "machine code")
        info = "boxes-1.2.dist-info"
        file.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: boxes\nVersion: 1.2\nRequires-Dist: numpy<2\n\nBoxes.\n",
        )
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: cp36-cp36m-linux_x86_64\n")
        file.writestr(f"{info}/RECORD", "boxes/_C.cpython-36m-x86_64-linux-gnu.so,sha256=x,12\n")
    (tmp_path / "wheels").mkdir()
    result = set_up.python_files_only(wheel, tmp_path / "wheels")
    installed = tmp_path / "installed"
    options = ["--no-index", "--quiet", "--disable-pip-version-check", "--target", installed]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, result], check=True)
    program = (
        "import boxes, importlib.metadata as m; d = m.distribution('boxes'); "
        "print(boxes.area, d.version, d.requires, len(d.files))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=installed, capture_output=True, text=True
    )
    assert told.stdout.split()[:3] == ["6", "1.2", "None"], told.stderr
    assert not list(installed.rglob("*.so"))


def test_here_what_is_missing_is_added_and_torch_stays(set_up, monkeypatch, capsys):
    calls = []

    def pip(python, *words, **_):
        constraints = Path(words[words.index("--constraint") + 1]).read_text().splitlines()
        calls.append((python, words[3:], constraints))

    missing = {"cv2", "yacs"}
    find_spec = set_up.importlib.util.find_spec
    monkeypatch.setattr(
        set_up.importlib.util,
        "find_spec",
        lambda name: None if name in missing else find_spec(name),
    )
    monkeypatch.setattr(set_up, "pip", pip)
    monkeypatch.setattr(set_up, "install_knet", lambda python: None)
    assert set_up.main(["--here"]) == 0
    ((python, words, constraints),) = calls
    assert python == sys.executable
    assert words == ("opencv-python-headless", "yacs")
    assert f"torch=={set_up.metadata.version('torch')}" in constraints
    assert not any(line.startswith(("yacs", "opencv")) for line in constraints)


def test_here_a_torch_is_installed_only_where_there_is_none(set_up, monkeypatch):
    absent = ("torch", "torchvision", "yacs")
    monkeypatch.setattr(set_up, "is_here", lambda name: name not in absent)
    missing, constraints = set_up.missing_packages("requirements-py311.txt")
    pins = set_up.pinned(("torch", "torchvision"), "requirements-py311.txt")
    assert missing == [*pins, "yacs"] and len(pins) == 2
    assert not any(line.startswith("torch") for line in constraints)
