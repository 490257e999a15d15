"""Observed values -> histograms -> quantization ranges: exact, mergeable, computed after the data is gone."""

from __future__ import annotations

from trtkit.ranges.channels import ChannelRange, ChannelSums
from trtkit.ranges.estimators import estimate
from trtkit.ranges.histogram import Histogram
from trtkit.ranges.learned import Learned, LearnedGrid, LearnedScales
from trtkit.ranges.table import CalibrationTable

__all__ = ["CalibrationTable", "ChannelRange", "ChannelSums", "Histogram", "Learned", "LearnedGrid", "LearnedScales",
           "estimate"]
