"""Readers of the data sets; importing this package registers them all by their class names."""

import importlib
import pkgutil

PROGRAMS = {"check", "prepare"}  # `python -m` runs them; imported here too they would exist twice

for _module in pkgutil.iter_modules(__path__):
    if not _module.ispkg and _module.name not in PROGRAMS:
        importlib.import_module(f"{__name__}.{_module.name}")
