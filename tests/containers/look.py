"""Run inside an image, by its own Python: print what is in it, as JSON."""

import json
import os
from importlib import metadata, util
from pathlib import Path

TOOLS = {
    *(
        "as",
        "c++",
        "c89",
        "c99",
        "cc",
        "clang",
        "cmake",
        "cpp",
        "g++",
        "gcc",
        "go",
        "ld",
        "make",
        "nvcc",
        "ptxas",
    ),
    *("ptxas-blackwell", "rustc", "tcc"),
    *("conda", "curl", "easy_install", "git", "npm", "pip", "pip3", "uv", "wget", "wheel"),
}
SECRETS = {
    ".env",
    ".git",
    ".netrc",
    ".npmrc",
    ".pypirc",
    "credentials",
    "id_ed25519",
    "id_rsa",
    "pip.conf",
    "tokens",
}
MODULES = (
    "ensurepip",
    "matplotlib",
    "onnxruntime",
    "pip",
    "pyarrow",
    "pytest",
    "scipy",
    "serving",
    "torch",
    "training",
    "triton",
)
OF_THE_ENGINE = {Path("/dev"), Path("/proc"), Path("/sys")}
MEMORY = Path("/dev/shm")  # noqa: S108  it is the very place

paths = [MEMORY]
for directory, folders, names in os.walk("/"):
    here = Path(directory)
    folders[:] = [name for name in folders if here / name not in OF_THE_ENGINE]
    paths += [here, *(here / name for name in names)]
code = [path for path in paths if path.is_relative_to("/opt") and path.suffix == ".py"]

print(
    json.dumps(
        {
            "tools": [
                str(path)
                for path in paths
                if path.name in TOOLS and path.is_file() and os.access(path, os.X_OK)
            ],
            "installers": [str(path) for path in paths if path.suffix == ".whl"],
            "secrets": [str(path) for path in paths if path.name in SECRETS],
            "writable": [str(path) for path in paths if path.is_dir() and os.access(path, os.W_OK)],
            "unreadable": [
                str(path) for path in paths if path.is_relative_to("/opt") and not os.access(path, os.R_OK)
            ],
            "uncompiled": [
                str(path) for path in code if not Path(util.cache_from_source(str(path))).exists()
            ],
            "modules": [name for name in MODULES if util.find_spec(name)],
            "distributions": {found.metadata["Name"]: found.version for found in metadata.distributions()},
            "code": sorted(path.name for path in Path("/opt/glyph").iterdir()),
            "user": os.getuid(),
        }
    )
)
