"""Theorem 3.1 of Wen, Li and Jia 2020: the bound, its terms, and their ingredients."""

from robustlens.explain.bound.covering import covering, intrinsic_dimension
from robustlens.explain.bound.instance_margins import instance_margins
from robustlens.explain.bound.measure import measure_bound
from robustlens.explain.bound.terms import bound

__all__ = ["bound", "covering", "instance_margins", "intrinsic_dimension", "measure_bound"]
