"""Grounded video models: what, where and when."""

from projects.common import compat

compat.apply()
