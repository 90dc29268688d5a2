"""Registry of classes and functions by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from dassl.names import choose

T = TypeVar("T", bound=Callable[..., Any])


class Registry:
    """Names to objects, filled by decorators.

    Args:
        name: What it registers, for messages, e.g. TRAINER.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._objects: dict[str, Any] = {}

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Register an object under its `__name__`: as a decorator, `@R.register()`, or a call, `R.register(obj)`.

        Args:
            obj: The object, or None for the decorator.
            force: Replace an object of the same name.

        Raises:
            KeyError: The name is taken and `force` is off.
        """
        if obj is None:

            def decorate(target: T) -> T:
                self._add(target, force)
                return target

            return decorate
        self._add(obj, force)
        return obj

    def _add(self, obj: Any, force: bool) -> None:
        known = self._objects.get(obj.__name__)
        # Importing the same file twice under one name is no conflict.
        same = known is not None and (known.__module__, known.__qualname__) == (
            obj.__module__,
            obj.__qualname__,
        )
        if known is not None and not same and not force:
            raise KeyError(f"{self._name} {obj.__name__!r} is already registered by {known.__module__}")
        self._objects[obj.__name__] = obj

    def get(self, name: str) -> Any:
        """The object of that name.

        Raises:
            ValueError: Unknown name; close matches and all names are given.
        """
        return self._objects[choose(name, self.registered_names(), self._name)]

    def registered_names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._objects)
