"""Reports: one HTML file each, without server, network or patient names."""

from ldct_denoise.report.apply import write_apply_report
from ldct_denoise.report.evaluation import write_report

__all__ = ["write_apply_report", "write_report"]
