"""Protocols: which clips are used for training, validation and testing.

`holdout`     Train on the other folds for a fixed number of epochs. Test once, at the end.
`validation`  Hold out one more fold to select the epoch. Test once, at the end.
`oracle`      Select the epoch on the test fold itself, as published numbers often do. Every report marks such results.
`all`         Train on every clip for a fixed number of epochs, and test nothing: the model to deploy.
"""

import collections
from collections.abc import Sequence
import dataclasses
import fractions
import hashlib

from esc_jax.data.rows import DataError
from esc_jax.errors import counted

PROTOCOLS = ("holdout", "validation", "oracle", "all")
SELECTING = ("validation", "oracle")  # those that select an epoch
BACKGROUND_FOLD = -1  # of clips that are never tested: they train in every split
NO_FOLD = -2  # the test fold of the protocol `all`


def name_folds(folds: Sequence[int]) -> str:
    """ "fold 1", or "folds 1, 2"."""
    return f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}"


@dataclasses.dataclass(frozen=True)
class Split:
    """Indices of the clips of every part.

    Attributes:
        train, validation, test: indices of clips; `validation` is empty except under the protocol of that name, and
            `test` is empty under the protocol `all`.
        train_folds, validation_folds, test_folds: their folds.
        leaky: source recordings with clips in more than one of training, validation and test.
        dropped: indices left out of training or validation because of `leaky`.
        calibration: indices of training clips that are held out to fit the calibration (`hold_out`).
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    train_folds: tuple[int, ...]
    validation_folds: tuple[int, ...]
    test_folds: tuple[int, ...]
    leaky: tuple[str, ...]
    dropped: tuple[int, ...]
    calibration: tuple[int, ...] = ()

    def report(self) -> str:
        """Returns a sentence with the size and the folds of every part."""

        def part(name: str, indices: Sequence[int], folds: Sequence[int]) -> str:
            return f"{name} {counted(len(indices), 'clip')} ({name_folds(folds)})"

        parts = [part("train", self.train, self.train_folds)]
        if self.validation:
            parts.append(part("validation", self.validation, self.validation_folds))
        if self.calibration:
            parts.append(part("calibration", self.calibration, self.train_folds))
        parts.append(part("test", self.test, self.test_folds) if self.test else "test none (protocol all)")
        text = ", ".join(parts)
        if self.leaky:
            kept = (
                f"left out of training or validation ({counted(len(self.dropped), 'clip')})" if self.dropped else "kept"
            )
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
        test_fold: the fold to test on; ignored under the protocol `all`. The validation fold is the next one, or the
            first after the last.
        drop_leaky_sources: leave out training clips whose recording is also in the validation or test fold, and
            validation clips whose recording is also in the test fold.

    Raises:
        DataError: the data set has no such fold or too few folds for the protocol, or no validation clip is left.
    """
    have = sorted(set(folds))
    if protocol == "all":
        return Split(tuple(range(len(folds))), (), (), tuple(have), (), (), (), ())
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


def assign_folds(groups: Sequence[str], targets: Sequence[Sequence[int]], folds: int) -> list[int]:
    """Assigns every clip a fold, 1 … folds: the clips of a group together, and every class as evenly as possible.

    Groups are assigned in turn, larger ones first and groups of one size in the order of the SHA-256 of their names.
    Each is added to the fold in which its classes have the smallest share of their clips so far; of equal folds, to the
    smallest one, then to the first. The result depends on the names and on the classes only.

    Args:
        groups: source recording of every clip.
        targets: class indices of every clip.
        folds: number of folds.

    Returns:
        The fold of every clip.
    """
    members: dict[str, list[int]] = collections.defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    totals = collections.Counter(target for clip in targets for target in clip)
    counts: list[dict[int, int]] = [collections.defaultdict(int) for _ in range(folds)]
    sizes = [0] * folds
    order = sorted(members, key=lambda group: (-len(members[group]), hashlib.sha256(group.encode()).digest()))
    assigned = [0] * len(groups)
    for group in order:
        numbers = collections.Counter(target for i in members[group] for target in targets[i])
        # Python's floats, added in the order of the classes: the same sums on every machine.
        weights = [(target, number / totals[target] ** 2) for target, number in sorted(numbers.items())]
        shares = [round(sum(count[target] * weight for target, weight in weights), 12) for count in counts]
        fold = min(range(folds), key=lambda i: (shares[i], sizes[i]))
        for target, number in numbers.items():
            counts[fold][target] += number
        sizes[fold] += len(members[group])
        for index in members[group]:
            assigned[index] = fold + 1
    return assigned


def hold_out(split: Split, sources: Sequence[str], targets: Sequence[Sequence[int]], share: float) -> Split:
    """Moves about a share of the training clips to `calibration`, whole recordings and every class alike.

    Args:
        split: of the clips.
        sources, targets: source recording and class indices of every clip of the data set.
        share: of the training clips, in (0, ½].
    """
    # As few parts as possible: there may be few recordings.
    nearest = fractions.Fraction(share).limit_denominator(10)
    parts, number = (nearest.denominator, nearest.numerator) if share >= 0.1 else (round(1 / share), 1)
    held_out = parts - number
    folds = assign_folds([sources[i] for i in split.train], [targets[i] for i in split.train], parts)
    calibration = tuple(i for i, fold in zip(split.train, folds, strict=True) if fold > held_out)
    train = tuple(i for i, fold in zip(split.train, folds, strict=True) if fold <= held_out)
    if not calibration or not train:
        recordings = len({sources[i] for i in split.train})
        raise DataError(
            f"train.calibration_share={share:g} of {recordings} training recordings cannot be held out: raise it, or"
            " set it to 0"
        )
    return dataclasses.replace(split, train=train, calibration=calibration)
