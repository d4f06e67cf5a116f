"""Flags made from the fields of settings: one for each that says what it is about (fields.setting)."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

from magnet_cli.cli.options import flag

Command = Callable[..., None]


def takes_settings(*classes: type) -> Callable[[Command], Command]:
    """Give a command a flag for every documented field of dataclasses of settings.

    The command takes those that were given as one dict, `settings`; the others stay what they are.
    """

    def decorate(command: Command) -> Command:
        parameters = [
            parameter
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != "settings"
        ]
        options = [option for class_ in classes for option in _options(class_)]
        parameters += options

        def with_settings(**values: Any) -> None:
            given = {option.name: values.pop(option.name) for option in options}
            command(**values, settings={k: v for k, v in given.items() if v not in (None, [])})

        with_settings.__name__, with_settings.__doc__ = command.__name__, command.__doc__
        with_settings.__module__ = command.__module__
        with_settings.__annotations__ = {p.name: p.annotation for p in parameters}
        vars(with_settings)["__signature__"] = inspect.Signature(parameters)
        return with_settings

    return decorate


def _options(class_: Any) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(class_)
    fields = dataclasses.fields(class_)
    return [_option(field, hints[field.name]) for field in fields if "about" in field.metadata]


def _option(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    """The flag of a setting: None where it is not given."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    name = "--" + field.name.replace("_", "-")
    about, type_ = field.metadata["about"], hint
    if origin is tuple:
        type_, about = list[inner[0]], about + " May be given several times."  # type: ignore[valid-type]
    elif origin is not None:
        # A choice, which as a Literal would widen the help beyond reading; or a text or nothing.
        type_ = str
    if field.default not in (None, ()):
        shown = str(field.default).lower() if hint is bool else field.default
        about += f" Default: {shown}."
    names = (f"{name}/--no-{name[2:]}",) if hint is bool else (name,)
    option = flag(field.metadata["panel"], *names, help=about)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[type_ | None, option],
    )
