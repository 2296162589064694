"""The report of a work directory: merged scores and one HTML page.

``results`` reads and checks the files, ``scores`` makes tables of flat keys, ``examples`` chooses
and draws records, ``charts`` draws lines, ``page`` puts it all on one page and ``overview`` on one
picture.
"""

from projects.common.report.overview import write_overview
from projects.common.report.page import write_report
from projects.common.report.results import Results, read_results, write_scores
from projects.common.report.scores import build_tables, find_limits, limits_sentence

__all__ = [
    "Results",
    "build_tables",
    "find_limits",
    "limits_sentence",
    "read_results",
    "write_overview",
    "write_report",
    "write_scores",
]
