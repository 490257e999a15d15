"""Weights of matrix products: dynamic INT8, INT4."""
