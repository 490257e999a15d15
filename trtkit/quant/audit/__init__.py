"""A model quantized by anybody -> why it is not faster on a target, or wrong; and the same model repaired.

    report = audit_quantization(load_model(path), get_target("jetson-orin-jp6"))
    print(report.summary, *report.findings, sep="\\n")
    fixed = fix_quantization(load_model(path), get_target("jetson-orin-jp6")).model
"""

from trtkit.quant.audit.auditing import AuditReport, audit_quantization, confirm_build
from trtkit.quant.audit.fixing import Fixed, fix_quantization
from trtkit.quant.audit.loading import load_quantized

__all__ = ["AuditReport", "Fixed", "audit_quantization", "confirm_build", "fix_quantization", "load_quantized"]
