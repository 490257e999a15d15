"""FP16, BF16 and FP8: typed tensors, and the nodes that stay in FP32."""
