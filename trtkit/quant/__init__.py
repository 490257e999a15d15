"""FP32 ONNX + calibration table -> the ONNX that a target runs fastest: typed FP16, or INT8 with Q/DQ."""

from trtkit.quant.feeds import feeds_like
from trtkit.quant.lower import Lowered, check_lowered, lower
from trtkit.quant.placement import PLACEMENTS, Placement

__all__ = ["PLACEMENTS", "Lowered", "Placement", "check_lowered", "feeds_like", "lower"]
