"""Theorem 3.1 of Wen, Li and Jia 2020: the bound, its terms, and what they are made of."""

from robustlens.explain.bound.covering import covering, intrinsic_dimension
from robustlens.explain.bound.instance_margins import instance_margins
from robustlens.explain.bound.measure import bound, measure_bound

__all__ = ["bound", "covering", "instance_margins", "intrinsic_dimension", "measure_bound"]
