"""The site builds without a warning, asks no other server, and says what the code says."""

import re
import subprocess
import sys

import pytest
import yaml

from tests.conftest import REPO
from tests.docs.shell import tool

CITATION = yaml.safe_load((REPO / "CITATION.cff").read_text())


def build(*words):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", *words],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("mkdocs", "material", "latex2mathml"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("site")
    program = build("--site-dir", str(folder))
    assert program.returncode == 0, program.stderr[-3000:]
    return folder


def test_every_page_is_built(site):
    pages = {path.stem for path in (REPO / "docs").glob("*.md")}
    pages |= {"model_zoo", "parts", "serve", "contributing", "changelog"}
    assert pages <= {path.stem for path in site.glob("*.html")}


def test_no_other_server_is_asked(site):
    """Links lead there; scripts, styles, fonts and pictures do not come from there."""
    for page in site.glob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"?(https?:[^\" >]+)", text)
        assert not loaded, (page.name, loaded)
        assert not re.search(r"<link[^>]+fonts", text)


def test_equations_need_no_script(site):
    text = (site / "method.html").read_text()
    assert text.count("<math") > 8 and "architecture.svg" in text


def test_links_between_files_are_links_between_pages(site):
    assert 'href="model_zoo.html"' in (site / "index.html").read_text()
    assert 'href="small_data.html"' in (site / "parts.html").read_text()


def test_the_keys_are_those_of_the_config():
    program = tool("projects/KNet/tools/document_config.py")
    assert program.main(["--check"]) == 0
    page = (REPO / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| [\w ]+ \| `.*?` \| .+ \|$", page, re.M)
    assert sorted(rows) == sorted(program.own_defaults()) and len(rows) > 80


def test_a_key_that_the_page_lacks_is_found(tmp_path, monkeypatch, capsys):
    program = tool("projects/KNet/tools/document_config.py")
    page = tmp_path / "configuration.md"
    page.write_text(program.PAGE.read_text().replace("`MODEL.KNET.NUM_KERNELS`", "`gone`", 1))
    monkeypatch.setattr(program, "PAGE", page)
    assert program.main(["--check"]) == 1 and "write it anew" in capsys.readouterr().err
    assert program.main([]) == 0 and program.main(["--check"]) == 0


def test_a_key_without_a_comment_is_found(monkeypatch, capsys):
    program = tool("projects/KNet/tools/document_config.py")
    own = {**program.own_defaults(), "MODEL.KNET.SILENT": 1}
    monkeypatch.setattr(program, "own_defaults", lambda: own)
    assert program.main(["--check"]) == 1 and "MODEL.KNET.SILENT" in capsys.readouterr().err


def test_a_key_of_default_none_has_a_type(monkeypatch, capsys):
    program = tool("projects/KNet/tools/document_config.py")
    assert "| `SOLVER.FUSED` | bool or None | `None` |" in program.page()
    own = {**program.own_defaults(), "MODEL.KNET.NUM_KERNELS": None}
    monkeypatch.setattr(program, "own_defaults", lambda: own)
    assert program.main(["--check"]) == 1 and "MODEL.KNET.NUM_KERNELS" in capsys.readouterr().err


def test_citation_and_changes_have_the_version():
    version = re.search(r'version="([\d.]+)"', (REPO / "setup.py").read_text()).group(1)
    assert CITATION["version"] == version and CITATION["cff-version"] == "1.2.0"
    assert f"\n## {version} (" in (REPO / "CHANGELOG.md").read_text()
    assert CITATION["preferred-citation"]["title"] in (REPO / "README.md").read_text()
    assert {"message", "title", "authors"} <= set(CITATION)
