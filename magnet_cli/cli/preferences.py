"""What is remembered between runs: the default model, and which licences were said.

One small JSON file in the user's configuration folder (platformdirs knows where that is on each
system). It is only read and written by commands, never on import.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.files import atomic_path


def preferences_path() -> Path:
    """Where the file is."""
    import platformdirs

    return Path(platformdirs.user_config_dir("magnet", appauthor=False)) / "settings.json"


def default_model() -> str | None:
    """What `magnet models use` set. Raises UsageError: the file is broken."""
    name = _read().get("model")
    return name if isinstance(name, str) else None


def set_default_model(name: str | None) -> None:
    """Set the default model; None forgets it. Raises MagnetError: the file cannot be written."""
    settings = _read()
    settings.pop("model", None)
    _write(settings if name is None else {**settings, "model": name})


def note_licence(repo: str) -> bool:
    """Note that the licence of `repo` is being said; whether this is the first time."""
    try:
        settings = _read()
        said = [entry for entry in settings.get("licences_said", []) if isinstance(entry, str)]
        if repo in said:
            return False
        _write({**settings, "licences_said": [*said, repo]})
    except MagnetError:
        pass  # it cannot be noted, so it is said again
    return True


def _read() -> dict[str, Any]:
    path = preferences_path()
    try:
        settings = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read.", "Mend it, or delete it.") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path} holds no settings.", "Delete it.")
    return settings


def _write(settings: dict[str, Any]) -> None:
    path = preferences_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise MagnetError(
            f"{path} cannot be written: {error.strerror}.", "Set MAGNET_MODEL instead."
        ) from error
