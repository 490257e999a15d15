"""Grids of weights and activations, and the steps that make them fit better; each names its paper."""
