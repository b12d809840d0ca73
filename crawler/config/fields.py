"""What a setting is, and how a value written for it is read: the base of all sections.

A section is a class whose annotations are its settings: ``key: type = Field(default, description=...)``. A type is built of
``bool``, ``int``, ``float``, ``str``, ``Literal``, ``tuple[type, ...]``, ``dict[str, str]``, a section, ``type | None`` and
``Annotated[type, Check, ...]``. Values may come as text, from flags and the environment, or typed, from a file. Every fault is
found, not only the first.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, NoReturn, Self, get_args, get_origin

from crawler.core.errors import ConfigError

Unit = Literal["size", "time", "auto"]
"""How a number may be written besides: with a unit, or as the word auto."""


class Check:
    """A step of reading a value. ``read`` returns the value in its one final form, or raises ValueError with a sentence that
    tells what to write instead. ``schema`` is what a JSON schema can say of it. With a ``unit`` the value may be text that ends
    in one: it is read before its type is looked at."""

    __slots__ = ("read", "schema", "unit")

    def __init__(self, read: Callable[[Any], Any], schema: Mapping[str, Any] | None = None, unit: Unit | None = None) -> None:
        self.read = read
        self.schema = schema or {}
        self.unit = unit


class Setting(NamedTuple):
    """One setting as it was declared."""

    annotation: Any
    default: Any
    description: str
    examples: Sequence[Any]
    reloadable: bool
    """It may change while a crawl runs."""
    secret: bool
    """It may hold one: its value is repeated nowhere."""

    @property
    def is_required(self) -> bool:
        return self.default is _REQUIRED

    @property
    def unit(self) -> Unit | None:
        """In which its value may be written."""
        return next((check.unit for check in shape_of(self.annotation).checks if check.unit), None)

    @property
    def choices(self) -> tuple[str, ...]:
        """The only values it may have; empty if there are others."""
        base = shape_of(self.annotation).base
        return get_args(base) if get_origin(base) is Literal else ()

    @property
    def is_list(self) -> bool:
        return get_origin(shape_of(self.annotation).base) is tuple

    @property
    def is_number(self) -> bool:
        return shape_of(self.annotation).base in (int, float)


_REQUIRED: Final = object()


def Field(
    default: Any = _REQUIRED,
    *,
    description: str,
    examples: Sequence[Any] = (),
    reloadable: bool = False,
    secret: bool = False,
) -> Any:
    """Declare a setting; it must be given if it has no default. See ``Setting``."""
    return Setting(None, default, description, examples, reloadable, secret)


class Shape(NamedTuple):
    """A type, taken apart."""

    base: Any
    checks: tuple[Check, ...]
    is_optional: bool


@cache
def shape_of(annotation: Any) -> Shape:
    if get_origin(annotation) is UnionType or type(None) in get_args(annotation):
        inner = shape_of(next(kind for kind in get_args(annotation) if kind is not type(None)))
        return inner._replace(is_optional=True)
    if get_origin(annotation) is Annotated:
        inner = shape_of(annotation.__origin__)
        return inner._replace(checks=(*inner.checks, *annotation.__metadata__))
    return Shape(annotation, (), False)


class SettingFault(NamedTuple):
    """What is wrong with a value. ``path`` leads to it: its key, and below that numbers of items and keys. ``value`` is None
    where it must not be repeated."""

    path: tuple[str | int, ...]
    value: Any
    text: str
    is_unknown: bool = False
    """There is no setting of this name."""


class Section:
    """A frozen group of settings. Values are checked when it is made. ConfigError: every fault there is."""

    fields: ClassVar[Mapping[str, Setting]] = {}
    """Its settings by key, as declared."""
    _defaults: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        fields: dict[str, Setting] = {}
        for base in cls.__bases__:
            fields |= base.fields if issubclass(base, Section) else {}
        for key, annotation in cls.__annotations__.items():
            fields[key] = cls.__dict__[key]._replace(annotation=annotation)
            delattr(cls, key)
        cls.fields = fields
        cls._defaults = {key: field.default for key, field in fields.items() if not field.is_required}

    def __init__(self, **values: Any) -> None:
        good, faults = self.read(values)
        if faults:
            raise ConfigError(f"{'.'.join(map(str, fault.path))}: {fault.text}" for fault in faults)
        self.__dict__.update(self._defaults)
        self.__dict__.update(good)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[SettingFault]]:
        """Those values that can be meant, in their final form, and what is wrong with the others."""
        good: dict[str, Any] = {}
        faults: list[SettingFault] = []
        for key, field in cls.fields.items():
            if key not in values:
                if field.is_required:
                    faults.append(SettingFault((key,), None, "is missing"))
                continue
            found: list[SettingFault] = []
            read = _read(field.annotation, values[key], (key,), found)
            if not found:
                good[key] = read
            faults += [fault._replace(value=None) for fault in found] if field.secret else found
        unknown = [key for key in values if key not in cls.fields]
        faults += [SettingFault((key,), None, "there is no such setting", is_unknown=True) for key in unknown]
        return good, faults

    def given(self) -> dict[str, Any]:
        """The settings that are not at their defaults."""
        return {key: value for key, value in vars(self).items() if key not in self._defaults or value != self._defaults[key]}

    def replaced(self, **changes: Any) -> Self:
        """A copy with other values, which must be in their final form: they are not checked."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__ | changes)
        return new

    def __setattr__(self, key: str, value: Any) -> NoReturn:
        raise AttributeError(f"{key} cannot be set: settings are frozen")

    def __delattr__(self, key: str) -> NoReturn:
        raise AttributeError(f"{key} cannot be deleted: settings are frozen")

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(other) is type(self) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        told = (f"{key}={'...' if self.fields[key].secret else repr(value)}" for key, value in self.given().items())
        return f"{type(self).__name__}({', '.join(told)})"


def _read(annotation: Any, value: Any, path: tuple[str | int, ...], faults: list[SettingFault]) -> Any:
    """The value as the type has it; what is wrong with it is added to ``faults``."""
    base, checks, is_optional = shape_of(annotation)
    if value is None and is_optional:
        return None
    known, read = len(faults), value
    try:
        if isinstance(value, bool) and base is not bool and len(path) == 1:
            raise ValueError("must not be true or false")  # ``delay = true`` would be one second
        for check in checks:
            if check.unit:
                read = check.read(read)
        read = _typed(base, read, path, faults)
        if len(faults) == known:
            for check in checks:
                if not check.unit:
                    read = check.read(read)
    except ValueError as error:
        faults.append(SettingFault(path, value, str(error)))
    return read


def _typed(base: Any, value: Any, path: tuple[str | int, ...], faults: list[SettingFault]) -> Any:
    origin = get_origin(base)
    if origin is Literal:
        return _choice(get_args(base), value)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError("must be a list, such as ['one', 'two']")
        item = get_args(base)[0]
        return tuple(_read(item, each, (*path, number), faults) for number, each in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError("must be a table, such as {Name = 'value'}")
        return {_read(str, key, (*path, key), faults): _read(str, each, (*path, key), faults) for key, each in value.items()}
    if base in _SCALARS:
        return _SCALARS[base](value)
    return _table(base, value, path, faults)


def _table(section: type[Section], value: Any, path: tuple[str | int, ...], faults: list[SettingFault]) -> Any:
    if isinstance(value, section):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"must be a table: write [[{path[0]}]] and its settings below it")
    good, below = section.read(value)
    faults += [fault._replace(path=(*path, *fault.path)) for fault in below]
    return value if below else section(**good)


def _choice(choices: tuple[str, ...], value: Any) -> Any:
    if value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"must be one of {', '.join(others)} or {last}")
    return value


_TRUE: Final = (True, "1", "on", "t", "true", "y", "yes")
_FALSE: Final = (False, "0", "off", "f", "false", "n", "no")


def _bool(value: Any) -> bool:
    word = value.lower() if isinstance(value, str) else value
    if word in _TRUE:  # 1, too
        return True
    if word in _FALSE:
        return False
    raise ValueError("must be true or false")


_WHOLE: Final = re.compile(r"\s*[+-]?\d(?:_?\d)*(?:\.0+)?\s*", re.ASCII)
_WHOLE_MAX: Final = (1 << 63) - 1
"""What fits wherever a number is kept or sent. A larger one is taken for a mistake."""


def _int(value: Any) -> int:
    number = _whole(value)
    if abs(number) > _WHOLE_MAX:
        raise ValueError(f"must be a whole number of at most {_WHOLE_MAX}")
    return number


def _whole(value: Any) -> int:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        try:
            return int(value.partition(".")[0])
        except ValueError:  # thousands of digits
            raise ValueError("must be a whole number") from None
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        raise ValueError("must be a whole number")
    if isinstance(value, float) and value != int(value):
        raise ValueError("must be a whole number")
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or (isinstance(value, str) and not value.isascii()):
        raise ValueError("must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except ValueError:
        raise ValueError("must be a number") from None
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return number


def _str(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise ValueError("must be text")
    try:
        value.encode()
    except UnicodeEncodeError:  # of a command line that is not UTF-8
        raise ValueError("must be text in UTF-8") from None
    return value


_SCALARS: Final[Mapping[Any, Callable[[Any], Any]]] = {bool: _bool, int: _int, float: _float, str: _str}
