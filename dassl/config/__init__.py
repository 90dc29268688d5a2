"""The engine's configuration: defaults, and merging of YAML files and KEY VALUE pairs with clear errors."""

from .defaults import get_cfg_default
from .merge import declared_defaults, flatten, merge_file, merge_opts

__all__ = ["declared_defaults", "flatten", "get_cfg_default", "merge_file", "merge_opts"]
