"""Fields of parameter classes: what a key knows beyond its type and default."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import NoneType
from typing import Any, get_type_hints

from git_caption.params import paths
from git_caption.params.fitting import members, spell


@dataclasses.dataclass(frozen=True)
class KeySpec:
    """What a field knows beyond its type and default."""

    help: str = ""
    choices: tuple[Any, ...] | None = None
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    kind: paths.Kind | None = None
    example: Any = None
    aliases: tuple[str, ...] = ()
    group: str | None = None

    def expected(self, hint: Any) -> str:
        """The type and bounds in words, for errors and help."""
        words = " or ".join(spell(member) for member in members(hint) if member is not NoneType)
        if self.choices is not None:
            words = "one of " + ", ".join(map(str, self.choices))
        if self.minimum is not None:
            words += f" of at least {self.minimum}"
        if self.above is not None:
            words += f" above {self.above}"
        if self.maximum is not None and self.maximum < 2**31:
            words += f" and at most {self.maximum}"
        return f"{words} or None" if NoneType in members(hint) else words


@dataclasses.dataclass(frozen=True)
class Entry:
    """One field of a parameter class, or of a group in it."""

    field: dataclasses.Field[Any]
    hint: Any
    spec: KeySpec

    @property
    def name(self) -> str:
        """Name of the field."""
        return self.field.name

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.field.default is dataclasses.MISSING and self.field.default_factory is dataclasses.MISSING

    @property
    def default(self) -> Any:
        """The default value; None where there is none."""
        if self.field.default_factory is not dataclasses.MISSING:
            return self.field.default_factory()
        return None if self.field.default is dataclasses.MISSING else self.field.default


def key(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    factory: Callable[[], Any] | None = None,
    choices: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    kind: paths.Kind | None = None,
    example: Any = None,
    aliases: tuple[str, ...] = (),
) -> Any:
    """A field of a parameter class.

    Args:
        default: value where the key is not given; without one (and without `factory`) the key must be given.
        help: one line of meaning.
        factory: makes the default where it is mutable.
        choices: the values taken, where the type cannot say it.
        minimum: least number taken.
        above: numbers must be greater than this.
        maximum: greatest number taken.
        kind: what a path must be at the time of parsing; see `paths.Kind`.
        example: value for the example that help prints.
        aliases: other names that the key is taken under.
    """
    spec = KeySpec(help, choices, minimum, above, maximum, kind, example, aliases)
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata={"key": spec})
    return dataclasses.field(default=default, metadata={"key": spec})


def group(cls: type[Any], title: str) -> Any:
    """A field holding an instance of `cls`, whose keys stand at the level of the class that holds it."""
    spec = KeySpec(group=title)
    if any(entry.required for entry in entries(cls)):
        return dataclasses.field(metadata={"key": spec})
    return dataclasses.field(default=cls(), metadata={"key": spec})


def entries(cls: type[Any]) -> list[Entry]:
    """The fields of a parameter class, groups as one field each."""
    hints = get_type_hints(cls)
    return [Entry(f, hints[f.name], f.metadata.get("key", KeySpec())) for f in dataclasses.fields(cls)]


def names_of(cls: type[Any]) -> dict[str, str]:
    """Every name a key of `cls` is taken under → its own name."""
    names: dict[str, str] = {}
    for entry in entries(cls):
        if entry.spec.group is not None:
            names |= names_of(entry.hint)
        else:
            names |= {name: entry.name for name in (entry.name, *entry.spec.aliases)}
    return names
