"""Quantization-aware training: fake quantization where the target's lowering puts Q/DQ, on the same grids."""
