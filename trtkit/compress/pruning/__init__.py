"""Weights and channels taken out of a module."""
