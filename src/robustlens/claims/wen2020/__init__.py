"""Wen, Li and Jia (ICML 2020): the quantities of the paper, and its claims."""
