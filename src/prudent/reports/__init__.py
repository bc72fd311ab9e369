"""Pictures: an HTML report that opens offline, and PNG figures, from a scored file or a study."""

from prudent.reports._alignment import AlignmentReport, alignment_report
from prudent.reports._alignment_runs import alignment_folders
from prudent.reports._extra import need_report_packages
from prudent.reports._figure_files import possible_figures
from prudent.reports._png import plot_curves
from prudent.reports._report import ReportPaths, report

__all__ = [
    "AlignmentReport",
    "ReportPaths",
    "alignment_folders",
    "alignment_report",
    "need_report_packages",
    "plot_curves",
    "possible_figures",
    "report",
]
