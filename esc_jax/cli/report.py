"""Reports on all runs in a folder, or compares two runs.

    esc-jax report runs                        writes report.md, report.html and pictures into runs/report
    esc-jax report runs --ensemble a b         also reports the mean of the predictions of runs/a and runs/b
    esc-jax report --compare runs/a runs/b     prints the difference of the scores with its confidence interval

report.html is one file that needs no network. Its tables can be sorted, and the mistakes of the best run can be played.
"""

import sys

from esc_jax.cli import parser as arguments
from esc_jax.cli.command import command


def _parser() -> arguments.Parser:
    parser = arguments.Parser("report", __doc__)
    add = parser.add_argument
    add("runs_dir", metavar="RUNS_DIR", nargs="?", type=arguments.path, help="folder of the runs")
    add("--out", metavar="REPORT_DIR", type=arguments.path, help="folder of the report (default: RUNS_DIR/report)")
    pair = ("RUN_A", "RUN_B")
    add(
        "--compare",
        metavar=pair,
        nargs=2,
        type=arguments.path,
        help="two runs to compare on the clips that both tested",
    )
    add("--ensemble", metavar="RUN", nargs="+", default=(), help="runs below RUNS_DIR to average, with all their seeds")
    add("--average", choices=("probabilities", "logits"), help="of the ensemble (default: probabilities)")
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = _parser()
    options = parser.parse(argv)
    if (options.runs_dir is None) == (options.compare is None):
        parser.error("give RUNS_DIR, or two runs as --compare RUN_A RUN_B")
    if options.compare and options.out:
        parser.error("--compare prints its result and takes no --out")
    if options.ensemble and options.compare:
        parser.error("--ensemble is for a report: give RUNS_DIR instead of --compare")
    if options.average and not options.ensemble:
        parser.error("--average is for --ensemble")
    from esc_jax.report import write  # imports numpy and matplotlib, which --help does not need

    if options.compare:
        sys.stdout.write(f"{write.compare_runs(*options.compare)}\n")
        return
    out = options.out or options.runs_dir / "report"
    findings = write.write_report(options.runs_dir, out, options.ensemble, options.average or "probabilities")
    sys.stdout.write(f"{write.summary(findings)}\nreport: {out / 'report.html'} and report.md\n")
