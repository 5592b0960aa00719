"""Renders pages. Each is a single file that loads nothing from the network.

A page's security policy allows only our own style and script, by their hashes, and embedded images. So a browser runs no script that a
text of the data might contain.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from reelnest.atomic_files import write_lines

STYLE = Path(__file__).with_name("page.css")
"""The style of every page."""
CHARTS = Path(__file__).with_name("charts")
"""Templates that any page may import."""


def write_page(path: Path, template: Path, filters: Mapping[str, Any], **content: Any) -> None:
    """Renders a template and writes the page atomically. `content` is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, CHARTS]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters |= {**filters, "sha256": _source_hash}
    write_lines(path, [environment.get_template(template.name).render(**content)])


def source(*files: Path) -> Markup:
    """Returns the text of our own style or script files, which needs no escaping."""
    return Markup("".join(file.read_text(encoding="utf-8") for file in files))  # noqa: S704 (our own files)


def _source_hash(text: str) -> str:
    """Returns the hash by which a security policy allows an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
