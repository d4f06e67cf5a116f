"""Who may import whom, function-local imports too: `ALLOWED` is the table, as it has become.

It is wider than the one that the design began with: modules that came later (request, clips, naming,
resolving) stand in it, and packages that were allowed a few imports more say why.
"""

from __future__ import annotations

import ast
import pkgutil
import sys
from pathlib import Path

import pytest

import magnet_cli
from magnet_cli import cli
from tests import processes

ROOT = Path(magnet_cli.__file__).parent

BASE = {
    "errors",
    "fields",
    "config",
    "settings",
    "version",
    "files",
    "foreign",
}  # may be imported by all
SHARED = {"masking"}  # torch, but nothing of ours except BASE

# package or module -> what it may import besides itself, BASE and SHARED
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "files": set(),
    "fields": set(),
    "config": set(),
    "foreign": set(),
    "settings": set(),
    "masking": set(),
    "models": set(),
    "audio": set(),
    "data": {"audio", "naming"},
    "naming": set(),
    "decoding": set(),
    "checkpoints": {"models", "naming"},
    "resolving": {"checkpoints", "models", "decoding"},
    "request": {"models", "decoding", "resolving"},
    "pipeline": {"models", "decoding", "request", "resolving"},
    "editing": {"pipeline", "request", "decoding", "audio", "models"},
    "api": {
        *("checkpoints", "models", "decoding", "resolving", "pipeline", "request", "editing"),
        *("clips", "audio"),
    },
    # one clip, from a result to its file: shared by commands and batches
    "targets": {"naming"},
    "clips": {"pipeline", "decoding", "editing", "audio", "targets", "checkpoints"},
    "batch": {
        *("api", "pipeline", "request", "resolving", "editing", "clips", "data"),
        *("audio", "naming", "decoding", "models", "targets"),
        "checkpoints",  # a worker tells its driver which weights it has loaded
    },
    "training": {"models", "checkpoints", "decoding", "api", "data", "audio", "naming"},
    "evaluation": {
        *("pipeline", "request", "data", "audio", "batch", "checkpoints", "naming", "targets"),
        *("models", "resolving"),  # a bench builds models with random weights, and their partners
    },
    "__init__": {"api", "clips"},
    "__main__": {"cli"},
}


def imports(path: Path) -> set[str]:
    """The top-level names of our modules that a file imports, anywhere in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "magnet_cli":
                found.add(parts[1] if len(parts) > 1 else "__init__")
    return found - {"__version__"}


def home(path: Path) -> str:
    """A file's package or module in the table."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = sorted(ROOT.rglob("*.py"))
IN_TABLE = [path for path in FILES if home(path) != "cli"]  # the command line may import everything


@pytest.mark.parametrize("path", IN_TABLE, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path) -> None:
    where = home(path)
    assert where in ALLOWED, f"{where} is not in the table: say what it may import"
    shared = BASE if where in BASE else BASE | SHARED
    strangers = imports(path) - ALLOWED[where] - shared - {where}
    assert not strangers, f"{path.relative_to(ROOT)} may not import {sorted(strangers)}"


@pytest.mark.process
def test_the_command_line_imports_torch_inside_its_commands_alone() -> None:
    """Otherwise every `--help` and every mistake would wait for it."""
    names = [f"magnet_cli.cli.{module.name}" for module in pkgutil.iter_modules(cli.__path__)]
    assert len(names) >= 15
    late = "{'torch', 'scipy', 'huggingface_hub'}"
    code = f"import sys, {', '.join(names)}; sys.exit(str({late} & set(sys.modules) or ''))"
    done = processes.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_only_the_command_line_prints_and_exits() -> None:
    for path in FILES:
        if home(path) in ("cli", "__main__"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "exit", "quit"), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in (("sys", "exit"), ("sys", "argv")), path
