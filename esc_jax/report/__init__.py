"""Reports on finished runs, and pictures.

`write.write_report` writes report.md and report.html, `write.compare_runs` compares two runs, `plots` and
`timeline_plot` draw pictures for other parts of the package.
"""
