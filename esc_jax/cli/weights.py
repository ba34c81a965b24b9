"""Lists the weights that are known by name, and downloads them.

    esc-jax weights list
    esc-jax weights get mn04_as

A name can be given wherever weights are: esc-jax predict --model=mn04_as FILE, --config.model.pretrained=mn04_as, and
esc_jax.load_classifier("mn04_as"). Files are kept in the cache and downloaded once. An interrupted download continues.
The column "checked by" says which SHA-256 a file must have: the one that esc_jax knows, or the one of the first
download, which is stored. Files of the Hugging Face hub are checked and cached by huggingface_hub. The first classifier
of the list is included in esc_jax, and is not downloaded.
"""

import sys

from esc_jax.cli import parser as arguments
from esc_jax.cli.command import command
from esc_jax.pretrained import catalog


def _checked_by(weights: catalog.Weights) -> str:
    if weights.included:
        return "–"
    if weights.sha256:
        return "known SHA-256"
    return "first download" if weights.url else "huggingface_hub"


def _table() -> str:
    from esc_jax.pretrained import fetch

    rows = [
        ("name", "model.name", "classes", "rate, Hz", "licence", "size, MB", "checked by", "in the cache", "source")
    ]
    for weights in catalog.CATALOG.values():
        checked = _checked_by(weights)
        present = "–" if weights.hub_id else "yes" if fetch.local_file(weights) else "no"
        size = f"{weights.size / 1e6:.1f}" if weights.size else "–"
        rate, labels = str(weights.sample_rate or "–"), weights.labels or "none"
        rows.append(
            (weights.name, weights.architecture, labels, rate, weights.licence, size, checked, present, weights.source)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


@command
def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = arguments.Parser("weights", __doc__)
    parser.add_argument("action", metavar="ACTION", type=arguments.choice("list", "get"), help="list, or get NAME …")
    parser.add_argument("names", nargs="*", metavar="NAME", help="weights to download")
    arguments.add_offline(parser)
    options = parser.parse(argv)
    if options.action == "list":
        if options.names:
            parser.error("list takes no names")
        sys.stdout.write(_table())
        return
    if not options.names:
        parser.error("get needs the name of weights; see esc-jax weights list")
    for name in options.names:
        if name not in catalog.CATALOG:
            parser.error(f"there are no weights {name}{arguments.nearest(name, catalog.CATALOG)}")
    from esc_jax.pretrained import fetch  # imports numpy, which --help does not need

    for name in options.names:
        sys.stdout.write(f"{name}: {fetch.download(name)}\n")
