"""How pages are made: one file each that needs nothing else and asks the network for nothing.

A page's security policy allows our own style and script, by their hashes, and pictures that stand in the page: should a text of the data
ever pass for a script, no browser runs it.
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
"""Of every page."""
CHARTS = Path(__file__).with_name("charts")
"""Templates that any page may import."""


def write_page(path: Path, template: Path, filters: Mapping[str, Any], **shown: Any) -> None:
    """Writes the page of a template, whole or not at all. All that is shown is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, CHARTS]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters |= {**filters, "sha256": _source_hash}
    write_lines(path, [environment.get_template(template.name).render(**shown)])


def source(*files: Path) -> Markup:
    """Styles or scripts as they are: ours, and no data's."""
    return Markup("".join(file.read_text(encoding="utf-8") for file in files))  # noqa: S704


def _source_hash(text: str) -> str:
    """As a security policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
