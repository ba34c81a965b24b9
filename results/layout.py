"""What the tables of results/ contain: their rows and columns."""

from collections.abc import Sequence
import dataclasses

from results.columns import (
    EMPTY,
    SHORT_ID,
    Column,
    Row,
    bracketed,
    by_id,
    column,
    deviation_cell,
    folds_cell,
    label_cell,
    measured_cell,
    met_cell,
    per_fold,
    quoted,
    read,
    span,
    spread,
    target_cell,
)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of a csv file whose column `table` is the table's name, or those of `ids`, in that order.

    Machine and date are added: below the table if all rows have the same, else as a column.
    """

    file: str
    columns: Sequence[Column]
    ids: Sequence[str] = ()
    commands: bool = True  # list the commands below the table
    where: bool = True  # add machine and date


NOTE = column("note", "note")
EXPERIMENT = Column("experiment", label_cell)
FOLDS = Column("trained on → tested on", folds_cell)
ACCURACY = span("accuracy", "accuracy")
TTA = span("TTA", "tta")
ACCURACY_COLUMNS = (
    EXPERIMENT,
    FOLDS,
    column("protocol", "protocol"),
    column("seeds", "seeds"),
    ACCURACY,
    TTA,
    column("interval", "interval"),
)
DETAIL_COLUMNS = (
    Column("run", lambda row: f"[{row['id']}]" if SHORT_ID.fullmatch(row["id"]) else row["experiment"]),
    column("epochs", "epochs"),
    Column("standard deviation, accuracy / TTA", deviation_cell),
    per_fold("fold"),
    per_fold("tta"),
    column("minutes", "minutes"),
    NOTE,
)
FOLD_COLUMNS = (EXPERIMENT, ACCURACY, TTA, per_fold("fold"), per_fold("tta"))
SSL_COLUMNS = (
    Column("run", lambda row: f"[{row['id']}]"),
    Column("pretraining", lambda row: row["experiment"] if row["pretrain_epochs"] else "none"),
    Column("epochs without + with labels", lambda row: f"{row['pretrain_epochs'] or 0} + {row['epochs']}"),
    ACCURACY,
    TTA,
    column("linear probe after pretraining", "linear_probe"),
    column("minutes", "minutes"),
)
COMPARISON_COLUMNS = (
    Column("compared", lambda row: f"[{row['a']}] − [{row['b']}]"),
    Column("of", lambda row: {"tta": "TTA"}.get(row["metric"], row["metric"])),
    span("points", "points", signed=True),
    column("McNemar p", "mcnemar_p"),
    NOTE,
)
MODEL_COLUMNS = (
    column("model", "model"),
    column("batch", "batch"),
    span("esc_jax, ms", "esc_jax_ms"),
    span("PyTorch, ms", "pytorch_ms"),
    column("ratio", "ratio"),
)
WHAT = column("step", "what")
JAX = column("JAX", "jax")
GOAL_COLUMNS = (
    column("goal", "goal"),
    column("condition", "condition"),
    Column("target", target_cell),
    Column("measured", measured_cell),
    Column("met", met_cell),
)
PUBLISHED_COLUMNS = (column("method", "method"), column("pretraining", "training"), column("ESC-50", "esc50"))
SOURCE = column("source", "source")
TIME_COLUMNS = (
    column("what", "what"),
    span("value", "value"),
    column("unit", "unit"),
    column("kind", "kind"),
    NOTE,
)
HOST_COLUMNS = (
    column("what", "what"),
    column("unit", "unit"),
    span("esc_jax", "esc_jax"),
    Column("compared with", lambda row: f"{row['other_name']} {spread(row, 'other')}" if row["other"] else EMPTY),
    NOTE,
)
EXPORT_COLUMNS = (
    column("program", "what"),
    column("shortest of 100, ms", "shortest_ms"),
    column("median, ms", "median_ms"),
    column("size, MB", "size_mb"),
)
HOTSPOT_COLUMNS = (
    column("training step of", "model"),
    column("by", "framework"),
    column("convolutions", "convolutions"),
    column("products", "products"),
    column("normalisation", "normalisation"),
    column("reductions", "reductions"),
    column("copies", "copies"),
    column("elementwise", "elementwise"),
    column("whole step", "step"),
)
PREDICTION_COLUMNS = (
    column("system", "system"),
    column("minutes of audio", "audio_minutes"),
    column("windows", "windows"),
    span("seconds", "seconds"),
    column("seconds of audio per second", "audio_per_second"),
)
RECIPE_COLUMNS = (column("setting", "setting"), FOLDS, ACCURACY)
PRETRAINING_COLUMNS = (
    bracketed("run", "id"),
    column("quantity", "what"),
    column("after epochs", "epochs"),
    Column("value", lambda row: f"{row['value']} {row['unit']}"),
)

GPU_MODEL_COLUMNS = (
    *MODEL_COLUMNS,
    column("esc_jax, % of peak", "esc_jax_peak"),
    column("PyTorch, % of peak", "pytorch_peak"),
)
INGREDIENT_COLUMNS = (
    Column("setting", lambda row: f"`{row['setting']}`" if "=" in row["setting"] else row["setting"]),
    column("accuracy", "accuracy"),
    span("points (95 % interval)", "points", signed=True),
    span("points with views (95 % interval)", "tta_points", signed=True),
)
MISTAKE_COLUMNS = (column("class", "true"), column("mistakes", "errors"), column("clips", "total"))


def _scaling(size: str, value: str, memory: bool = True, everything: bool = False) -> Table:
    columns = [column(size, "size"), column(value, "value")]
    if memory:
        columns.append(column("peak memory, MiB", "peak_mib"))
    if everything:
        columns.append(column("all clips in memory would be, MiB", "all_mib"))
    return Table("scaling", tuple(columns))


# Rows of the headline: name, and the section with the details.
HEADLINE: dict[str, tuple[str, str]] = {
    "1": ("EfficientAT mn04, frozen encoder, linear head", "results/index.md#esc-50-folds-1-to-4"),
    "3": ("EfficientAT mn04, fine-tuned", "results/index.md#esc-50-folds-1-to-4"),
    "h100": ("ResNet-34, full width, from scratch, 200 epochs", "results/gpu.md#resnet-34-of-full-width-on-one-h100"),
    "9": (
        "ResNet-18, quarter width, distilled (teacher: AudioSet); in the package",
        "results/index.md#the-classifier-in-the-package",
    ),
    "8": ("ResNet-18, quarter width, from scratch, 510 epochs", "results/index.md#esc-50-folds-1-to-4"),
    "e": (
        "ResNet-18, quarter width, SimCLR, then 380 epochs",
        "results/self-supervision.md#resnet-18-of-a-quarter-of-the-width",
    ),
}

TABLES = {
    "headline": Table(
        "accuracy",
        (
            dataclasses.replace(Column("experiment", lambda row: HEADLINE[row["id"]][0]), link="headline"),
            FOLDS,
            column("protocol", "protocol"),
            Column("accuracy (95 % interval)", ACCURACY.cell),
            column("TTA", "tta"),
            Column("hardware", lambda row: row["machine"].removesuffix(", shared")),
        ),
        ids=("1", "3", "h100", "9", "8", "e"),
        commands=False,
        where=False,
    ),
    "accuracy": Table("accuracy", ACCURACY_COLUMNS, where=False),
    "accuracy-esc10": Table("accuracy", ACCURACY_COLUMNS, where=False),
    "accuracy-details": Table("accuracy", DETAIL_COLUMNS, ids=tuple("12345678"), commands=False),
    "seeds": Table("accuracy", (*FOLD_COLUMNS[:4], column("minutes", "minutes"))),
    "small": Table(
        "accuracy", (*ACCURACY_COLUMNS[:-1], per_fold("fold"), per_fold("tta"), column("minutes", "minutes"))
    ),
    "networks": Table(
        "accuracy",
        (
            EXPERIMENT,
            column("seeds", "seeds"),
            column("epochs", "epochs"),
            ACCURACY,
            TTA,
            per_fold("fold"),
            per_fold("tta"),
        ),
    ),
    "comparison-networks": Table("comparisons", COMPARISON_COLUMNS, where=False),
    "four-folds": Table("accuracy", ACCURACY_COLUMNS, where=False),
    "four-folds-details": Table(
        "accuracy",
        DETAIL_COLUMNS,
        ids=("lr", "fold5-frozen", "fold5-finetune", "fold5-resnet18"),
        commands=False,
    ),
    "comparison-efficientat": Table("comparisons", COMPARISON_COLUMNS, where=False),
    "goals-accuracy": Table("goals", GOAL_COLUMNS, commands=False),
    "writeups": Table("published", (*PUBLISHED_COLUMNS, NOTE), commands=False),
    "published": Table("published", (*PUBLISHED_COLUMNS, column("ESC-10", "esc10"), SOURCE, NOTE), commands=False),
    "published-frozen": Table("published", (*PUBLISHED_COLUMNS, SOURCE), commands=False),
    "unfamiliar": Table(
        "unfamiliar",
        (
            column("material", "material"),
            column("marked by [1]", "marked_1"),
            column("marked by [3]", "marked_3"),
            column("of", "total"),
            NOTE,
        ),
    ),
    "novelty": Table(
        "novelty",
        (
            column("tested on", "split"),
            column("known classes", "classes"),
            column("detector", "detector"),
            column("AUROC", "auroc"),
            span("foreign clips marked, %", "marked"),
            column("known clips marked, %", "false_marks"),
            column("draws", "draws"),
        ),
    ),
    "search-retrieval": Table(
        "search",
        (
            column("encoder", "encoder"),
            column("queries", "queries"),
            span("precision at 10, %", "p10"),
            span("mAP, %", "map"),
        ),
    ),
    "search-few-shot": Table(
        "search",
        (
            column("classifier", "classifier"),
            column("labelled clips", "choice"),
            *(span(f"{shots} of a class", f"n{shots}") for shots in (1, 2, 4, 8, 16)),
        ),
    ),
    "search-graph": Table(
        "search",
        (
            column("passages", "passages"),
            column("drawn from", "drawn"),
            column("queries", "queries"),
            column("add, CPU s", "insert_s"),
            column("build the graph, CPU s", "build_s"),
            column("a query: exact, CPU ms", "exact_ms"),
            column("each of many windows: exact, CPU ms", "exact_batch_ms"),
            column("by the graph, CPU ms", "graph_ms"),
            column("each of many windows: by the graph, CPU ms", "graph_batch_ms"),
            column("open the graph, CPU ms", "open_ms"),
            column("recall at 10, %", "recall"),
            column("store, MiB", "store_mib"),
            column("graph, MiB", "graph_mib"),
            column("peak memory, MiB", "peak_mib"),
        ),
    ),
    "leak": Table(
        "own_data",
        (
            column("folds", "experiment"),
            span("accuracy, %", "value"),
            column("clips", "clips"),
            NOTE,
        ),
    ),
    "scenes": Table(
        "own_data",
        (
            column("experiment", "experiment"),
            span("mAP, %", "value"),
            column("TTA", "tta"),
            column("scenes", "clips"),
            NOTE,
        ),
    ),
    "intervals": Table(
        "intervals",
        (
            column("recordings", "recordings"),
            column("accuracy", "accuracy"),
            column("esc_jax, %", "ours"),
            column("percentile bootstrap, %", "bootstrap"),
            column("Wilson over clips, %", "wilson"),
        ),
    ),
    "reliability": Table(
        "reliability",
        (
            column("experiment", "experiment"),
            column("cases", "cases"),
            column("as before", "as_before"),
            column("noted or repaired", "noted_or_repaired"),
            column("refused", "refused"),
            column("traceback", "traceback"),
            column("wrong result", "wrong_result"),
            column("no end", "no_end"),
        ),
        commands=False,
    ),
    "lowered": Table(
        "lowered",
        (
            column("config", "config"),
            column("part", "part"),
            column("version", "version"),
            column("loops", "loops"),
            column("sorts", "sorts"),
            column("scatters", "scatters"),
            column("gathers", "gathers"),
            column("FFTs", "ffts"),
            column("products", "products"),
            column("of them, float32", "float32"),
        ),
    ),
    "traffic": Table(
        "traffic",
        (
            column("config", "config"),
            column("batch", "batch"),
            column("version", "version"),
            column("kernels", "kernels"),
            column("traffic, GB", "traffic_gb"),
            column("temporary memory, GB", "temporary_gb"),
        ),
    ),
    "ssl-cnn": Table("accuracy", SSL_COLUMNS, ids=("a", "e", "d", "k", "8")),
    "ssl-transformer": Table("accuracy", SSL_COLUMNS, ids=("b", "f", "g", "c", "h", "j", "i")),
    "comparison-ssl": Table("comparisons", COMPARISON_COLUMNS, where=False),
    "pretraining": Table("pretraining", PRETRAINING_COLUMNS, commands=False),
    "pretraining-time": Table("pretraining", (PRETRAINING_COLUMNS[0], *PRETRAINING_COLUMNS[1::2]), commands=False),
    "simclr-batch": Table("pretraining", (column("batch", "id"), *PRETRAINING_COLUMNS[1:], NOTE)),
    "ablation": Table(
        "ablation",
        (
            Column("setting", lambda row: f"`{row['setting']}`"),
            column("from", "value_from"),
            column("to", "value_to"),
            span("points (95 % interval)", "points", signed=True),
        ),
    ),
    "ingredients": Table("ablation", INGREDIENT_COLUMNS),
    "ingredients-long": Table("ablation", INGREDIENT_COLUMNS),
    "small-networks": Table("ablation", (*INGREDIENT_COLUMNS, column("test folds", "folds"))),
    "ssl-byol": Table("ablation", (*INGREDIENT_COLUMNS, column("test folds", "folds"), column("seeds", "seeds"))),
    "ablation-range": Table(
        "ablation",
        (
            column("runs", "setting"),
            ACCURACY,
            column("data", "data"),
            column("test folds", "folds"),
            column("minutes", "minutes"),
        ),
        commands=False,
    ),
    "recipe": Table("recipe", (*RECIPE_COLUMNS, column("NLL", "nll"), NOTE)),
    "recipe-probe": Table("recipe", RECIPE_COLUMNS),
    "recipe-distillation": Table("recipe", (*RECIPE_COLUMNS, NOTE)),
    "recipe-levels": Table("recipe", (*RECIPE_COLUMNS, NOTE)),
    "models-training": Table("models", MODEL_COLUMNS),
    "models-training-v02": Table("models", MODEL_COLUMNS),
    "models-prediction": Table("models", MODEL_COLUMNS),
    "models-kept-memory": Table("models", MODEL_COLUMNS),
    "models-channels-first": Table("models", MODEL_COLUMNS),
    "models-bfloat16": Table("models", (MODEL_COLUMNS[0], WHAT, *MODEL_COLUMNS[2:])),
    "models-zen4": Table("models", (MODEL_COLUMNS[0], WHAT, column("type", "dtype"), JAX, *MODEL_COLUMNS[2:], NOTE)),
    "mn04-states": Table("models", (MODEL_COLUMNS[0], JAX, MODEL_COLUMNS[2], NOTE)),
    "hotspots": Table("hotspots", HOTSPOT_COLUMNS),
    "frontends": Table("host", HOST_COLUMNS),
    "log-mel-parts": Table("host", HOST_COLUMNS[:3], commands=False),
    "pipeline": Table("host", HOST_COLUMNS),
    "startup": Table("host", HOST_COLUMNS),
    "training-time": Table("timings", TIME_COLUMNS),
    "vectorized": Table(
        "accuracy",
        (
            EXPERIMENT,
            column("seconds", "seconds"),
            ACCURACY,
            column("standard deviation", "accuracy_std"),
        ),
    ),
    "prediction": Table("prediction", (*PREDICTION_COLUMNS, column("peak memory, MiB", "peak_mib"))),
    "prediction-pipeline": Table("prediction", (*PREDICTION_COLUMNS, NOTE)),
    "latency": Table(
        "deployment",
        (
            column("what", "what"),
            column("clients", "clients"),
            column("results", "results"),
            column("median, ms", "median_ms"),
            column("99th percentile, ms", "p99_ms"),
        ),
    ),
    "export-onnx": Table("deployment", (*EXPORT_COLUMNS, column("compared with JAX on 100 clips of ESC-50", "note"))),
    "export-tflite": Table("deployment", EXPORT_COLUMNS),
    "archive": Table(
        "archive",
        (
            column("model", "model"),
            column("recordings", "files"),
            column("hours of audio", "hours"),
            column("hop, s", "hop_s"),
            column("minutes", "minutes"),
            column("times real time", "factor"),
            column("device waits, %", "waits"),
            column("memory after a tenth, MiB", "memory_tenth"),
            column("memory at the end, MiB", "memory_end"),
        ),
    ),
    "memory": Table(
        "memory",
        (
            column("config", "config"),
            column("step", "what"),
            column("clips", "batch"),
            column("type", "dtype"),
            column("peak, GiB", "peak_gib"),
            NOTE,
        ),
    ),
    "scaling-batch": _scaling("clips in a batch", "a step, ms"),
    "scaling-folds": _scaling("test folds", "seconds", memory=False),
    "scaling-audio": _scaling("minutes of audio", "seconds"),
    "scaling-clips": _scaling("clips", "seconds", everything=True),
    "numerics": Table(
        "numerics",
        (
            column("quantity", "what"),
            column("compared with", "reference"),
            column("largest difference", "difference"),
            NOTE,
        ),
    ),
    "goals-performance": Table("goals", GOAL_COLUMNS, commands=False),
    "h100": Table("accuracy", ACCURACY_COLUMNS),
    "h100-details": Table("accuracy", DETAIL_COLUMNS[1:], ids=("h100",), commands=False, where=False),
    "mistakes": Table("mistakes", MISTAKE_COLUMNS),
    "confusions": Table(
        "mistakes",
        (*MISTAKE_COLUMNS[:1], column("predicted", "predicted"), *MISTAKE_COLUMNS[1:]),
        commands=False,
    ),
    "h200": Table("accuracy", ACCURACY_COLUMNS),
    "h200-details": Table(
        "accuracy", DETAIL_COLUMNS[1:], ids=("h200-linear", "h200-four"), commands=False, where=False
    ),
    "gpu-summary": Table(
        "gpu",
        (
            column("training step", "experiment"),
            column("batch", "batch"),
            column("unit", "unit"),
            quoted("before", "before"),
            quoted("after", "after"),
            quoted("PyTorch", "pytorch"),
            NOTE,
        ),
    ),
    "goals-gpu": Table("goals", GOAL_COLUMNS, commands=False),
    "models-gpu": Table("models", GPU_MODEL_COLUMNS),
    "models-gpu-h100": Table("models", (*GPU_MODEL_COLUMNS, NOTE)),
    "models-gpu-h200": Table("models", (*GPU_MODEL_COLUMNS, NOTE)),
    "gpu-step-h200": Table("timings", TIME_COLUMNS),
    "gpu-compilation": Table("timings", TIME_COLUMNS),
    "gpu-step": Table("timings", TIME_COLUMNS),
}


def rows_of(name: str) -> list[Row]:
    """The rows of a table."""
    table = TABLES[name]
    if table.ids:
        return [by_id(table.file, row_id) for row_id in table.ids]
    return [row for row in read(table.file) if row["table"] == name]
