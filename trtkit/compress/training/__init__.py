"""The training loop that fine-tuning, distillation and quantization-aware training share."""
