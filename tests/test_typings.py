"""Gunicorn as the service sees it, its stub and its settings, is Gunicorn as it is installed.

The service extends Gunicorn beneath what it documents: an update that moves or renames something fails here.
"""

import ast
import importlib
import inspect
import os
import subprocess
import symtable
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from gunicorn.config import Config

from tests.conftest import ROOT

TYPINGS = ROOT / "typings"


def parsed(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text("utf-8"))


def attributes() -> Iterator[tuple[str, str, str]]:
    """Yield module, class and name of each attribute with an annotation in the stub."""
    for path in sorted(TYPINGS.rglob("*.pyi")):
        module = ".".join(path.relative_to(TYPINGS).with_suffix("").parts)
        for kind in [line for line in parsed(path).body if isinstance(line, ast.ClassDef)]:
            for line in kind.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    yield module, kind.name, line.target.id


def assigned(kind: type) -> set[str]:
    """Return the names that the methods of a class, and of Gunicorn's classes below it, assign to `self`."""
    sources = [inspect.getsource(base) for base in kind.__mro__ if base.__module__.startswith("gunicorn.")]
    return {
        node.attr
        for source in sources
        for node in ast.walk(ast.parse(textwrap.dedent(source)))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def test_the_stub_has_names_and_parameters_of_the_installed_package() -> None:
    """By mypy's own comparison, which does not see what only methods assign."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "gunicorn", "--ignore-missing-stub"],
        env=os.environ | {"MYPYPATH": str(TYPINGS)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def is_there(module: str, kind: str, name: str) -> bool:
    """Tell whether a class has an attribute: of its own, assigned by a method, or a setting."""
    found = getattr(importlib.import_module(module), kind)
    if found is Config and name in Config().settings:
        return True
    return hasattr(found, name) or name in assigned(found)


def test_every_attribute_of_the_stub_is_there() -> None:
    """Those too that mypy's comparison does not see."""
    assert len(declared := list(attributes())) > 20
    assert [attribute for attribute in declared if not is_there(*attribute)] == []


def test_gunicorn_knows_every_setting_of_ours() -> None:
    """It ignores names that it does not know, and would go on by its defaults."""
    path = ROOT / "serving/process/gunicorn_conf.py"
    symbols = symtable.symtable(path.read_text("utf-8"), str(path), "exec").get_symbols()
    names = {symbol.get_name() for symbol in symbols if symbol.is_assigned() and not symbol.is_imported()}
    ours = {name for name in names if name.islower() and not name.startswith("_")}
    assert "worker_class" in ours
    assert ours <= Config().settings.keys()
