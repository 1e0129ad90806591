"""Write the benchmarks' tables into README.md, benchmarks/README.md and cuda_ext/README.md.

``python -m benchmarks.render_tables`` replaces what stands between ``<!-- table:NAME -->`` and
``<!-- /table -->`` by the table in ``benchmarks/results/NAME.json``, an entry
``"table": {"header": [...], "rows": [[...], ...]}`` of text. With ``--check`` it writes nothing and
exits with 1 if a file differs from what it would write.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from bindesc.files import atomic_path

from .common import RESULTS

_ROOT = RESULTS.parent.parent
PAGES = [_ROOT / folder / "README.md" for folder in ("", "benchmarks", "cuda_ext")]

_BLOCK = re.compile(r"(<!-- table:([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads well as plain text; the first column is left-aligned.

    Raises:
        ValueError: a row has not as many cells as the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"rows: {row} has {len(row)} cells, the header has {len(header)}")
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |\n"

    rule = [f"{'-' * (width + 1)}{':' if column else '-'}" for column, width in enumerate(widths)]
    return line(header) + f"|{'|'.join(rule)}|\n" + "".join(map(line, rows))


def render(text: str, results: Path) -> str:
    """Put the current tables into a text.

    Args:
        text: the text with its markers.
        results: the folder with ``NAME.json`` for each marker ``table:NAME``.

    Raises:
        FileNotFoundError: a table's file is missing.
        ValueError: a marker lacks its partner, or a file has no table.
    """

    def block(found: re.Match[str]) -> str:
        opening, name, closing = found.groups()
        document = json.loads((results / f"{name}.json").read_text())
        if "table" not in document:
            raise ValueError(f"{name}.json: has no entry 'table'")
        table = document["table"]
        return opening + markdown(table["header"], table["rows"]) + closing

    if not len(_BLOCK.findall(text)) == text.count("<!-- table:") == text.count("<!-- /table -->"):
        raise ValueError("a <!-- table:NAME --> or its <!-- /table --> is missing")
    return _BLOCK.sub(block, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.render_tables",
        description="Write the tables of benchmarks/results into each README.md.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it is stale")
    options = parser.parse_args(arguments)
    stale = False
    try:
        for page in PAGES:
            before = page.read_text()
            after = render(before, RESULTS)
            if after == before:
                continue
            stale = True
            if options.check:
                print(f"{page}: the tables differ from benchmarks/results", file=sys.stderr)
                continue
            with atomic_path(page) as temporary:
                temporary.write_text(after)
    except (OSError, ValueError) as error:
        print(f"render_tables: {error}", file=sys.stderr)
        return 2
    return int(stale and options.check)


if __name__ == "__main__":
    sys.exit(main())
