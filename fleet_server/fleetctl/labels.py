"""Labels for a production run: one page to print, a claim's QR code on each label (pure; nothing is loaded from anywhere)."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

_STYLE: Final = """
@page { size: A4; margin: 10mm; }
* { box-sizing: border-box; margin: 0; }
body { font: 3.2mm/1.35 "Liberation Sans", Arial, sans-serif; color: #000; background: #fff; padding: 2mm; }
main { display: grid; grid-template-columns: repeat(auto-fill, 90mm); gap: 3mm; }
article { display: grid; grid-template-columns: 34mm 1fr; gap: 3mm; align-items: center; width: 90mm; height: 38mm; padding: 2mm;
  border: .2mm dashed #999; border-radius: 2mm; break-inside: avoid; overflow: hidden; }
svg { width: 34mm; height: 34mm; display: block; }
h2 { font-size: 4.4mm; line-height: 1.2; overflow-wrap: anywhere; }
p { overflow-wrap: anywhere; }
.id { font-family: "Liberation Mono", monospace; }
"""


@dataclass(frozen=True, slots=True)
class Label:
    """What stands on one label; ``claim`` is in its QR code only. ``until``: for people."""

    device: str
    board: str
    tags: str
    claim_id: str
    until: str
    claim: str = field(repr=False)


def sheet(labels: Iterable[Label]) -> bytes:
    """An HTML page of the labels in their order, 14 to a sheet of A4, that loads nothing and runs nothing."""
    body = "\n".join(map(_article, labels))
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="color-scheme" content="light">\n'
        f"<title>Claims to stick on boards</title>\n<style>{_STYLE}</style>\n</head>\n<body><main>\n{body}\n</main></body>\n</html>\n"
    )
    return page.encode()


def _article(label: Label) -> str:
    import segno  # the one command that prints labels pays for it

    # Level M survives a scratch and stays coarse enough for a cheap scanner: 34 mm over 53 modules are 0.6 mm each.
    code = segno.make_qr(label.claim, error="m").svg_inline(border=4, omitsize=True)
    told = [html.escape(text) for text in (label.device, label.board, label.tags, label.claim_id, label.until)]
    device, board, tags, claim_id, until = told
    line = f"<p>{tags}</p>" if tags else ""
    return f'<article>{code}<div><h2>{device}</h2><p>{board}</p>{line}<p class="id">{claim_id}</p><p>until {until}</p></div></article>'
