"""Methods, a file or a folder each; importing the package registers all of them: what declares config keys is one."""

import importlib
import pkgutil

from yacs.config import CfgNode

from dassl.config.check import Rule

_METHODS = [
    method
    for module in pkgutil.iter_modules(__path__)
    if hasattr(method := importlib.import_module(f"{__name__}.{module.name}"), "add_config")
]
RULES: dict[str, Rule] = {key: rule for method in _METHODS for key, rule in method.RULES.items()}


def add_config(cfg: CfgNode) -> None:
    """Declare the config keys of every method, each beside its code, with the published defaults."""
    for method in _METHODS:
        method.add_config(cfg)
