"""A page of thumbnails that any browser opens, without scripts or a server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from .files import atomic_path

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fafafa }}
h1 {{ font-size: 1.2rem }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 1rem }}
figure {{ margin: 0; padding: 8px; background: #fff; border: 1px solid #ddd; border-radius: 6px }}
.query {{ border: 2px solid #06c }}
img {{ width: 100%; height: 150px; object-fit: contain; display: block }}
figcaption {{ margin-top: 6px; overflow-wrap: anywhere }}
b {{ display: block }}
</style>
</head>
<body>
<h1>{title}</h1>
<main>
{figures}
</main>
</body>
</html>
"""
_FIGURE = """<figure{kind}><a href="{link}"><img src="{link}" alt="" loading="lazy"></a>
<figcaption><b>{label}</b>{name}</figcaption></figure>"""


def write_contact_sheet(
    path: Path, query: Path, images: Sequence[tuple[Path, str, str]], title: str
) -> None:
    """Write the page: the query first, then the images in their order.

    The page links to the images where they are, by paths relative to itself.

    Args:
        path: the page.
        query: the image that was searched for.
        images: ``(file, label, name)`` of each image.
        title: one line.

    Raises:
        OSError: the page cannot be written.
    """
    base = path.resolve().parent
    figures = [_figure(base, query, "query", query.name, ' class="query"')]
    figures += [_figure(base, file, label, name, "") for file, label, name in images]
    page = _PAGE.format(title=escape(title), figures="\n".join(figures))
    with atomic_path(path) as temporary:
        temporary.write_text(page, "utf-8")


def _figure(base: Path, file: Path, label: str, name: str, kind: str) -> str:
    return _FIGURE.format(
        kind=kind, link=escape(_link(base, file)), label=escape(label), name=escape(name)
    )


def _link(base: Path, file: Path) -> str:
    file = file.resolve()
    try:
        relative = Path(os.path.relpath(file, base)).as_posix()
    except ValueError:  # another drive
        return file.as_uri()
    return quote("./" + relative)
