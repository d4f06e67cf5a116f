"""MAGNeT: audio from text, by masked generation (Ziv et al., 2024, arXiv 2401.04577).

    import magnet_cli
    model = magnet_cli.load_model("facebook/magnet-small-10secs")
    model.generate(["lofi piano"], seeds=[1]).save("piano.wav")

Importing this package imports no torch: names are resolved when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from magnet_cli.version import __version__

if TYPE_CHECKING:
    from magnet_cli.api import Model as Model
    from magnet_cli.api import load_model as load_model
    from magnet_cli.clips import Clip as Clip
    from magnet_cli.clips import Edit as Edit
    from magnet_cli.clips import Result as Result
    from magnet_cli.errors import MagnetError as MagnetError
    from magnet_cli.settings import BarsConfig as BarsConfig
    from magnet_cli.settings import DecodingConfig as DecodingConfig
    from magnet_cli.settings import OutputConfig as OutputConfig

_HOMES = {
    "BarsConfig": "magnet_cli.settings",
    "DecodingConfig": "magnet_cli.settings",
    "OutputConfig": "magnet_cli.settings",
    "MagnetError": "magnet_cli.errors",
    "Clip": "magnet_cli.clips",
    "Edit": "magnet_cli.clips",
    "Result": "magnet_cli.clips",
    "Model": "magnet_cli.api",
    "load_model": "magnet_cli.api",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
