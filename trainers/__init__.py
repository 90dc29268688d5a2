"""Methods, one a file. Importing the package registers all of them."""

from yacs.config import CfgNode

from . import gopro, zeroshot

_METHODS = (gopro, zeroshot)


def add_config(cfg: CfgNode) -> None:
    """Declare the config keys of every method, each beside its code, with the published defaults."""
    for method in _METHODS:
        method.add_config(cfg)
