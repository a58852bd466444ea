"""The commands: each is a program that `python -m` runs, too."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from glyph.endings import standard_output


@dataclass(frozen=True, slots=True)
class Command:
    """One command."""

    program: str
    """What it is by `python -m`: the module, then the words before the user's own."""
    extra: str
    """The extra that has the packages it needs; "" if it needs none."""
    text: str
    """One line of help."""

    @property
    def module(self) -> str:
        """Return the module."""
        return self.program.partition(" ")[0]

    @property
    def words(self) -> list[str]:
        """Return the words that the program gets before the user's own."""
        return self.program.split()[1:]


GROUPS: Mapping[str, Mapping[str, Command]] = {
    "train": {
        "data": Command("training data", "training", "download MNIST and verify its hashes"),
        "fit": Command("training fit", "training", "train a model and publish it as the next version"),
        "tune": Command("training tune", "training", "search for the settings with the best accuracy"),
        "study": Command("training study", "training", "compare models that differ in one setting"),
    },
    "use": {
        "predict": Command("glyph.predict", "serving", "classify image files, here or by a service"),
        "score": Command("serving.score", "serving", "classify millions of images into files"),
    },
    "serve": {
        "serve": Command("serving", "serving", "serve the newest version over HTTP"),
        "check": Command("serving --check", "serving", "check whether the service could start"),
        "token": Command("serving.token", "serving", "make a bearer token for the service"),
    },
    "published models": {
        "list": Command("bundle list", "", "list the versions of a model"),
        "show": Command("bundle show", "", "print the manifest of a version"),
        "verify": Command("bundle verify", "", "verify every file of a version"),
        "fetch": Command("bundle fetch", "", "download a version"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
SYNONYMS = {
    "classify": "predict",
    "download": "data",
    "infer": "predict",
    "ls": "list",
    "run": "serve",
    "search": "tune",
    "start": "serve",
    "train": "fit",
}
"""Words that other programs have for these commands."""


def _training(arguments: list[str]) -> int:
    from training.__main__ import main

    return main(arguments)


def _bundle(arguments: list[str]) -> int:
    from bundle.__main__ import main

    with standard_output():
        return main(arguments)


def _serve(arguments: list[str]) -> int:
    from serving.__main__ import main

    return main(arguments)


def _score(arguments: list[str]) -> int:
    from serving.score import main

    return main(arguments)


def _token(arguments: list[str]) -> int:
    from serving.token import main

    return main(arguments)


def _predict(arguments: list[str]) -> int:
    from glyph.predict import main

    return main(arguments)


PROGRAMS: Mapping[str, Callable[[list[str]], int]] = {
    "training": _training,
    "bundle": _bundle,
    "serving": _serve,
    "serving.score": _score,
    "serving.token": _token,
    "glyph.predict": _predict,
}
"""The programs by module. Each imports its package when it is called."""
NAMES = {
    f"python -m {command.module}": "glyph" if command.words == [name] else f"glyph {name}"
    for name, command in COMMANDS.items()
    if command.words in ([], [name])
}
"""What messages call the programs here, as `common.programs.called` takes it."""
