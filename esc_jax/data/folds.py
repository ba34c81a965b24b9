"""Protocols: which clips are used for training, validation and testing.

`holdout`     Train on the other folds for a fixed number of epochs. Test once, at the end.
`validation`  Hold out one more fold to select the epoch. Test once, at the end.
`oracle`      Select the epoch on the test fold itself, as published numbers often do. Every report marks such results.
"""

import collections
from collections.abc import Sequence
import dataclasses

from esc_jax.data.rows import DataError

PROTOCOLS = ("holdout", "validation", "oracle")


@dataclasses.dataclass(frozen=True)
class Split:
    """Indices of the clips of every part.

    Attributes:
        train, validation, test: indices of clips; `validation` is empty except under the protocol of that name.
        train_folds, validation_folds, test_folds: their folds.
        leaky: source recordings with clips in more than one of training, validation and test.
        dropped: indices left out of training or validation because of `leaky`.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    train_folds: tuple[int, ...]
    validation_folds: tuple[int, ...]
    test_folds: tuple[int, ...]
    leaky: tuple[str, ...]
    dropped: tuple[int, ...]

    def report(self) -> str:
        """Returns a sentence with the size and the folds of every part."""

        def part(name: str, indices: Sequence[int], folds: Sequence[int]) -> str:
            return f"{name} {len(indices)} clips (fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))})"

        parts = [part("train", self.train, self.train_folds)]
        if self.validation:
            parts.append(part("validation", self.validation, self.validation_folds))
        parts.append(part("test", self.test, self.test_folds))
        text = ", ".join(parts)
        if self.leaky:
            kept = f"left out of training or validation ({len(self.dropped)} clips)" if self.dropped else "kept"
            text += f"; recordings in more than one part: {', '.join(self.leaky)}, {kept}"
        return text


def _enumerate(numbers: Sequence[int]) -> str:
    words = [str(n) for n in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def split(
    folds: Sequence[int],
    sources: Sequence[str],
    protocol: str,
    test_fold: int,
    drop_leaky_sources: bool = False,
) -> Split:
    """Splits clips by fold.

    Args:
        folds: fold of every clip.
        sources: source recording of every clip.
        protocol: one of PROTOCOLS.
        test_fold: the fold to test on. The validation fold is the next one, or the first after the last.
        drop_leaky_sources: leave out training clips whose recording is also in the validation or test fold, and
            validation clips whose recording is also in the test fold.

    Raises:
        DataError: the data set has no such fold or too few folds for the protocol, or no validation clip is left.
    """
    have = sorted(set(folds))
    if test_fold not in have:
        raise DataError(
            f"data.test_fold={test_fold}: this data set has fold{'s' if len(have) > 1 else ''} {_enumerate(have)};"
            f" choose one of them, for example --config.data.test_fold={have[-1]}"
        )
    needed = 3 if protocol == "validation" else 2
    if len(have) < needed:
        raise DataError(f"protocol={protocol} needs {needed} folds, and this data set has {len(have)}")
    validation_folds = (have[(have.index(test_fold) + 1) % len(have)],) if protocol == "validation" else ()
    train_folds = tuple(f for f in have if f != test_fold and f not in validation_folds)

    of_fold: dict[int, list[int]] = collections.defaultdict(list)
    for index, fold in enumerate(folds):
        of_fold[fold].append(index)
    test, validation = of_fold[test_fold], [i for f in validation_folds for i in of_fold[f]]
    train = [i for f in train_folds for i in of_fold[f]]
    test_sources = {sources[i] for i in test}
    held_out_sources = test_sources | {sources[i] for i in validation}
    shared = [i for i in train if sources[i] in held_out_sources] + [
        i for i in validation if sources[i] in test_sources
    ]
    dropped = sorted(shared) if drop_leaky_sources else []
    train, validation = (sorted(set(part) - set(dropped)) for part in (train, validation))
    if validation_folds and not validation:
        raise DataError(
            "data.drop_leaky_sources leaves no clip to validate on: all are of recordings that are tested on"
        )

    assert not set(train) & set(test) and not set(train) & set(validation) and not set(test) & set(validation)
    return Split(
        train=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
        train_folds=train_folds,
        validation_folds=validation_folds,
        test_folds=(test_fold,),
        leaky=tuple(sorted({sources[i] for i in shared})),
        dropped=tuple(dropped),
    )
