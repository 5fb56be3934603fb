"""Writing the result files of an evaluation or comparison: CSV, JSON, HTML and PDF."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from ldct_denoise import __version__
from ldct_denoise.evaluation.results import Evaluation
from ldct_denoise.evaluation.tables import Measurement, pseudonyms, summarise_patients
from ldct_denoise.output import atomic_write, make_output_folder
from ldct_denoise.report.identity import NO_SIGNATURE, Signature
from ldct_denoise.report.verdict import evaluation_answer

COLUMNS = ("series", "position_mm", "model", "window", "region", "metric", "value")


def write_comparison(
    evaluation: Evaluation,
    output: Path,
    *,
    overwrite: bool = False,
    include_patient_ids: bool = False,
    signature: Signature = NO_SIGNATURE,
) -> None:
    """Write ``metrics.csv``, ``summary.json`` and ``report.html`` of a comparison into a folder.

    Parameters
    ----------
    evaluation : Evaluation
        From :func:`~ldct_denoise.evaluation.compare.compare`.
    output : Path
        Created if it does not exist.
    overwrite : bool
        Write into a folder that is not empty.
    include_patient_ids : bool
        Show patient IDs; otherwise patients are numbered.
    signature : Signature
        Author and site.

    Raises
    ------
    OutputError
        If the folder is not empty and ``overwrite`` is not given.
    """
    from ldct_denoise.report.comparison import write_comparison_report

    make_output_folder(output, overwrite)
    write_tables(evaluation, output, include_patient_ids=include_patient_ids)
    write_comparison_report(
        evaluation, output / "report.html", include_patient_ids=include_patient_ids, signature=signature
    )


def write_evaluation(
    evaluation: Evaluation,
    output: Path,
    *,
    overwrite: bool = False,
    include_patient_ids: bool = False,
    signature: Signature = NO_SIGNATURE,
    pdf: bool = False,
) -> None:
    """Write ``metrics.csv``, ``summary.json`` and ``report.html`` of an evaluation into a folder.

    Parameters
    ----------
    evaluation : Evaluation
        From :func:`~ldct_denoise.evaluation.evaluate.evaluate`.
    output : Path
        Created if it does not exist.
    overwrite : bool
        Write into a folder that is not empty.
    include_patient_ids : bool
        Show patient IDs; otherwise patients are numbered.
    signature : Signature
        Author and site.
    pdf : bool
        Also write ``summary.pdf``: a page to read, and a page of numbers.

    Raises
    ------
    OutputError
        If the folder is not empty and ``overwrite`` is not given.
    """
    from ldct_denoise.report.evaluation import write_report
    from ldct_denoise.report.pdf import write_summary_pdf

    make_output_folder(output, overwrite)
    write_tables(evaluation, output, include_patient_ids=include_patient_ids)
    write_report(evaluation, output / "report.html", include_patient_ids=include_patient_ids, signature=signature)
    if pdf:
        write_summary_pdf(
            evaluation, output / "summary.pdf", include_patient_ids=include_patient_ids, signature=signature
        )


def write_tables(evaluation: Evaluation, output: Path, *, include_patient_ids: bool = False) -> None:
    """Write ``metrics.csv`` and ``summary.json``.

    Parameters
    ----------
    evaluation : Evaluation
    output : Path
        Existing folder.
    include_patient_ids : bool
        Use patient IDs; otherwise patients are numbered.
    """
    atomic_write(output / "metrics.csv", lambda path: _write_csv(evaluation.rows, path))
    names = pseudonyms(evaluation.patients, include_patient_ids)
    answer, checks = evaluation_answer(evaluation)
    summary = {
        "software": f"ldct-denoise {__version__}",
        "answer": answer,
        "checks": [{"name": check.name, "status": check.status, "reason": check.reason} for check in checks],
        "notes": list(evaluation.notes),
        "windows": {w.name: {"low_hu": w.low_hu, "high_hu": w.high_hu} for w in evaluation.windows},
        "regions": [region.name for region in evaluation.regions],
        "series": len(evaluation.patients),
        "patients": len(names),
        "summary": evaluation.summary(),
        "per_patient": [
            {**entry, "patient": names[str(entry["patient"])]}
            for entry in summarise_patients(evaluation.rows, evaluation.patients)
        ],
        **evaluation.extra,
    }
    text = json.dumps(summary, indent=1, allow_nan=False)
    atomic_write(output / "summary.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))


def _write_csv(rows: Iterable[Measurement], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([row.series, f"{row.position_mm:.3f}", *row[2:6], f"{row.value:.7g}"])
