"""Text of users where the locale knows ASCII alone: files, logs, the terminal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import knet

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NAME = "\u0447\u0430\u0448\u043a\u0430 \U0001f600"


def run(code):
    """Python code in a process of the C locale; returns what it writes."""
    path = os.pathsep.join([str(Path(knet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, **ASCII, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode("ascii"), done.stderr.decode("ascii")


def test_jsons_and_texts_that_the_locale_cannot_read_are_copied(tmp_path):
    content = {"name": NAME}
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    plain = tmp_path / "plain.json"
    plain.write_text("[1]", encoding="utf-8")
    code = f"""
import json, os
from knet.encoding import json_for_locale, text_for_locale
assert json_for_locale({str(plain)!r}) == {str(plain)!r}
copies = json_for_locale({str(path)!r}), text_for_locale({str(path)!r})
with open(copies[0]) as file:
    assert json.load(file) == {content!a}
with open(copies[1]) as file:
    assert "\\\\u0447" in file.read()
print(*copies)
"""
    copies = run(code)[0].split()
    assert len(copies) == 2 and not any(map(os.path.exists, copies)), "removed at the end"
    assert json.loads(path.read_text(encoding="utf-8")) == content


def test_logs_are_utf8_and_the_terminal_shows_escapes(tmp_path):
    code = f"""
import logging, sys
from detectron2.utils.logger import setup_logger
from knet.encoding import write_any_text
logger = setup_logger({str(tmp_path)!r}, name="knet", color=False)
write_any_text()
logger.info({NAME!a})
print({NAME!a}, file=sys.stderr)
"""
    out, err = run(code)
    assert "\\u0447\\u0430" in out and "Logging error" not in err and "\\u0447\\u0430" in err
    assert NAME in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_sentences_can_name_any_file():
    program = Path(__file__).resolve().parents[1] / "projects" / "KNet" / "tools" / "draw_losses.py"
    code = f"""
import runpy, sys
sys.argv = ["draw_losses.py", {NAME!a}]
try:
    runpy.run_path({str(program)!r}, run_name="__main__")
except SystemExit as end:
    assert end.code == 1
"""
    _, err = run(code)
    lines = [line for line in err.splitlines() if line.startswith("draw_losses.py: ")]
    assert len(lines) == 1 and "\\u0447" in lines[0] and "Traceback" not in err


def test_it_is_told_once_that_names_of_files_may_be_misread():
    code = "from knet.encoding import write_any_text; write_any_text(); write_any_text()"
    assert run(code)[1].count("set PYTHONUTF8=1") == 1
