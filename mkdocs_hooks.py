"""What mkdocs.yml cannot say: pages outside of docs/, links by title, equations as MathML."""

import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

REPO = Path(__file__).resolve().parent
# page of the site -> the file of the checkout that it is
ELSEWHERE = {
    "model_zoo.md": "MODEL_ZOO.md",
    "parts.md": "projects/KNet/README.md",
    "serve.md": "projects/KNet/examples/serve/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
LINK = re.compile(r"(?<=\]\()([^)#\s]+)")
# a link whose text is the name of the file: [train.md](train.md#one-gpu)
NAMED_LINK = re.compile(r"\[[\w/]+\.md\]\(([\w/.]+\.md)(#[\w-]+)?\)")


def on_config(config):
    """Fenced blocks named ``math`` are LaTeX, as GitHub has it."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "math", "class": "equation", "format": math_fence}]
    return config


def math_fence(source, *_args, **_kwargs) -> str:
    return f'<div class="equation">{convert(source, display="block")}</div>'


def on_files(files, config):
    for page, path in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(REPO / path)))
    return files


def on_page_markdown(markdown, page, **_kwargs):
    """Links between files of the checkout become links between pages of the site."""
    path = ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    markdown = LINK.sub(lambda link: page_of(link.group(), path), markdown)
    return NAMED_LINK.sub(by_title, markdown)


def by_title(link) -> str:
    """The same link with the heading of the page that it leads to."""
    page, anchor = link.groups()
    file = REPO / ELSEWHERE.get(page, f"docs/{page}")
    title = file.read_text(encoding="utf-8").partition("\n")[0] if file.is_file() else ""
    return f"[{title.lstrip('# ') or page}]({page}{anchor or ''})"


def page_of(link: str, path: str) -> str:
    """
    Args:
        link: as it stands in a file.
        path: of that file, in the checkout.

    Returns:
        the same link in the site, where all pages are in one folder; another's as it is.
    """
    if ":" in link:
        return link
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    pages = {file: page for page, file in ELSEWHERE.items()}
    pages["README.md"] = "index.md"
    return pages.get(target, target.removeprefix("docs/"))
