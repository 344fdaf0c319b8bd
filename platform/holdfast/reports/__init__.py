"""Reports: what an engineer writes, and the registry that the processes load them into."""

from holdfast.reports.params import Claim, Params
from holdfast.reports.registry import Registry, load_reports
from holdfast.reports.report import Data, Query, Report, ReportSpec, Row, variants

__all__ = [
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
