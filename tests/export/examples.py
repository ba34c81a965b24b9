"""The usage example in an exported model card."""

import pathlib
import re


def example_of(directory: pathlib.Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL)
    return code
