r"""How well detectors tell sounds of unknown classes from those of known ones: classes are left out of the training.

    python benchmarks/novelty.py --data_dir=ESC-50 --pretrained=mn04_as_mAP_432.pt --test_fold=4 --out=novelty.csv

The data set is in the layout of ESC-50. Some classes are known, in many random draws; all others are foreign. A linear
probe and every detector are fitted to clips of known classes of the training folds, all folds but the test fold. The
threshold of a detector marks 3 % of these clips, each scored by a detector that was fitted without its fold. The test
fold then gives

    auroc        area under the ROC curve of known against foreign clips
    roc_marked   share of foreign clips that are marked where 3 % of the known test clips are
    marked       share of foreign clips that are marked at the threshold
    false_marks  share of known clips that are marked at the threshold

as means over the draws, in percent but for `auroc`; the 10 % and 90 % quantiles of `marked` are `marked_low` and
`marked_high`. With `--folds=1,2,3` and without `--test_fold`, each of these folds is the test fold in turn: the
detector of esc_jax was chosen there.

    python benchmarks/novelty.py --data_dir=ESC-50 --pretrained=mn04_as_mAP_432.pt --test_fold=4 --draws=3 \
        --finetune=efficientat_finetune --workdir=runs/novelty

fine-tunes a network for each draw, and tests its detector, whose threshold is set on training clips.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import csv
import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np
from scipy import special, stats

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from esc_jax import config as configs  # noqa: E402
from esc_jax.data import cache  # noqa: E402
from esc_jax.evaluation import novelty  # noqa: E402
from esc_jax.evaluation.novelty import FALSE_MARKS, Novelty  # noqa: E402
from esc_jax.runtime import xla  # noqa: E402

# Rounds over all classes: each class is foreign (of many known classes) or known (of few) in that many draws.
ROUNDS = {45: 2, 10: 4, 4: 4}
FIELDS = (
    "classes", "encoder", "detector", "folds", "draws", "auroc", "roc_marked", "marked", "marked_low", "marked_high",
    "false_marks",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Data:
    """Embeddings (n, D), labels (n,), folds (n,), number of classes, and the published AudioSet head."""

    x: np.ndarray
    labels: np.ndarray
    folds: np.ndarray
    classes: int
    head: Any


@dataclasses.dataclass(frozen=True)
class Training:
    """What a detector is fitted to: embeddings, labels, and the linear head of a probe on them."""

    x: np.ndarray
    labels: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    head: Any

    @property
    def members(self) -> np.ndarray:
        """(n, classes) bool."""
        return novelty.members(self.labels, self.kernel.shape[1])

    @property
    def means(self) -> np.ndarray:
        """(classes, D) class means of the embeddings."""
        return np.stack([self.x[column].mean(axis=0) for column in self.members.T])


# Detectors ----------------------------------------------------------------------------------------------------------

Score = Callable[[np.ndarray], np.ndarray]  # (n, D) embeddings → (n,), larger for known sounds


def energy(training: Training) -> Score:
    """ln Σ exp(logits): W. Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020."""
    return lambda x: special.logsumexp(x @ training.kernel + training.bias, axis=1)


def probability(training: Training) -> Score:
    """Largest softmax probability: D. Hendrycks, K. Gimpel, "A baseline for detecting …", ICLR 2017."""
    return lambda x: special.log_softmax(x @ training.kernel + training.bias, axis=1).max(axis=1)


def ledoit_wolf(centered: np.ndarray) -> np.ndarray:
    """Covariance of centered rows, shrunk to a multiple of the identity (O. Ledoit, M. Wolf, 2004)."""
    rows, width = centered.shape
    covariance = centered.T.astype(np.float64) @ centered / rows
    scale = np.trace(covariance) / width
    distance = (covariance**2).sum() - width * scale**2
    noise = ((centered.astype(np.float64) ** 2).sum(axis=1) ** 2).mean() - (covariance**2).sum()
    shrinkage = np.clip(noise / rows / distance, 0.0, 1.0)
    return (1 - shrinkage) * covariance + shrinkage * scale * np.eye(width)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) squared distances of rows."""
    return (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T


def mahalanobis(training: Training) -> Score:
    """Distance to the nearest class mean, with the shrunk covariance within classes: K. Lee et al., NeurIPS 2018."""
    means = training.means
    whiten = np.linalg.cholesky(np.linalg.inv(ledoit_wolf(training.x - means[training.labels])))
    return lambda x: -squared_distances(x @ whiten, means @ whiten).min(axis=1)


def relative_mahalanobis(training: Training) -> Score:
    """The same minus the distance to the mean of all clips, with their covariance: J. Ren et al., 2021."""
    mean, near = training.x.mean(axis=0), mahalanobis(training)
    whiten = np.linalg.cholesky(np.linalg.inv(ledoit_wolf(training.x - mean)))
    return lambda x: near(x) + (((x - mean) @ whiten) ** 2).sum(axis=1)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length one."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def neighbours(training: Training, k: int = 3) -> Score:
    """Mean cosine similarity to the k nearest clips: Y. Sun et al., ICML 2022."""
    bank = unit(training.x)
    return lambda x: np.sort(unit(x) @ bank.T, axis=1)[:, -k:].mean(axis=1)


def vim(training: Training, dimensions: int = 64) -> Score:
    """Energy minus the scaled norm outside the principal subspace: H. Wang et al., CVPR 2022."""
    origin = -np.linalg.pinv(training.kernel.T) @ training.bias
    centered = training.x - origin
    residual = np.linalg.eigh(centered.T @ centered)[1][:, :-dimensions]
    norms = np.linalg.norm(centered @ residual, axis=1)
    scale = (training.x @ training.kernel + training.bias).max(axis=1).mean() / norms.mean()
    return lambda x: energy(training)(x) - scale * np.linalg.norm((x - origin) @ residual, axis=1)


def class_means(training: Training) -> Score:
    """Cosine similarity to the nearest class mean of centered embeddings: esc_jax, for encoders without a head."""
    return Novelty.fit(training.x, training.members).score


def tags(training: Training) -> Score:
    """The same of square roots of the probabilities of AudioSet's classes."""
    bank = unit(np.sqrt(special.expit(training.head(training.x))))
    means = unit(np.stack([bank[column].mean(axis=0) for column in training.members.T]))
    return lambda x: (unit(np.sqrt(special.expit(training.head(x)))) @ means.T).max(axis=1)


def class_means_and_tags(training: Training) -> Score:
    """Both: esc_jax, for encoders with a published AudioSet head."""
    return Novelty.fit(training.x, training.members, training.head).score


DETECTORS: dict[str, Callable[[Training], Score]] = {
    "energy of the head": energy,
    "largest probability": probability,
    "Mahalanobis": mahalanobis,
    "relative Mahalanobis": relative_mahalanobis,
    "3 nearest neighbours": neighbours,
    "ViM": vim,
    "class means": class_means,
    "AudioSet tags": tags,
    "class means and AudioSet tags": class_means_and_tags,
}


# Evaluation ---------------------------------------------------------------------------------------------------------


def draw_classes(known: int, rounds: int, classes: int) -> Iterator[list[int]]:
    """Known classes of each draw. A round divides all classes into sets of equal size, known or else foreign."""
    rng = np.random.default_rng(known)
    size = min(known, classes - known)
    for _ in range(rounds):
        order = rng.permutation(classes).tolist()
        for start in range(0, len(order) - size + 1, size):
            part = order[start : start + size]
            yield sorted(part if size == known else set(order) - set(part))


def measure(known: np.ndarray, foreign: np.ndarray, threshold: float) -> dict[str, float]:
    """Measures of one draw from the scores of the test clips."""
    area = stats.mannwhitneyu(known, foreign).statistic / (len(known) * len(foreign))
    return {
        "auroc": float(area),
        "roc_marked": 100 * float((foreign < np.quantile(known, FALSE_MARKS)).mean()),
        "marked": 100 * float((foreign < threshold).mean()),
        "false_marks": 100 * float((known < threshold).mean()),
    }


def probe_draw(data: Data, known: Sequence[int], train_folds: Sequence[int], test_fold: int) -> dict[str, dict]:
    """Measures of every detector on the embeddings of a frozen encoder, for one draw."""
    from esc_jax.experiments.probe_heads import L2, STEPS
    from esc_jax.tasks import registry as tasks
    from esc_jax.training import linear_probe

    label = {target: number for number, target in enumerate(known)}
    inside = np.isin(data.labels, known)
    train = np.flatnonzero(inside & np.isin(data.folds, train_folds))
    x, y = data.x[train], np.array([label[target] for target in data.labels[train].tolist()])
    masks = np.stack([data.folds[train] != fold for fold in (None, *train_folds)])
    options: dict[str, Any] = {"task": tasks.get("single_label"), "classes": len(known), "steps": STEPS}
    heads = linear_probe.fit(x, y, masks.astype(np.float32), np.float32(L2), np.arange(1), **options)
    kernels, biases = np.asarray(heads.kernel)[:, :, 0], np.asarray(heads.bias)[:, :, 0]
    correct = sum(
        ((x[~mask] @ kernel + bias[:, None]).argmax(-1) == y[~mask]).sum(-1)
        for mask, kernel, bias in zip(masks[1:], kernels[1:], biases[1:], strict=True)
    )
    best = int(np.argmax(correct))
    parts = [
        Training(x[mask], y[mask], kernel[best], bias[best], data.head)
        for mask, kernel, bias in zip(masks, kernels, biases, strict=True)
    ]
    tested = data.folds == test_fold
    outcome = {}
    for name, detector in DETECTORS.items():
        held_out = [detector(part)(x[~mask]) for part, mask in zip(parts[1:], masks[1:], strict=True)]
        threshold = float(np.quantile(np.concatenate(held_out), FALSE_MARKS))
        score = detector(parts[0])
        outcome[name] = measure(score(data.x[tested & inside]), score(data.x[tested & ~inside]), threshold)
    return outcome


def finetuned_draw(options: Any, data: Data, clips: Any, known: Sequence[int], folder: pathlib.Path) -> dict[str, dict]:
    """Measures of the detector of a network that is fine-tuned on the clips of known classes, and of its energy."""
    from esc_jax.evaluation.predict import predict_clips
    from esc_jax.experiments import single
    from esc_jax.training import step as steps
    from esc_jax.training.restore import restore

    folder.mkdir(parents=True, exist_ok=True)
    table, audio = folder / "clips.csv", pathlib.Path(options.data_dir).resolve() / "audio"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("filename", "category", "fold", "recording"))
        for index in np.flatnonzero(np.isin(data.labels, known)).tolist():
            name = audio / clips.filenames[index]
            writer.writerow((name, clips.classes[data.labels[index]], clips.folds[index], clips.sources[index]))
    config = configs.load(options.finetune)
    config.model.pretrained = options.pretrained
    config.data.update(name="csv", dir=str(table), test_fold=options.test_fold, cache_dir=options.cache_dir)
    if not (folder / "run/results.json").exists():
        single.train_and_evaluate(config, folder / "run")
    restored = restore(folder / "run")
    indices = np.flatnonzero(data.folds == options.test_fold).tolist()
    model = restored.model
    logits, x = predict_clips(steps.outputs_step(model), model.variables, clips, indices, config.eval.batch_size)
    inside = np.isin(data.labels[indices], known)
    detector = novelty.restore(restored)
    assert detector is not None
    scores, energies = detector.score(x[0]), special.logsumexp(logits[0], axis=1)
    name = "class means and AudioSet tags" if detector.head else "class means"
    outcome = {
        "energy of the head": measure(energies[inside], energies[~inside], np.nan),
        name: measure(scores[inside], scores[~inside], detector.threshold),
    }
    for key in ("marked", "false_marks"):  # an energy has no threshold
        outcome["energy of the head"][key] = np.nan
    return outcome


def summarize(outcomes: Sequence[dict[str, dict]], **columns: Any) -> Iterator[dict[str, Any]]:
    """A row for each detector: means over draws."""
    for detector in outcomes[0]:
        values = {key: np.array([outcome[detector][key] for outcome in outcomes]) for key in outcomes[0][detector]}
        row = columns | {"detector": detector, "draws": len(outcomes), "auroc": f"{values['auroc'].mean():.3f}"}
        row |= {key: f"{array.mean():.1f}" for key, array in values.items() if key != "auroc"}
        low, high = np.quantile(values["marked"], (0.1, 0.9))
        row |= {"marked_low": f"{low:.1f}", "marked_high": f"{high:.1f}"}
        yield {key: "" if row[key] == "nan" else row[key] for key in FIELDS if key in row}


def load(options: Any) -> tuple[Data, Any]:
    """The embeddings of the data set, which are cached, and its clips."""
    from esc_jax.data.datasets import registry as datasets
    from esc_jax.inference.embeddings import embed_clips
    from esc_jax.pretrained import audioset
    from esc_jax.pretrained import load as pretrained

    config = configs.load("efficientat_frozen")
    config.model.pretrained = options.pretrained
    config.data.update(dir=options.data_dir, cache_dir=options.cache_dir)
    clips = datasets.load(config.data)
    config, model = pretrained.initialize(config, clips.classes)
    x = embed_clips(model, clips, cache.cache_root(options.cache_dir) / "embeddings")[0]
    return Data(x, clips.labels, np.array(clips.folds), len(clips.classes), audioset.head(config)), clips


def rows(options: Any) -> Iterator[dict[str, Any]]:
    """All rows of the table."""
    data, clips = load(options)
    for known in options.classes:
        draws = list(draw_classes(known, ROUNDS.get(known, 2), data.classes))[: options.draws]
        columns = {"classes": known, "encoder": "fine-tuned" if options.finetune else "frozen"}
        if options.finetune:
            folders = [pathlib.Path(options.workdir) / f"{known}_{number}" for number in range(len(draws))]
            outcomes = [finetuned_draw(options, data, clips, *pair) for pair in zip(draws, folders, strict=True)]
            yield from summarize(outcomes, folds=f"{options.test_fold}", **columns)
            continue
        folds = options.folds or sorted(set(data.folds.tolist()))
        tested = [options.test_fold] if options.test_fold else folds
        outcomes = [
            probe_draw(data, draw, [fold for fold in folds if fold != test], test) for draw in draws for test in tested
        ]
        yield from summarize(outcomes, folds=", ".join(map(str, tested)), **columns)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(number) for number in text.split(",")]  # noqa: E731
    parser.add_argument("--data_dir", required=True, help="data set in the layout of ESC-50")
    parser.add_argument("--pretrained", required=True, help="published EfficientAT checkpoint")
    parser.add_argument("--classes", type=numbers, default=list(ROUNDS), help="numbers of known classes (45,10,4)")
    parser.add_argument("--folds", type=numbers, help="folds to use (default: all)")
    parser.add_argument("--test_fold", type=int, help="test fold (default: each in turn)")
    parser.add_argument("--draws", type=int, help="largest number of draws for each number of classes")
    parser.add_argument("--finetune", default="", help="config of a network to fine-tune for each draw")
    parser.add_argument("--workdir", default="runs/novelty", help="folder of the fine-tuned networks")
    parser.add_argument("--cache_dir", default="", help="prepared data and embeddings (default: the user's cache)")
    parser.add_argument("--out", help="csv file to write (default: the terminal)")
    options = parser.parse_args()
    if options.finetune and not options.test_fold:
        parser.error("--finetune needs --test_fold")
    xla.initialize(library=True)
    with contextlib.ExitStack() as stack:
        out = options.out
        file = stack.enter_context(open(out, "w", newline="", encoding="utf-8")) if out else sys.stdout
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for row in rows(options):
            writer.writerow(row)
            file.flush()


if __name__ == "__main__":
    main()
