"""Draw docs/architecture.svg from the code (`--check`: exit 1 if it would change); frames are packages, arrows imports.

The packages are those that are installed (pyproject.toml); what a box says is the beginning of its `__init__.py`.
Imports within functions and for types count. An arrow that follows from two others is left out.
"""  # noqa: INP001  a program

import ast
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"
BOX, TALL, GAP, PAD, TITLE, LINE, LETTER = 200, 80, 40, 20, 56, 15, 6.9
"""Pixels: a box's width and height, the room between two, a frame's margin, its title, a line and a letter of text."""
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left} 0 {width} {height}" role="img">
<title>The packages and folders of Glyph, and which imports which</title>
<style>
text {{ font: 12px system-ui, sans-serif; fill: #1f2933 }} .name {{ font-weight: 600; font-size: 14px }}
.paper, .box {{ fill: #fff }} .frame {{ fill: #f1f4f7 }} .box, .frame {{ stroke: #9aa5b1 }}
.arrow {{ fill: none; stroke: #52606d; stroke-width: 1.5; marker-end: url(#head) }} #head {{ fill: #52606d }}
</style>
<marker id="head" refX="5" refY="3" markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0 6 3 0 6z"/></marker>
<rect class="paper" x="{left}" width="{width}" height="{height}"/>
{elements}</svg>
"""
Graph = Mapping[str, set[str]]
Boxes = Mapping[str, tuple[int, ...]]


def imports(name: str) -> Iterator[str]:
    """Yield the dotted names of all that a package's modules import."""
    for module in (ROOT / name.replace(".", "/")).rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_bytes())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from (f"{getattr(node, 'module', '')}.{alias.name}".lstrip(".") for alias in node.names)


def graph(names: list[str]) -> Graph:
    """Return each of these packages, by its dotted name, with those of them that it imports."""
    found = {name: [f"{module}." for module in imports(name)] for name in names}
    return {a: {b for b in names if b != a and any(m.startswith(f"{b}.") for m in found[a])} for a in names}


def levels(graph: Graph) -> list[list[str]]:
    """Return the names from top to bottom, each as low as what it imports allows; a circle raises CycleError."""
    level: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        level[name] = 1 + max((level[other] for other in graph[name]), default=-1)
    return [[name for name in sorted(level) if level[name] == n] for n in sorted({*level.values()})[::-1]]


def arrows(graph: Graph) -> Iterator[tuple[str, str]]:
    """Yield who imports whom, but what follows from two others."""

    def below(name: str) -> set[str]:
        return graph[name].union(*map(below, graph[name]))

    for name, others in graph.items():
        yield from ((name, other) for other in sorted(others.difference(*map(below, others))))


def reverse(graph: Graph) -> Graph:
    """Return who imports each of them."""
    return {a: {b for b in graph if a in graph[b]} for a in graph}


def place(rows: list[list[str]], sizes: Boxes, middle: int, y: int) -> Boxes:
    """Return left, top, width and height of each name: row below row, about the middle; the first stands on its lower edges."""
    placed = {}
    for row in rows:
        tall = max(sizes[name][1] for name in row)
        x = middle - sum(sizes[name][0] + GAP for name in row) // 2 + GAP // 2
        for name in row:
            placed[name] = (x, y + (tall - sizes[name][1] if row is rows[0] else 0), *sizes[name])
            x += sizes[name][0] + GAP
        y += tall + GAP
    return placed


def elements(graph: Graph, placed: Boxes, kind: str) -> Iterator[str]:
    """Yield the elements of the arrows between some boxes, and of the boxes, which hide what is behind them."""
    for a, b in arrows(graph):
        (x, y), (to, end) = ((placed[n][0] + placed[n][2] // 2, placed[n][1]) for n in (a, b))
        y += placed[a][3]
        yield f'<path class="arrow" d="M{x} {y} C{x} {y + GAP // 2} {to} {end - GAP // 2} {to} {end}"/>'
    for name, (x, y, width, height) in placed.items():
        yield f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
        yield f'<text class="name" x="{x + 12}" y="{y + 21}">{name.rpartition(".")[2]}/</text>'
        about = ast.get_docstring(ast.parse((ROOT / name.replace(".", "/") / "__init__.py").read_bytes()))
        short = str(about).partition("\n")[0].partition(":")[0].partition(",")[0].rstrip(".").replace("`", "")
        for number, line in enumerate(textwrap.wrap(short, int((width - 24) / LETTER))):
            yield f'<text x="{x + 12}" y="{y + 40 + LINE * number}">{escape(line)}</text>'


def draw() -> str:
    """Return the picture."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    names = [pattern.rstrip("*") for pattern in tools["setuptools"]["packages"]["find"]["include"]]
    outer, inner, sizes = graph(names), dict[str, Graph](), dict[str, tuple[int, ...]]()
    for name in names:
        folders = [f"{name}.{init.parent.name}" for init in sorted(ROOT.glob(f"{name}/*/__init__.py"))]
        rows = levels(inner.setdefault(name, graph(folders)))
        across = 2 * PAD - GAP + max([2, *map(len, rows)]) * (BOX + GAP)
        sizes[name] = (across, TITLE + len(rows) * (TALL + GAP))
    frames = place(levels(reverse(outer))[::-1], sizes, 0, PAD)  # each as high as what imports it allows
    shapes = [*elements(outer, frames, "frame")]
    for name, (x, y, across, _) in frames.items():
        boxes = place(
            levels(inner[name]), dict.fromkeys(inner[name], (BOX, TALL)), x + across // 2, y + TITLE
        )
        shapes += elements(inner[name], boxes, "box")
    left = min(x for x, *_ in frames.values()) - PAD
    width, height = (max(f[i] + f[i + 2] for f in frames.values()) + PAD for i in (0, 1))
    return SVG.format(left=left, width=width - left, height=height, elements="\n".join(shapes))


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        PICTURE.write_text(draw())
    elif not PICTURE.exists() or PICTURE.read_text() != draw():
        sys.exit("docs/architecture.svg is not what the folders are: run 'python docs/architecture.py'")
