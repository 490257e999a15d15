"""TensorRT 8.5 to 10 without strong typing: calibration cache, DLA."""
