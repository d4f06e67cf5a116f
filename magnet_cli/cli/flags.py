"""Groups of flags: dataclasses that a command takes whole, and whose fields become its flags."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints


def takes_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of each parameter whose type is a group.

    A group is a frozen dataclass whose fields are annotated with `typer.Option`:

        @app.command()
        @takes_flags
        def gen(prompts: ..., *, model: ModelOptions, decoding: DecodingOptions) -> None: ...

    Fields of all the groups of a command need different names.
    """
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        group = parameter.annotation
        if not (isinstance(group, type) and dataclasses.is_dataclass(group)):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = group
        hints = get_type_hints(group, include_extras=True)
        parameters.extend(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
            for field in dataclasses.fields(group)
        )

    def with_flags(**values: Any) -> None:
        built = {
            name: group(**{field.name: values.pop(field.name) for field in _fields(group)})
            for name, group in groups.items()
        }
        command(**values, **built)

    # typer reads a command through `inspect`, which believes what a function says of itself.
    with_flags.__name__, with_flags.__doc__ = command.__name__, command.__doc__
    with_flags.__module__ = command.__module__
    with_flags.__annotations__ = {p.name: p.annotation for p in parameters}
    vars(with_flags)["__signature__"] = inspect.Signature(parameters)
    return with_flags


def flag_of(group: type, field: str) -> tuple[str, str | None]:
    """The flag that sets a field of a group, and the one that unsets it (None where there is none)."""
    annotation = get_type_hints(group, include_extras=True)[field]
    option = get_args(annotation)[-1]
    names = [option.default, *(option.param_decls or ())]
    named = [name for name in names if isinstance(name, str) and name.startswith("--")]
    on, _, off = (named[0] if named else f"--{field.replace('_', '-')}").partition("/")
    return on, off or None


def _fields(group: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(group)
