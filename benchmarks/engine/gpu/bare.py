"""Stand-ins for three packages that a machine with nothing but torch lacks, as far as the
benchmarks in this process need them.

    msgspec      its structs, as frozen dataclasses: nothing is encoded, since the engine is in this
                 very process
    llguidance   a name that says what is missing when it is used: no request here has a grammar
    gguf         likewise: the base is random, no file is read

A package that is installed is never replaced. As a pytest plugin (`-p benchmarks.engine.gpu.bare`)
it does the same before tests are collected.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from types import ModuleType
from typing import Any, dataclass_transform

STOOD_IN = ("msgspec", "llguidance", "gguf")
NEEDED = ("torch", "numpy", "safetensors")


def missing(names: tuple[str, ...]) -> list[str]:
    """Those that cannot be imported here."""
    return [
        name for name in names if name not in sys.modules and importlib.util.find_spec(name) is None
    ]


def stand_in() -> list[str]:
    """Put a stand-in in the place of each that is missing; says which."""
    absent = missing(STOOD_IN)
    makers = {"msgspec": _msgspec, "llguidance": _llguidance, "gguf": lambda: (_Absent("gguf"),)}
    for name in absent:
        for module in makers[name]():
            sys.modules[module.__name__] = module
    return absent


class _Absent(ModuleType):
    """A package that is not there: importing it and its names works, calling one of them says what
    to install.
    """

    __path__: list[str] = []  # noqa: RUF012 (what makes a module a package)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(f"{self.__name__}.{name}")


class _Missing:
    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *_: object, **__: object) -> Any:
        raise ImportError(f"{self._name} is not installed here")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(f"{self._name}.{name}")

    def __or__(self, other: object) -> Any:
        return object

    __ror__ = __or__


def _msgspec() -> tuple[ModuleType, ...]:
    """Enough of msgspec to define its structs, make them, match on them, replace fields of them,
    and take their fields apart and together.
    """
    package = _Absent("msgspec")
    structs = ModuleType("msgspec.structs")
    package.Struct, package.Meta, package.MsgspecError = (
        Struct,
        _Meta,
        type("MsgspecError", (ValueError,), {}),
    )  # type: ignore[attr-defined]
    structs.replace = dataclasses.replace  # type: ignore[attr-defined]
    structs.fields = dataclasses.fields  # type: ignore[attr-defined]
    structs.FieldInfo = dataclasses.Field  # type: ignore[attr-defined]
    structs.asdict = lambda struct: dict(vars(struct))  # type: ignore[attr-defined]
    package.convert = lambda value, type: value  # bounds are checked where msgspec is
    package.to_builtins = lambda value: value
    package.ValidationError = package.MsgspecError
    package.structs = structs  # type: ignore[attr-defined]
    return package, structs, _Absent("msgspec.msgpack"), _Absent("msgspec.json")


def _llguidance() -> tuple[ModuleType, ...]:
    """Enough of llguidance to be imported and to have its limits named."""
    package = _Absent("llguidance")
    arrays = _Absent("llguidance.numpy")
    package.LLParserLimits = dict
    package.numpy = arrays  # type: ignore[attr-defined]
    return package, arrays


class _Meta:
    """An annotation's bounds, which only decoding checks."""

    def __init__(self, **_: object) -> None: ...


@dataclass_transform(frozen_default=True)
class Struct:
    """A frozen dataclass of what is annotated; options that tell how to encode it are taken and do
    nothing.
    """

    def __init_subclass__(cls, **_: object) -> None:
        for name in vars(cls).get("__annotations__", {}):
            if isinstance(
                vars(cls).get(name), list
            ):  # msgspec copies an empty list for each struct
                setattr(cls, name, dataclasses.field(default_factory=list))
        dataclasses.dataclass(frozen=True)(cls)


def pytest_configure() -> None:
    """As a plugin of pytest."""
    stand_in()
