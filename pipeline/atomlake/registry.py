"""Registries: what there is of a kind, by name; classes are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any


class Registry[T]:
    """Classes by name: those listed here, and those that installed packages offer.

    Parameters
    ----------
    what : str
        What the classes are, for messages.
    group : str
        Entry point group of other packages.
    listed : mapping of str to str
        ``"module:Class"`` of each name.
    """

    def __init__(self, what: str, group: str, listed: Mapping[str, str]) -> None:
        self.what = what
        self.group = group
        self.listed = dict(listed)
        self._loaded: dict[str, type[T]] = {}

    def names(self) -> list[str]:
        """Every name, in alphabetical order."""
        return sorted({*self.listed, *self._offered})

    def get(self, name: str) -> type[T]:
        """Return the class of a name.

        Raises
        ------
        KeyError
            If there is no such name; the message lists those that there are.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def attribute(self, name: str) -> Any:
        """Return a listed class by its own name, for ``__getattr__`` of a package.

        Raises
        ------
        AttributeError
            If no listed class has that name.
        """
        for key, path in self.listed.items():
            if path.endswith(f":{name}"):
                return self.get(key)
        raise AttributeError(f"there is no {self.what} class {name!r}")

    def _load(self, name: str) -> type[T]:
        if name in self.listed:
            module, _, attribute = self.listed[name].partition(":")
            return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
        if name in self._offered:
            return self._offered[name].load()  # type: ignore[no-any-return]
        raise KeyError(f"no {self.what} is called {name!r}; there are {self.names()}")

    @cached_property
    def _offered(self) -> dict[str, EntryPoint]:
        """What installed packages offer; finding out takes 8 ms."""
        return {entry.name: entry for entry in entry_points(group=self.group)}
