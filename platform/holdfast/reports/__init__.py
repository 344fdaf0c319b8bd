"""Reports: what an engineer writes, and the registry that the processes load them into."""

from holdfast.reports.broken import BrokenReport
from holdfast.reports.loading import load_reports
from holdfast.reports.params import Claim, Params
from holdfast.reports.registry import Registry
from holdfast.reports.report import Data, Query, Report, ReportSpec, Row, variants

__all__ = [
    "BrokenReport",
    "Claim",
    "Data",
    "Params",
    "Query",
    "Registry",
    "Report",
    "ReportSpec",
    "Row",
    "load_reports",
    "variants",
]
