"""Where quantization goes on each runtime: rules as data, and a graph's points by them."""

from trtkit.quant.placement.layers import end_layers, has_bias, is_depthwise, row_bias, weight_axis
from trtkit.quant.placement.placing import place
from trtkit.quant.placement.points import Points, Weight
from trtkit.quant.placement.rules import PLACEMENTS, OpKind, Placement, get_placement

__all__ = ["PLACEMENTS", "OpKind", "Placement", "Points", "Weight", "end_layers", "get_placement", "has_bias",
           "is_depthwise", "place", "row_bias", "weight_axis"]
