"""Puts the report of `train` beside its records."""

from typing import Any

from samestyle.encoder.registry import local_copy
from samestyle.progress import say
from samestyle.settings import to_yaml
from samestyle.tables.reporting import in_short
from samestyle.tables.workshop import Workshop


def write_training_report(workshop: Workshop, training: dict[str, Any], data: dict[str, Any]) -> None:
    """Write `<run>/report.html`. Never raises: an encoder is not to be lost by its report."""
    target = workshop.run.path / "report.html"
    try:
        from samestyle.report.training import TrainingReport, render_training  # matplotlib takes a second to import

        card = (local_copy(workshop.store, training["encoder_id"]) / "card.md").read_text(encoding="utf-8")
        report = TrainingReport(workshop.run.run_id, training, data, card, to_yaml(workshop.settings))
        target.write_text(render_training(report), encoding="utf-8")
    except Exception as error:
        say(f"no report {target}: {in_short(error)}")
        return
    say(f"report {target}")
