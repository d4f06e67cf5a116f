"""The package is as docs/architecture.md describes it: few modules, a chain of imports, few files a command.

A limit is raised only for a reason, given in docs/decisions.md.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

import magnet_cli
from tests import processes
from tests.test_imports import FILES, home, imports

ROOT = Path(magnet_cli.__file__).parent

# The reasons for each limit: docs/decisions.md, Size of the package.
MOST_LINES = 38_314
MOST_MODULES = 173
MOST_FILES = {"gen": 41, "edit": 46}

# Who may import whom: a line may import all earlier lines, never a later one. Modules of one line may import
# each other, but two packages of a line may not.
CHAIN = [
    "errors version files fields naming config foreign",
    "settings",
    "masking",
    "models audio data decoding",
    "checkpoints",
    "resolving",
    "request pipeline",
    "editing targets",
    "clips",
    "api __init__",
    "batch training",
    "evaluation",
    "cli",
    "__main__",
]
# Remaining upward imports, to be removed: (from, to).
UPWARD: set[tuple[str, str]] = set()


def test_the_house_stays_small() -> None:
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in FILES)
    assert lines <= MOST_LINES
    assert len(FILES) <= MOST_MODULES


def test_imports_go_down_the_chain() -> None:
    """Including function-local imports and those for types only."""
    floor = {name: number for number, line in enumerate(CHAIN) for name in line.split()}
    met: set[tuple[str, str]] = set()
    for path in FILES:
        here = home(path)
        assert here in floor, f"{here} is not in the chain: say where it belongs"
        met |= {(here, there) for there in imports(path) if there != here}
    upward = {(here, there) for here, there in met if floor[there] > floor[here]}
    assert upward == UPWARD
    circles = {(here, there) for here, there in met if (there, here) in met}
    assert circles <= UPWARD | {(there, here) for here, there in UPWARD}


def test_decoding_knows_no_models() -> None:
    """The loops take a function or a session; tests pass fixed logits."""
    for path in (ROOT / "decoding").glob("*.py"):
        assert "models" not in imports(path), path


def test_modules_are_rooms_and_not_corridors() -> None:
    """No re-exports: a name is defined in one module. The package's own are lazy."""
    for path in FILES:
        tree = ast.parse(path.read_text("utf-8"))
        if path.name == "__init__.py" and path.parent != ROOT:
            assert all(isinstance(node, ast.Expr) for node in tree.body), f"{path} holds code"


WALK = """
import contextlib, importlib, io, json, os, pkgutil, sys, threading
import magnet_cli
from magnet_cli.cli.app import run

for module in pkgutil.walk_packages(magnet_cli.__path__, "magnet_cli."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
root = os.path.dirname(magnet_cli.__file__)
found = {}
for command in json.loads(sys.argv[1]):
    files = found[command[0]] = set()

    def see(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_name != "<module>" and code.co_filename.startswith(root):
            files.add(os.path.relpath(code.co_filename, root))

    threading.setprofile(see)
    sys.setprofile(see)
    status = run(command)
    sys.setprofile(None)
    assert status == 0, command
print(json.dumps({name: sorted(files) for name, files in found.items()}))
"""


@pytest.mark.process
def test_a_command_walks_through_few_doors(tmp_path: Path) -> None:
    """Files of the package in which a function is called: those to read to follow a clip."""
    common = ("-m", "nano", "--preset", "fast", "--seed", "1", "-q")
    commands = [
        ["gen", "lofi piano", "-d", "1", *common, "-o", "a.wav"],
        ["edit", "a.wav", "drums", "--region", "0.2-0.6", *common, "-o", "b.wav"],
    ]
    done = processes.run(
        [sys.executable, "-c", WALK, json.dumps(commands)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)
    for name, most in MOST_FILES.items():
        assert len(files[name]) <= most, "\n".join(files[name])
