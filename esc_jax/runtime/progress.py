"""Progress bars of work that reports how much of it is done."""

from collections.abc import Callable, Iterator
import contextlib


@contextlib.contextmanager
def progress_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a progress bar on a terminal until the end of the block.

    Yields:
        A function of the number of units that are done, and of all of them.
    """
    import tqdm

    with tqdm.tqdm(desc=description, unit=unit, leave=False, disable=None) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update
