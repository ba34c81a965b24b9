"""Search by example: retrieval and few-shot accuracy on ESC-50.

    esc-jax embed --model=mn04_as --index=esc50.db FOLDS_1_TO_4/audio
    python benchmarks/search.py --what=retrieval,few-shot --index=esc50.db --data_dir=FOLDS_1_TO_4 --plot=search.png
    python benchmarks/search.py --what=retrieval --model=CV/fold1 --model=CV/fold2 --data_dir=FOLDS_1_TO_4

retrieval: each clip of a fold is a query, and the clips of the other folds are searched. Precision at 10 is the share
of clips of its class among the ten nearest, and mAP the mean over queries of the average precision of the whole
ranking. Intervals count source recordings. Published encoders have the queries of all folds. A run has those of its
test fold only, so that its encoder has not seen a query; it was trained on the clips that are searched. With --model
for the run of each fold, the queries are pooled. Two runs must not have the same test fold. A self-supervised encoder
as it is before fine-tuning is that of a run with --config.optim.groups="(('encoder/.*', 0.0),)".

few-shot: 1, 2, 4, 8 and 16 labelled clips for each class on average; a draw is tested on one fold, and the labelled
clips are of the others. They are as many of each class at random, or one of each class and then those with the smallest
margins (margin sampling), which double the number each time. The classifiers are the linear head of
`esc-jax probe --index` with a fixed strength, and the class of the nearest labelled clip. Intervals are Student's over
draws. The encoder must be a published one: a run was trained on the clips that are labelled.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import csv
import datetime
import math
import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from esc_jax.errors import UserError  # noqa: E402
from esc_jax.evaluation import confidence  # noqa: E402
from esc_jax.experiments.probe_heads import STEPS, head_logits  # noqa: E402
from esc_jax.inference import embeddings, index, model_path  # noqa: E402
from esc_jax.inference.classifier import restore_any  # noqa: E402
from esc_jax.inference.index_store import Store, open_for_writing  # noqa: E402
from esc_jax.runtime import xla  # noqa: E402
from esc_jax.tasks import registry as tasks  # noqa: E402
from esc_jax.training import linear_probe  # noqa: E402

SHOTS = (1, 2, 4, 8, 16)
L2 = 0.02
FIELDS = [
    "table", "encoder", "queries", *(f"{key}{end}" for key in ("p10", "map") for end in ("", "_low", "_high")),
    "classifier", "choice", "draws", *(f"n{shots}{end}" for shots in SHOTS for end in ("", "_low", "_high")),
    "passages", "drawn", "insert_s", "build_s", "exact_ms", "exact_batch_ms", "graph_ms", "graph_batch_ms", "open_ms",
    "recall", "store_mib", "graph_mib", "peak_mib", "command", "machine", "date",
]  # fmt: skip


class Data(NamedTuple):
    """Embeddings (n, D), classes (n,), folds (n,) and source recordings (n,) of clips."""

    x: np.ndarray
    labels: np.ndarray
    folds: np.ndarray
    sources: np.ndarray


def load(store: Store, data_dir: pathlib.Path) -> Data:
    """The clips of ESC-50 in a store: the passage at the begin of each."""
    with open(data_dir / "meta/esc50.csv", newline="") as file:
        rows = {row["filename"]: row for row in csv.DictReader(file)}
    numbers, chosen = [], []
    for path, recording in store.files().items():
        if row := rows.get(pathlib.Path(path).name):
            numbers.append(store.passages_of(recording)[0].id)
            chosen.append(row)
    _, x = store.embeddings(numbers)
    fold, target = (np.array([int(row[key]) for row in chosen]) for key in ("fold", "target"))
    return Data(x, target, fold, np.array([row["src_file"] for row in chosen]))


# Retrieval ----------------------------------------------------------------------------------------------------------


def rank(similarity: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision at 10 and average precision of each query, (Q,), from (Q, n) similarities and relevance."""
    order = np.argsort(-similarity, axis=1, kind="stable")
    hits = np.take_along_axis(relevant, order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return hits[:, :10].mean(axis=1), (precision * hits).sum(axis=1) / np.maximum(hits.sum(axis=1), 1)


def retrieval(tested: Sequence[tuple[Data, Sequence[int]]]) -> dict[str, str]:
    """Columns of the table: means over the queries of all encoders, each with its clips and query folds."""
    scores = []
    for data, folds in tested:
        x = index.unit(data.x)
        for fold in folds:
            inside = data.folds == fold
            relevant = data.labels[inside][:, None] == data.labels[~inside]
            scores.append((*rank(x[inside] @ x[~inside].T, relevant), data.sources[inside]))
    precision, average, sources = (np.concatenate(parts) for parts in zip(*scores, strict=True))
    row = {"queries": str(len(precision))}
    for key, values in (("p10", precision), ("map", average)):
        interval = confidence.mean_interval(values, sources)
        row |= {key: f"{100 * interval.value:.1f}", f"{key}_low": f"{100 * interval.low:.1f}"}
        row[f"{key}_high"] = f"{100 * interval.high:.1f}"
    return row


# Few-shot -----------------------------------------------------------------------------------------------------------

Scores = Callable[[np.ndarray, np.ndarray], np.ndarray]


def probe_scores(data: Data, pool: np.ndarray, classes: int) -> Scores:
    """The function (labelled, x) → (n, classes) probabilities by a linear head; `labelled` are places in the pool."""
    x, labels, task = data.x[pool], data.labels[pool], tasks.get("single_label")

    def scores(labelled: np.ndarray, tested: np.ndarray) -> np.ndarray:
        weights = np.ones((1, len(labelled)), np.float32)
        strength = np.asarray([L2], np.float32)
        options: dict[str, Any] = {"task": task, "classes": classes, "steps": STEPS}
        heads = linear_probe.fit(x[labelled], labels[labelled], weights, strength, np.arange(1), **options)
        kernel, bias = np.asarray(heads.kernel)[0, 0, 0], np.asarray(heads.bias)[0, 0, 0]
        return task.probabilities(head_logits(tested, kernel, bias))

    return scores


def neighbour_scores(data: Data, pool: np.ndarray, classes: int) -> Scores:
    """As `probe_scores`: the similarity to the nearest labelled clip of each class; −1 for a class without one."""
    x, labels = index.unit(data.x[pool]), data.labels[pool]

    def scores(labelled: np.ndarray, tested: np.ndarray) -> np.ndarray:
        similarity = index.unit(tested) @ x[labelled].T
        best = np.full((len(tested), classes), -1.0)
        for target in np.unique(labels[labelled]):
            best[:, target] = similarity[:, labels[labelled] == target].max(axis=1)
        return best

    return scores


def nested_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order of clips in which each round of as many clips as there are classes has one of each."""
    order = rng.permutation(len(labels))
    rounds = np.zeros(len(labels), int)
    for target in np.unique(labels):
        members = order[labels[order] == target]
        rounds[members] = np.arange(len(members))
    return order[np.argsort(rounds[order], kind="stable")]


def curve(scores: Scores, data: Data, pool: np.ndarray, tested: np.ndarray, order: np.ndarray, margin: bool) -> list:
    """Accuracy for each of SHOTS, of one draw. `order` are places in the pool (`nested_order`)."""
    from esc_jax.experiments.index_probe import margins

    classes = int(data.labels.max()) + 1
    labelled, accuracies = order[:classes], []
    for shots in SHOTS:
        if not margin:
            labelled = order[: shots * classes]
        elif missing := shots * classes - len(labelled):
            left = np.setdiff1d(np.arange(len(pool)), labelled)
            uncertain = margins(scores(labelled, data.x[pool][left]))
            labelled = np.concatenate([labelled, left[np.argsort(uncertain, kind="stable")[:missing]]])
        predicted = scores(labelled, data.x[tested]).argmax(axis=1)
        accuracies.append(float((predicted == data.labels[tested]).mean()))
    return accuracies


def few_shot(data: Data, draws: int) -> Iterator[tuple[dict[str, str], np.ndarray]]:
    """Yields the columns of each row, and (draws, SHOTS) accuracies."""
    folds, classes = np.unique(data.folds), int(data.labels.max()) + 1
    for classifier, make in (("linear probe", probe_scores), ("nearest neighbour", neighbour_scores)):
        for choice in ("at random", "margin sampling"):
            results = []
            for draw in range(draws):
                fold = folds[draw % len(folds)]
                pool, tested = np.flatnonzero(data.folds != fold), np.flatnonzero(data.folds == fold)
                order = nested_order(data.labels[pool], np.random.default_rng(draw))
                scores = make(data, pool, classes)
                results.append(curve(scores, data, pool, tested, order, choice == "margin sampling"))
            values = 100 * np.array(results)
            row = {"classifier": classifier, "choice": choice, "draws": str(draws)}
            for shots, column in zip(SHOTS, values.T, strict=True):
                low, high = student_interval(column)
                row |= {f"n{shots}": f"{column.mean():.1f}", f"n{shots}_low": f"{low:.1f}"}
                row[f"n{shots}_high"] = f"{high:.1f}"
            yield row, values


def student_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of independent draws."""
    if len(values) < 2:
        return float(values.mean()), float(values.mean())
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def plot(curves: Sequence[dict[str, str]], path: pathlib.Path) -> None:
    """Accuracy over labelled clips of a class, with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    styles = {("linear probe", "at random"): "o-", ("linear probe", "margin sampling"): "s--"}
    for place, row in enumerate(curves):
        style = styles.get((row["classifier"], row["choice"]), "^-" if row["choice"] == "at random" else "v--")
        mean, low, high = (np.array([float(row[f"n{n}{end}"]) for n in SHOTS]) for end in ("", "_low", "_high"))
        error = np.stack([mean - low, high - mean])
        at = np.array(SHOTS) * 1.02 ** (place - 1.5)  # beside each other
        name = f"{row['classifier']}, {row['choice']}"
        axes.errorbar(at, mean, error, fmt=style, capsize=2, markersize=4, linewidth=1.2, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(SHOTS, [str(shots) for shots in SHOTS])
    axes.set_xlabel("labelled clips for each class, on average")
    axes.set_ylabel("accuracy on the test fold, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=120)


# Encoders -----------------------------------------------------------------------------------------------------------


class FoldError(UserError):
    """Queries that an encoder was trained on. The message is one sentence."""


def query_folds(path: str, folds: Sequence[int]) -> list[int]:
    """The folds whose clips an encoder was not trained on: the test fold of a run, all for published weights."""
    if not model_path.has_config(path):
        return list(folds)
    config = restore_any(path).config
    if config.protocol == "all" or config.data.test_fold not in folds:
        trained = f"protocol {config.protocol} and test fold {config.data.test_fold}"
        raise FoldError(f"{path}: was trained with {trained}, which leaves no fold of the data for queries")
    return [config.data.test_fold]


def embed(path: str, data_dir: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """The store of the clips of ESC-50 by an encoder, in a folder; it is continued if it is there."""
    model = embeddings.load_encoder(path)
    settings = index.store_settings(model, path)
    store_path = folder / f"{settings.encoder}.db"
    clips = sorted(map(str, (data_dir / "audio").iterdir()))
    with open_for_writing(store_path, settings) as store:
        problems = [one.note for one in index.add_recordings(store, model, clips) if one.status == "failed"]
    if problems:
        raise SystemExit(problems[0])
    return store_path


def sources(options: Any) -> Iterator[tuple[str, Data, list[int]]]:
    """Yields name, clips and query folds of each encoder."""
    paths = (
        [options.index] if options.index else [embed(one, options.data_dir, options.folder) for one in options.model]
    )
    for place, path in enumerate(paths):
        with Store(path) as store:
            data, model = load(store, options.data_dir), store.settings.model
        model = options.model[place] if options.model else model
        name = options.name or pathlib.PurePath(model).stem
        yield name, data, query_folds(model, np.unique(data.folds).tolist())


def rows(options: Any) -> Iterator[dict[str, str]]:
    """All rows of the tables."""
    tested = list(sources(options))
    used = [fold for _, _, folds in tested for fold in folds]
    if len(used) > len(set(used)):
        raise FoldError("the queries of a fold would count twice: give one run for each test fold")
    name = tested[0][0]
    if "retrieval" in options.what:
        yield {"table": "search-retrieval", "encoder": name} | retrieval([(data, folds) for _, data, folds in tested])
    if "few-shot" in options.what:
        data, folds = tested[0][1:]
        if len(tested) > 1 or len(folds) < len(np.unique(data.folds)):
            raise FoldError("few-shot needs one encoder that was trained on none of the clips, and not a run")
        curves = []
        for row, _ in few_shot(data, options.draws):
            curves.append(row)
            yield {"table": "search-few-shot", "encoder": name} | row
        if options.plot:
            plot(curves, options.plot)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--what", type=lambda text: text.split(","), default=["retrieval", "few-shot"])
    add("--index", type=pathlib.Path, help="store of the clips, of esc-jax embed --index")
    text = "instead of --index: published encoder, run or packed classifier; several times for the runs of the folds"
    add("--model", action="append", help=text)
    add("--folder", type=pathlib.Path, default=pathlib.Path("search_stores"), help="of the stores of --model")
    add("--name", help="of the encoder in the table (default: from its path)")
    add("--data_dir", type=pathlib.Path, required=True, help="ESC-50, for its clips and their table")
    add("--draws", type=int, default=10, help="few-shot: draws (default: 10)")
    add("--plot", type=pathlib.Path, help="few-shot: picture to write")
    options = parser.parse_args()
    if bool(options.index) == bool(options.model):
        parser.error("give either --index or --model")
    xla.initialize(library=True)
    writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
    writer.writeheader()
    try:
        for row in rows(options):
            writer.writerow(row | {"date": datetime.date.today().isoformat()})
            sys.stdout.flush()
    except UserError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
