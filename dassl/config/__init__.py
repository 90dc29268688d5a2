"""The engine's configuration: defaults, merging of YAML files and KEY VALUE pairs, and checks, with clear errors."""

from .check import check_values, refuse_unread
from .defaults import get_cfg_default
from .merge import Recipe, composed_tree, declared_defaults, flatten, merge_file, merge_opts

__all__ = [
    "Recipe",
    "check_values",
    "composed_tree",
    "declared_defaults",
    "flatten",
    "get_cfg_default",
    "merge_file",
    "merge_opts",
    "refuse_unread",
]
