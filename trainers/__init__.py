"""Methods, a file or a folder each; importing the package registers all of them: what declares config keys is one.

`load_run` and `zero_shot` give a trained or untrained model that answers (`loaded_run`).
"""

import importlib
import pkgutil

from yacs.config import CfgNode

from dassl.config.check import Rule

# `python -m` runs programs, and imported here too they would exist twice; pictures are drawn when somebody asks.
_LATER = {"explain", "export", "words"}
_METHODS = [
    method
    for module in pkgutil.iter_modules(__path__)
    if module.name not in _LATER
    and hasattr(method := importlib.import_module(f"{__name__}.{module.name}"), "add_config")
]
RULES: dict[str, Rule] = {key: rule for method in _METHODS for key, rule in method.RULES.items()}


def add_config(cfg: CfgNode) -> None:
    """Declare the config keys of every method, each beside its code, with the published defaults."""
    for method in _METHODS:
        method.add_config(cfg)


from .loaded_run import LoadedRun, Prediction, load_run, zero_shot  # noqa: E402  reads what is above

__all__ = ["RULES", "LoadedRun", "Prediction", "add_config", "load_run", "zero_shot"]
