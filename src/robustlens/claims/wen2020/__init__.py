"""Wen, Li and Jia (ICML 2020): the quantities that the paper speaks of, and what it claims of them."""
