"""The config: every key explained, every file loadable."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from knet import add_knet_config, config
from knet.engine.main import load_config
from knet.errors import UsageError
from tests.conftest import REPO

CONFIGS = sorted((REPO / "configs").rglob("*.yaml"))
PANOPTIC = str(REPO / "configs" / "knet_panoptic.yaml")


def leaves(node: CfgNode, prefix: str = "") -> dict:
    """{dotted key: value}"""
    found = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        found.update(leaves(value, f"{name}.") if isinstance(value, CfgNode) else {name: value})
    return found


# ---------------------------------------------------------------------------------- every key


def assigned_keys() -> dict:
    """{dotted key as written in config.py: line number, from 0} of everything that it sets."""
    found = {}
    for node in ast.walk(ast.parse(inspect.getsource(config))):
        if isinstance(node, ast.Assign):
            key = ast.unparse(node.targets[-1])
            for alias in ("knet", "swin", "timm"):
                key = re.sub(rf"^{alias}\.", f"MODEL.{alias.upper()}.", key)
            found[re.sub(r"^cfg\.", "", key)] = node.lineno - 1
    return found


def test_every_key_has_its_meaning_above_it():
    lines = inspect.getsource(config).splitlines()
    added = get_cfg()
    add_knet_config(added)
    before = get_cfg()
    add_deeplab_config(before)  # Detectron2's own keys come along
    keys = leaves(added).keys() - leaves(before).keys()
    assert len(keys) > 30
    written = assigned_keys()
    assert keys <= written.keys()

    unexplained = []
    for key in sorted(keys):
        line = written[key] - 1
        while lines[line].strip() and not lines[line].strip().startswith("#"):
            line -= 1  # up to the comment of the paragraph, or to the empty line above it
        if not lines[line].strip():
            unexplained.append(key)
    assert not unexplained, "no line of meaning above these keys of config.py"


def test_the_defaults_are_the_published_values():
    added = get_cfg()
    add_knet_config(added)
    defaults, recipe = leaves(added), leaves(load_config(PANOPTIC))
    keys = defaults.keys() - leaves(get_cfg()).keys()
    assert {key: recipe[key] for key in keys} == {key: defaults[key] for key in keys}


def test_adding_the_keys_changes_no_default_of_detectron2():
    before, added = get_cfg(), get_cfg()
    add_knet_config(added)
    after = leaves(added)
    assert {key: after[key] for key in leaves(before)} == leaves(before)


# ---------------------------------------------------------------------------------- every file


@pytest.mark.parametrize("path", CONFIGS, ids=[str(p.relative_to(REPO)) for p in CONFIGS])
def test_every_file_loads_and_is_plain_yaml(path):
    yaml.safe_load(path.read_text())  # refuses !!python, which runs code
    cfg = load_config(str(path))
    assert cfg.MODEL.META_ARCHITECTURE in ("KNet", "SemanticKNet") or path.stem.endswith(
        ("_mask_rcnn", "_panoptic_fpn")
    )
    assert (cfg.DATASETS.TRAIN and cfg.DATASETS.TEST) or "Base" in path.name
    assert all(step < cfg.SOLVER.MAX_ITER for step in cfg.SOLVER.STEPS) or "Base" in path.name


def test_no_two_files_write_into_one_folder():
    # but for the entries a user starts from, which are other files by a shorter name
    files = [p for p in CONFIGS if not p.name.startswith("Base") and p.parent.name != "configs"]
    folders = [load_config(str(p)).OUTPUT_DIR for p in files]
    assert len(folders) > 2
    assert len(set(folders)) == len(folders)


# -------------------------------------------------------------------------------- load_config


def test_the_command_line_comes_after_the_file_and_the_file_after_the_defaults(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"_BASE_: {PANOPTIC}\nMODEL:\n  KNET:\n    NUM_KERNELS: 7\n    NUM_STAGES: 2\n")
    cfg = load_config(str(path), ["MODEL.KNET.NUM_STAGES", "5"])
    assert (cfg.MODEL.KNET.NUM_KERNELS, cfg.MODEL.KNET.NUM_STAGES) == (7, 5)
    assert cfg.MODEL.KNET.CHANNELS == 256 and cfg.SOLVER.MAX_ITER == 87960
    assert load_config("").MODEL.KNET.NUM_KERNELS == 100


@pytest.mark.parametrize(
    "options, mention",
    [
        (["MODEL.KNET.NUM_KERNEL", "5"], "MODEL.KNET.NUM_KERNEL"),
        (["MODEL.KNETS.NUM_KERNELS", "5"], "MODEL.KNETS.NUM_KERNELS"),
        (["MODEL.KNET.NUM_KERNELS"], "MODEL.KNET.NUM_KERNELS"),
        (["MODEL.KNET.NUM_KERNELS", "many"], "MODEL.KNET.NUM_KERNELS"),
        (["MODEL.KNET", "5"], "MODEL.KNET"),
        (["MODEL.KNET.NUM_KERNEL", "5"], "did you mean MODEL.KNET.NUM_KERNELS?"),
        (["model.knet.num_kernels", "5"], "did you mean MODEL.KNET.NUM_KERNELS?"),
        (["MODEL.KNET.NUM_KERNELS.ALL", "5"], "did you mean MODEL.KNET.NUM_KERNELS?"),
        (["MODEL.KNET.NUM_KERNELS"], "write KEY VALUE, a value to each key"),
        (["MODEL.KNET.NUM_KERNELS=5"], "MODEL.KNET.NUM_KERNELS=5 has a '=': write KEY VALUE"),
        (["OUTPUT_DIR", "x", "--eval-only"], "--eval-only stands among the options"),
        (["--resume", "OUTPUT_DIR", "x"], "flags go before the keys"),
    ],
    ids=[
        "unknown key",
        "unknown node",
        "no value",
        "another type",
        "a node",
        "nearest key",
        "nearest key in lower case",
        "below a key",
        "odd number",
        "equals sign",
        "flag behind",
        "flag before",
    ],
)
def test_options_that_do_not_fit(options, mention):
    with pytest.raises(UsageError, match=re.escape(mention)) as error:
        load_config(PANOPTIC, options)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "key, value, wanted",
    [
        ("MODEL.KNET.NUM_KERNELS", "many", "a whole number"),
        ("SOLVER.BASE_LR", "0,01", "a number"),
        ("SOLVER.BASE_LR", "1", "a number with a point"),
        ("MODEL.KNET", "3", "keys of its own"),
        ("SOLVER.STEPS", "(3,", "a list, such as"),
        ("SOLVER.AMP.ENABLED", "sometimes", "True or False"),
        ("DATASETS.TRAIN", "my_train", "a list: \"('my_train',)\""),
        ("SOLVER.STEPS", "3", 'a list: "(3,)"'),
        ("MODEL.WEIGHTS", "3", "a text"),
    ],
)
def test_what_a_key_takes_is_said_in_words(key, value, wanted, tmp_path):
    """On the command line and in a file, without a class of Python's."""
    with pytest.raises(UsageError, match=re.escape(wanted)) as error:
        load_config(PANOPTIC, [key, value])
    assert "<class" not in str(error.value)
    path = tmp_path / "mine.yaml"
    content = yaml.safe_load(value)
    for name in reversed(key.split(".")):
        content = {name: content}
    path.write_text(yaml.safe_dump({"_BASE_": PANOPTIC, **content}))
    with pytest.raises(UsageError, match=re.escape(f"{key} is ")) as error:
        load_config(str(path))
    assert wanted in str(error.value) and "<class" not in str(error.value)


@pytest.mark.parametrize(
    "key, wanted",
    [
        ("MODEL.WEIGHTS", "a text"),
        ("MODEL.PIXEL_MEAN", "a list, such as"),
        ("DATASETS.CUSTOM", "a list of parts with keys: write '- ' before the first key of each"),
    ],
)
def test_a_section_where_a_value_is_wanted(key, wanted, tmp_path):
    path = tmp_path / "mine.yaml"
    section, name = key.split(".")
    path.write_text(f"{section}:\n  {name}:\n    NAME: 1\n")
    with pytest.raises(UsageError, match=f"{key} has keys, but takes {wanted}"):
        load_config(str(path))


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"\xff\xd8\xff\xe0", b"text"], ids=str)
def test_a_file_that_is_no_config(content, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"mine\.yaml cannot be used: it is no yaml file of keys"):
        load_config(str(path))
    with pytest.raises(UsageError, match="is a folder: name a file in it"):
        load_config(str(tmp_path))


def test_what_a_file_spells_wrong(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"_BASE_: {PANOPTIC}\nMODEL:\n  KNET:\n    NUM_KERNEL: 7\n")
    with pytest.raises(UsageError, match=r"did you mean MODEL\.KNET\.NUM_KERNELS\?"):
        load_config(str(path))
    path.write_text("_BASE_: mine.yaml")
    with pytest.raises(UsageError, match="its _BASE_ leads back to it"):
        load_config(str(path))
    path.write_text("_BASE_: knet_panoptik_fast.yaml")
    with pytest.raises(UsageError, match=r"its _BASE_ .* did you mean knet_panoptic_fast or"):
        load_config(str(path))


@pytest.mark.parametrize("base", ["", '""', "3", "['']"])
def test_a_base_that_names_no_file(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(f"_BASE_: {base}")
    with pytest.raises(UsageError, match="its _BASE_ names no file"):
        load_config("mine.yaml")
    Path("mine.yaml").write_text(f"_BASE_: {tmp_path}")
    with pytest.raises(UsageError, match=r"its _BASE_ is the folder .*: name a file in it"):
        load_config("mine.yaml")


def test_an_address_is_not_downloaded(tmp_path):
    address, config = "https://host/knet_panoptic.yaml", tmp_path / "mine.yaml"
    config.write_text(f"_BASE_: {address}")
    for name, said in ((config, f"its _BASE_ {address}"), (address, address)):
        with pytest.raises(UsageError, match=f"{said} is an address: download the file, and name"):
            load_config(str(name))


def test_of_several_options_only_the_wrong_one_is_named():
    options = ["SOLVER.MAX_ITER", "7", "SOLVER.BASE_LR", "fast", "OUTPUT_DIR", "elsewhere"]
    with pytest.raises(UsageError, match=r"the option SOLVER\.BASE_LR fast does not fit") as error:
        load_config(PANOPTIC, options)
    assert not any(word in str(error.value) for word in ("MAX_ITER", "OUTPUT_DIR", "elsewhere"))


def test_a_value_may_have_an_equals_sign_or_a_minus():
    cfg = load_config(PANOPTIC, ["OUTPUT_DIR", "lr=1", "SOLVER.WARMUP_ITERS", "-1"])
    assert (cfg.OUTPUT_DIR, cfg.SOLVER.WARMUP_ITERS) == ("lr=1", -1)


def test_a_config_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.yaml"):
        load_config(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    "text, mention",
    [
        ("MODEL:\n  KNET:\n    NUM_KERNEL: 5\n", "NUM_KERNEL"),
        ("MODEL:\n  KNET:\n    NUM_KERNELS: many\n", "NUM_KERNELS"),
        ("MODEL: [\n", "mine.yaml"),
        ("_BASE_: not_there.yaml\n", "not_there.yaml"),
        ("just words\n", "mine.yaml"),
        ("", "mine.yaml"),
        ("MODEL: 3\n", "mine.yaml"),
    ],
    ids=[
        "unknown key",
        "another type",
        "no yaml",
        "base not there",
        "no keys",
        "empty",
        "no node",
    ],
)
def test_a_config_file_with_a_mistake_is_named(tmp_path, text, mention):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        load_config(str(path))
    assert str(path) in str(error.value) and mention in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_config_file_runs_no_code(tmp_path):
    path, trace = tmp_path / "mine.yaml", tmp_path / "trace"
    path.write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{trace}']\n")
    with pytest.raises(UsageError, match=r"mine\.yaml"):
        load_config(str(path))
    assert not trace.exists()
