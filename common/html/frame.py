"""The page template of every report: style sheet, navigation, tables, and the escaping of text."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

NOTHING = "\N{EN DASH}"
"""Shown in a cell that has no number."""
LONG = 24
"""Most characters of a class name on one line; longer ones wrap, so that the numbers beside them stay visible."""
HIDDEN_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Unicode's bidirectional control characters."""


@dataclass(frozen=True, slots=True)
class Html:
    """Text that is HTML already and is not escaped."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A section of the page, with a heading and an anchor."""

    anchor: str
    title: str
    body: str
    """HTML."""


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { color-scheme: light dark; font: 16px/1.55 system-ui, sans-serif;
  --paper: #fff; --panel: #f5f6f8; --ink: #1c2128; --quiet: #57606a; --line: #c4cad1; --link: #0b57a4;
  --training: #2868c8; --validation: #c2570c; --good: #1a7f37; --bad: #cf2f3b; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171c; --panel: #1d2128; --ink: #e6e9ee; --quiet: #a2abb6; --line: #4a525d; --link: #7db8ff;
  --training: #6ba6ff; --validation: #ff9d57; --good: #57c26d; --bad: #ff6b74; } }
* { box-sizing: border-box; }
body { max-width: 64rem; margin: 0 auto; padding: 1.2rem 1rem 4rem; background: var(--paper);
  color: var(--ink); overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--link); }
small, figcaption, .quiet { color: var(--quiet); font-size: .875rem; }
nav ul { list-style: none; margin: 1rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
nav a { display: inline-block; padding: .2rem 0; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
dl > div { background: var(--panel); border-radius: .5rem; padding: .6rem .8rem; }
dt { font-size: .8rem; color: var(--quiet); }
dd { margin: 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.advice { background: var(--panel); border-left: .3rem solid var(--training); border-radius: .3rem;
  padding: .6rem 1rem; }
.advice.warn { border-color: var(--validation); }
.advice ul { margin: .3rem 0 0; padding-left: 1.2rem; }
.scroll { overflow-x: auto; max-width: 100%; background: /* a shadow at the edge that hides something */
  linear-gradient(to right, var(--paper) 30%, transparent) left / 2rem 100% local no-repeat,
  linear-gradient(to left, var(--paper) 30%, transparent) right / 2rem 100% local no-repeat,
  linear-gradient(to right, var(--line), transparent) left / .5rem 100% scroll no-repeat,
  linear-gradient(to left, var(--line), transparent) right / .5rem 100% scroll no-repeat; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--link);
  outline-offset: 2px; }
table { border-collapse: collapse; margin: .5rem 0; font-size: .9rem; }
caption { text-align: left; color: var(--quiet); padding: .2rem 0; }
th, td { padding: .28rem .7rem .28rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
table.wide td, table.wide th { overflow-wrap: break-word; min-width: 3rem; }
.wide .long { display: inline-block; width: 10rem; overflow-wrap: anywhere; }
td code { font-size: .8rem; }
tr.changed > * { background: color-mix(in srgb, var(--validation) 14%, transparent); }
.beside { display: flex; flex-wrap: wrap; gap: 0 3rem; align-items: start; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem;
  margin: 1rem 0; }
figure { margin: 0; }
svg { width: 100%; max-width: 32rem; height: auto; display: block; font-family: inherit; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.weights { width: 60rem; max-width: 100%; height: auto; image-rendering: pixelated;
  background: var(--panel); border-radius: .4rem; }
.matrix { font-size: .8rem; }
.matrix th, .matrix td { padding: .15rem .3rem; text-align: center; border: 1px solid var(--line);
  min-width: 1.9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
.matrix tbody th { text-align: right; position: sticky; left: 0; background: var(--paper); max-width: 9rem;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.matrix thead th { vertical-align: bottom; }
.matrix.wide tbody th { max-width: 22rem; }
.matrix .tall { writing-mode: vertical-rl; max-height: 9rem; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.matrix .d { background: color-mix(in srgb, var(--good) 16%, transparent); }
.matrix .x { background: color-mix(in srgb, var(--bad) calc(var(--s) * 1%), transparent); }
.cards { list-style: none; margin: .8rem 0; padding: 0; display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); font-size: .8rem; line-height: 1.35; }
.cards li { display: flex; gap: .5rem; background: var(--panel); border-radius: .4rem; padding: .4rem;
  break-inside: avoid; content-visibility: auto; contain-intrinsic-size: auto 5rem; }
.cards p { margin: 0; white-space: pre-line; min-width: 0; font-variant-numeric: tabular-nums; }
.cards i { flex: none; width: 56px; height: 56px; image-rendering: pixelated; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; background: url($sprites) calc(var(--x) * -56px) calc(var(--y) * -56px) /
  ${sprites_width}px auto; }
summary { cursor: pointer; padding: .3rem 0; color: var(--link); }
@media (max-width: 30rem) { body { padding: .9rem .75rem 3rem; } h1 { font-size: 1.4rem; }
  .cards { grid-template-columns: 1fr 1fr; } .matrix { font-size: .7rem; }
  .matrix th, .matrix td { padding: .15rem .1rem; min-width: 1.7rem; } th, td { padding-right: .5rem; } }
@media print { :root { color-scheme: light; font-size: 11px; --paper: #fff; --panel: #f5f6f8; --ink: #000;
  --quiet: #444; --line: #999; --link: #000; --training: #2868c8; --validation: #c2570c; --good: #1a7f37;
  --bad: #cf2f3b; }
  body { max-width: none; padding: 0; } nav { display: none; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; background: none; } figure, tr, .advice, dl > div { break-inside: avoid; }
  details::details-content { content-visibility: visible; height: auto; } summary { list-style: none; }
  .cards li { content-visibility: visible; }
  .advice, dl > div, .cards li, .matrix td, tr.changed > * { print-color-adjust: exact;
  -webkit-print-color-adjust: exact; } }
</style></head><body>
<header><h1>$title</h1>
<p class="quiet">$summary</p>
<nav aria-label="sections"><ul>$links</ul></nav></header>
<main>
$sections
</main>
</body></html>
""")


def page(
    title: str, summary: str, sections: Iterable[Section], *, sprites: str = "data:,", sprites_width: int = 0
) -> str:
    """Return the whole document.

    Args:
        title: as plain text.
        summary: one or two sentences of plain text.
        sections: in order.
        sprites: data URI of the sprite sheet that the cards show parts of (`sprite_sheet.py`).
        sprites_width: its width on the page, in CSS pixels.
    """
    parts = list(sections)
    return _PAGE.substitute(
        title=text(title),
        summary=text(summary),
        links="".join(f'<li><a href="#{part.anchor}">{text(part.title)}</a></li>' for part in parts),
        sections="\n".join(
            f'<section id="{part.anchor}" aria-labelledby="{part.anchor}-title">'
            f'<h2 id="{part.anchor}-title">{text(part.title)}</h2>\n{part.body}\n</section>'
            for part in parts
        ),
        sprites=sprites,
        sprites_width=sprites_width,
    )


def visible(value: object) -> str:
    """Return plain text with control characters and bidirectional overrides replaced by their code points."""
    return "".join(
        f"\\u{ord(character):04x}"
        if character in HIDDEN_DIRECTIONS or unicodedata.category(character) in ("Cc", "Cs")
        else character
        for character in str(value)
    )


def text(value: object) -> str:
    """Return any value as escaped HTML text."""
    return escape(visible(value))


def name(value: str, limit: int = 200) -> str:
    """Return a class name as HTML: escaped, cut to `limit` characters, and isolated by `<bdi>`.

    Without `<bdi>` a right-to-left name would reorder the numbers beside it.
    """
    shown = value if len(value) <= limit else value[: limit - 1] + "…"
    said = text(shown) if shown.isascii() else f"<bdi>{text(shown)}</bdi>"
    return said if len(shown) <= LONG else f'<span class="long">{said}</span>'


def table(
    rows: Sequence[Sequence[object]],
    head: Sequence[object] = (),
    *,
    caption: str = "",
    changed: Iterable[int] = (),
) -> str:
    """Return a table in a scrolling region; the first cell of each row is its heading.

    Args:
        rows: columns of numbers are aligned right, others left.
        head: the column headings.
        caption: plain text.
        changed: indices of rows to highlight.
    """
    numeric = [all(_is_number(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []

    def cell(tag: str, column: int, value: object, scope: str = "") -> str:
        kind = ' class="n"' if column < len(numeric) and numeric[column] and column else ""
        return f"<{tag}{scope}{kind}>{_html(value)}</{tag}>"

    heading = "".join(cell("th", column, value, ' scope="col"') for column, value in enumerate(head))
    marked = set(changed)
    body = "".join(
        ('<tr class="changed">' if index in marked else "<tr>")
        + cell("th", 0, row[0], ' scope="row"')
        + "".join(cell("td", column, value) for column, value in enumerate(row[1:], start=1))
        + "</tr>"
        for index, row in enumerate(rows)
    )
    said = f"<caption>{text(caption)}</caption>" if caption else ""
    thead = f"<thead><tr>{heading}</tr></thead>" if head else ""
    return scroll(f'<table class="wide">{said}{thead}<tbody>{body}</tbody></table>', caption or "table")


def scroll(content: str, label: str) -> str:
    """Return HTML in a region that scrolls sideways, by keyboard as well."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{text(label)}">{content}</div>'


def _html(value: object) -> str:
    return value.text if isinstance(value, Html) else text(value)


def _is_number(value: object) -> bool:
    if isinstance(value, Html):
        return False
    shown = str(value).rstrip("%").replace(",", "")
    try:
        float(shown)
    except ValueError:
        return shown in (NOTHING, "")
    return True
