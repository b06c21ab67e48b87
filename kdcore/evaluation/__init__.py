"""How good a network is, and how sure that is: scores, one long table of them, comparisons."""

from kdcore.evaluation import figures, tables
from kdcore.evaluation.metrics import (
    absent_labels,
    agreement,
    calibration,
    dice,
    evaluate,
    mean_dice,
)
from kdcore.evaluation.published import beside_published
from kdcore.evaluation.report import write_report
from kdcore.evaluation.scores import (
    describe,
    from_contract,
    mean_of,
    per_case,
    per_patient,
    per_seed,
    read_results,
    read_table,
    table_of,
    to_contract,
    where_present,
    write_results,
    write_table,
)
from kdcore.evaluation.statistics import compare, equivalence, gap_closed, holm
from kdcore.evaluation.teaching import Fidelity, TeachingReport, check_teaching, fidelity

__all__ = [
    "Fidelity",
    "TeachingReport",
    "absent_labels",
    "agreement",
    "beside_published",
    "calibration",
    "check_teaching",
    "compare",
    "describe",
    "dice",
    "equivalence",
    "evaluate",
    "fidelity",
    "figures",
    "from_contract",
    "gap_closed",
    "holm",
    "mean_dice",
    "mean_of",
    "per_case",
    "per_patient",
    "per_seed",
    "read_results",
    "read_table",
    "table_of",
    "tables",
    "to_contract",
    "where_present",
    "write_report",
    "write_results",
    "write_table",
]
