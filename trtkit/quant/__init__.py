"""FP32 ONNX + calibration table -> the ONNX that a target runs fastest: typed FP16, or INT8 with Q/DQ."""

from trtkit.quant.budget.search import WithinBudget, lower_within
from trtkit.quant.budget.sensitivity import Sensitivity, measure_sensitivity
from trtkit.quant.feeds import feeds_like
from trtkit.quant.lower import Lowered, check_lowered, lower
from trtkit.quant.placement import PLACEMENTS, Placement

__all__ = ["PLACEMENTS", "Lowered", "Placement", "Sensitivity", "WithinBudget", "check_lowered", "feeds_like", "lower",
           "lower_within", "measure_sensitivity"]
