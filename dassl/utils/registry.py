"""Registry of classes and functions by name."""

from __future__ import annotations

from functools import partial
from typing import Any

from dassl.names import choose


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

        Raises:
            KeyError: The name is taken and `force` is off.
        """
        if obj is None:
            return partial(self.register, force=force)
        known = self._objects.get(obj.__name__)
        # Importing the same file twice under one name is no conflict.
        same = known is not None and (known.__module__, known.__qualname__) == (obj.__module__, obj.__qualname__)
        if known is not None and not same and not force:
            raise KeyError(f"{self._name} {obj.__name__!r} is already registered by {known.__module__}")
        self._objects[obj.__name__] = obj
        return obj

    def get(self, name: str) -> Any:
        """The object of that name.

        Raises:
            ValueError: Unknown name; close matches and all names are given.
        """
        return self._objects[choose(name, self.registered_names(), self._name)]

    def registered_names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._objects)
