"""Reports on runs: `python -m esc_jax.report`.

command.py is the command; runs.py reads what runs leave, compare.py tells two of them apart, tables.py has what
Markdown and HTML share, page.py is the HTML page, media.py the clips on it.
"""
