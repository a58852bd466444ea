"""What reads files from outside does not run them: read off every call in the product's own code."""

import ast
from collections.abc import Iterator

import pytest
from optuna.storages.journal._base import BaseJournalSnapshot

from tests.conftest import ROOT
from training.search.storage import CrashSafeJournal

PACKAGES = ("bundle", "common", "glyph", "imagesets", "serving", "training", "bench")
PEERS = ROOT / "bench" / "comparison" / "peers"
"""Other servers' programs, as their makers write them, which run in environments of their own."""
RUNS = {
    "builtins.eval",
    "builtins.exec",
    "cloudpickle.load",
    "cloudpickle.loads",
    "dill.load",
    "dill.loads",
    "joblib.load",
    "marshal.load",
    "marshal.loads",
    "pandas.read_pickle",
    "pickle.Unpickler",
    "pickle.load",
    "pickle.loads",
    "runpy.run_path",
    "shelve.open",
    "torch.export.load",
    "torch.export.pt2_archive.load_pt2",
    "torch.hub.load",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "yaml.full_load",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
}
"""They can run code out of what they read, whatever they are asked for."""
ALLOWED = {
    # Files that the same process has just exported into its staging directory, to be proven.
    ("training/release/parity.py", "_torchscript", "torch.jit.load"),
    ("training/release/parity.py", "_torch_export", "torch.export.load"),
    # A module of an installed package, which importing that would run as well.
    ("serving/model/cuda.py", "_build_info", "runpy.run_path"),
    # A socket to a process of the scorer's own.
    ("serving/scoring/inputs/decoding.py", "call", "pickle.load"),
    ("serving/scoring/inputs/decoding.py", "serve", "pickle.load"),
}
NEEDED = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
"""They run no code if they are asked not to, in so many words."""
EXTRACTS = {"extract", "extractall", "unpack_archive"}
"""They write files wherever an archive says."""


def calls(tree: ast.Module) -> Iterator[tuple[str, str, ast.Call]]:
    """Yield each call of a module: the function that it is in, the full name of what is called, and the call."""
    names = {name: f"builtins.{name}" for name in ("eval", "exec")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names |= {alias.asname: alias.name} if alias.asname else {top: top}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def full(node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            return f"{full(node.value)}.{node.attr}"
        return names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            if isinstance(child, ast.Call):
                yield function, full(child.func), child
            yield from walk(child, inside)

    yield from walk(tree, "")


def faults(place: str, source: str) -> list[str]:
    """Return what a module does that it must not."""
    found = []
    for function, name, call in calls(ast.parse(source)):
        where = f"{place}:{call.lineno}: {name}"
        keywords = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
        if name in RUNS and (place, function, name) not in ALLOWED:
            found.append(f"{where} runs what it reads")
        if name in NEEDED and keywords.get(NEEDED[name][0]) is not NEEDED[name][1]:
            found.append(f"{where} without {NEEDED[name][0]}={NEEDED[name][1]}")
        if name.rpartition(".")[2] in EXTRACTS:
            found.append(f"{where} writes where an archive says")
    return found


def sources() -> dict[str, str]:
    """Return the product's modules by their places."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths if PEERS not in path.parents}


def test_no_module_runs_what_it_reads() -> None:
    """No pickle, no expression and no program out of a file, but of the process's own."""
    modules = sources()
    assert len(modules) > 200
    assert [fault for place, source in modules.items() for fault in faults(place, source)] == []


def test_every_exception_is_in_use() -> None:
    """What is allowed is there; else it would allow something new one day."""
    used = {
        (place, function, name)
        for place, source in sources().items()
        for function, name, _ in calls(ast.parse(source))
    }
    assert used >= ALLOWED


def test_the_exported_files_are_loaded_where_they_are_proven_and_nowhere_else() -> None:
    """The two functions that load what was exported are called by `prove` alone, with its own directory."""
    callers = {
        (place, function)
        for place, source in sources().items()
        for function, name, _ in calls(ast.parse(source))
        if name.rpartition(".")[2] in ("_torchscript", "_torch_export")
    }
    assert callers == {("training/release/parity.py", "prove")}


@pytest.mark.parametrize(
    "source",
    [
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "from torch import load; load(path)",
        "import torch; torch.export.load(path)",
        "import torch.export as te; te.load(path)",
        "from torch import jit; jit.load(path)",
        "from torch.export import load as read; read(path)",
        "import numpy as np; np.load(path)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "def f(): import pickle; return pickle.loads(data)",
        "import yaml; yaml.load(text, yaml.Loader)",
        "x = eval(text)",
        "import tarfile; tarfile.open(path).extractall(where)",
        "import shutil; shutil.unpack_archive(path)",
    ],
)
def test_a_call_that_runs_what_it_reads_would_be_found(source: str) -> None:
    """Under whatever name it was imported."""
    assert len(faults("training/new.py", source)) == 1


def test_a_searchs_journal_is_json_alone() -> None:
    """Optuna unpickles snapshots of a journal where its backend keeps any; ours keeps none."""
    assert not issubclass(CrashSafeJournal, BaseJournalSnapshot)


def test_calls_that_run_nothing_are_left_alone() -> None:
    """The same names with what makes them safe."""
    source = (
        "import torch, numpy as np, yaml; torch.load(p, weights_only=True); np.load(p, allow_pickle=False)"
    )
    assert faults("training/new.py", f"{source}; yaml.safe_load(p); model.eval(); self.load(p)") == []
