"""The model card of an export: training data, measured score, usage and licences."""

import pathlib
import re
from typing import Any

import jax

from esc_jax.data.folds import name_folds
from esc_jax.errors import counted
from esc_jax.evaluation.calibration import Calibration
from esc_jax.evaluation.escaping import escape_markdown
from esc_jax.export import usage
from esc_jax.export.measurement import CrossValidation, Score, read_cross_validation, read_measurement
from esc_jax.export.thresholds import read_thresholds
from esc_jax.pretrained import catalog
from esc_jax.tasks import registry as tasks
from esc_jax.training.restore import Restored

# Protocol → how the score was measured.
_PROTOCOLS = {
    "holdout": "trained for a fixed number of epochs and tested once, at the end",
    "validation": "the epoch was selected on one of the training folds, and the test fold was tested once, at the end",
    "oracle": "the epoch was selected on the test fold itself, so the value is too high (†)",
    "all": "trained on every clip for a fixed number of epochs, and not tested",
}
_CITATION = 'K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", 2015'
_OTHER_LICENCE = "The licences of the recordings that the model was trained on"
# data.name → name of the data set, licence of its recordings.
_DATA = {
    "esc50": ("ESC-50", f"The recordings of ESC-50 are CC BY-NC 3.0: attribution, no commercial use ({_CITATION})"),
    "esc10": ("ESC-10", f"The recordings of ESC-10 are CC BY 3.0: attribution ({_CITATION})"),
    "gtzan": ("GTZAN", "GTZAN is published without a licence for its recordings"),
    "urbansound8k": (
        "UrbanSound8K",
        "The recordings of UrbanSound8K are CC BY-NC 3.0: attribution, no commercial use (J. Salamon, C. Jacoby and"
        ' J. P. Bello, "A Dataset and Taxonomy for Urban Sound Research", 2014)',
    ),
    "fsd50k": (
        "FSD50K",
        "FSD50K is CC BY 4.0 as a collection, and each of its clips has a Creative Commons licence of its own, some of"
        ' them non-commercial (E. Fonseca et al., "FSD50K: an Open Dataset of Human-Labeled Sound Events", 2022)',
    ),
    "synthetic": ("sounds synthesised by esc_jax", ""),
} | dict.fromkeys(("folder", "csv", "audiofolder"), ("recordings of your own", _OTHER_LICENCE))
# data.name → number of classes, some of the classes, and description of other data that is read under this name.
_IDENTITY = {
    "esc50": (50, {"dog", "sea_waves", "chainsaw", "church_bells"}, "a data set in ESC-50's layout"),
    "esc10": (10, {"dog", "sea_waves", "chainsaw", "helicopter"}, "a data set in ESC-50's layout"),
    "gtzan": (10, {"blues", "disco", "hiphop", "reggae"}, "a data set with a folder for each class"),
    "urbansound8k": (
        10,
        {"air_conditioner", "dog_bark", "jackhammer", "siren"},
        "a data set in UrbanSound8K's layout",
    ),
    "fsd50k": (200, {"Bark", "Meow", "Siren", "Zipper_(clothing)"}, "a data set in FSD50K's layout"),
}
# model.name → licence of the weights according to their publishers.
_WEIGHTS = {
    "beats": "MIT for the BEATs checkpoints of microsoft/unilm",
    "dymn": "MIT for the checkpoints of fschmid56/EfficientAT",
    "efficientat": "MIT for the checkpoints of fschmid56/EfficientAT",
    "efficientnet": "Apache 2.0 for google/efficientnet-b0, timm and EfficientNet-Lite, BSD for torchvision",
    "hubert": "Apache 2.0 for ntu-spml/distilhubert and facebook's HuBERT",
}


def model_name(restored: Restored) -> str:
    """Name of the weights in the catalog; else of the experiment; without one, of the architecture."""
    return catalog.name_of(restored.folder) or restored.config.experiment or restored.config.model.name


def huggingface_card(restored: Restored) -> str:
    """README.md of an export for transformers."""
    config = restored.config.model
    if config.name == "hubert":
        kind, note = "audio", "The feature extractor takes the waveform. No other settings are needed."
    else:
        kind = "image"
        note = (
            "`pixel_values` is the spectrogram, repeated over three channels: (batch, 3, frames, bins)."
            " transformers has no processor that computes it. Its settings are in config.json under `esc_jax_frontend`."
        )
    if config.dtype != "float32":
        note += (
            f"\n\nThe model was trained and measured in {config.dtype}. The weights are float32, the type in which"
            " transformers computes. The probabilities differ by the rounding."
        )
    header = f"---\nlibrary_name: transformers\npipeline_tag: {kind}-classification\nlicense: other\n---\n\n"
    code = usage.transformers_example(restored)
    return header + _card(
        restored,
        f"In this folder, with transformers, torch and librosa:\n\n```python\n{code}\n```\n\n{note}",
        calibrated=False,
    )


def stablehlo_card(restored: Restored) -> str:
    """README.md of an export as a StableHLO program."""
    use = (
        "In this folder, with jax, flatbuffers and numpy only:\n\n"
        f"```python\n{usage.stablehlo_example(restored)}\n```\n\n"
        "The program contains spectrogram, model and weights, and runs on CPU, CUDA and TPU. `waveforms` is (batch,"
        " samples), with any batch size; each new batch size is compiled once. Pad shorter clips with zeros at the end,"
        " and cut longer recordings into windows. On GPU and TPU, JAX multiplies matrices with lower precision than on"
        " CPU by default.\n\n"
        f"Exported with JAX {jax.__version__}, which guarantees that releases of the next six months can read the"
        " program. After that, export the checkpoint again."
    )
    return _card(restored, use, calibrated=True)


def safetensors_card(restored: Restored) -> str:
    """README.md of an export for esc_jax."""
    use = (
        "In this folder, with esc_jax:\n\n```sh\nesc-jax predict --model=classifier.safetensors storm.ogg\n```\n\n"
        '```python\nimport esc_jax\n\nclassifier = esc_jax.load_classifier("classifier.safetensors")\n'
        'print(classifier.timeline("storm.ogg").probabilities)\n```\n\nKernels have half precision.'
    )
    return _card(restored, use, calibrated=True)


def onnx_card(restored: Restored, files: dict[str, Any], checked: str) -> str:
    """README.md of an ONNX export; the arguments are those entries of its model.json."""
    use = (
        "In this folder, with onnxruntime and numpy only:\n\n"
        f"```python\n{usage.ONNX}```\n\n"
        "It is `example.py`: `python example.py clip.wav`. `waveform` is (batch, samples), with any batch size. Pad"
        " shorter clips with zeros at the end, and cut longer recordings into windows. The frontend is inside, as"
        " matrix products. model.json has the labels, the shapes and the operator set.\n\n"
        f"{_describe_files(restored, files, checked)}"
    )
    return _card(restored, use, calibrated=True)


def tflite_card(restored: Restored, files: dict[str, Any], checked: str) -> str:
    """README.md of a LiteRT export; the arguments are those entries of its model.json."""
    use = (
        "In this folder, with ai_edge_litert and numpy only:\n\n"
        f"```python\n{usage.TFLITE}```\n\n"
        "It is `example.py`: `python example.py clip.wav`. The input is one waveform, (1, samples). Pad shorter clips"
        " with zeros at the end, and cut longer recordings into windows. The frontend of `model.tflite` is inside, as"
        " matrix products; the other files take its features. All operators are built into LiteRT. model.json has the"
        " labels, the shapes and the settings of the frontend.\n\n"
        f"{_describe_files(restored, files, checked)}"
    )
    return _card(restored, use, calibrated=True)


def _describe_files(restored: Restored, files: dict[str, Any], checked: str) -> str:
    """The table of the files of an export, and on what they were compared."""
    task = tasks.get(restored.config.task)
    rows = [f"| `{name}` | {about['input']} | {_describe_file(task, about)} |" for name, about in files.items()]
    table = "\n".join(["| File | Input | Compared with JAX |", "|---|---|---|", *rows])
    text = f"{table}\n\nThe outputs were compared on {checked}."
    for name, about in files.items():
        if about.get("below_min_agreement"):
            text += (
                f" **`{name}` has another first class for more than {100 * (1 - about['min_agreement']):.0f} % of them:"
                " measure it on your own clips before you use it.**"
            )
    if restored.config.model.dtype != "float32":
        text += (
            f" The model was trained and measured in {restored.config.model.dtype}, and the files compute in float32:"
            " the probabilities differ by the rounding."
        )
    return text


def _describe_file(task: Any, about: dict[str, Any]) -> str:
    if "kind" not in about:
        return f"probabilities equal to {about['largest_difference']:.1g}"
    text = f"the same first class for {100 * about['top1_agreement']:.1f} % of the clips"
    if task.metric in about:
        score, float32 = (100 * about[f"{task.metric}{suffix}"] for suffix in ("", "_float32"))
        text += f"; {task.metric_label} {score:.1f} %, float32 {float32:.1f} %"
    return text


def _card(restored: Restored, use: str, calibrated: bool) -> str:
    config, model = restored.config, restored.model
    data, data_licence = _describe_data(restored)
    pretrained = config.model.pretrained
    start = f"starting from the published weights `{public_name(pretrained)}`" if pretrained else "from random weights"
    if restored.published:
        origin, data_licence = f"The weights are the published `{public_name(pretrained)}`, unchanged.", ""
    else:
        origin = f"Trained with esc_jax on {data}, {start}.{_describe_teachers(restored)}"
    sections = [
        f"# {escape_markdown(model_name(restored))}",
        f"{_purpose(restored)}, clips of {model.clip_s:g} s, mono, {model.sample_rate} Hz."
        f" Architecture: {config.model.name}, {model.parameter_count:,} parameters. {origin}",
        "## Use",
        use,
        "## Evaluation",
        *_describe_measurement(restored),
        _describe_outputs(restored, calibrated),
        "## Classes",
        f"{', '.join(map(escape_markdown, model.classes))}.",
        "## Licence",
        _describe_licences(data_licence, _weights_licence(config) if pretrained else "", *_teacher_licences(restored)),
    ]
    return "\n\n".join(sections) + "\n"


def _purpose(restored: Restored) -> str:
    count = len(restored.model.classes)
    if tasks.get(restored.config.task).exclusive:
        return f"Classifies sounds: {count} classes"
    return f"Detects sounds: any number of {count} classes at the same time"


def _describe_outputs(restored: Restored, calibrated: bool) -> str:
    temperature = Calibration.read(restored.meta).temperature
    state = f"with the temperature {temperature:.3g}" if calibrated and temperature else "without calibration"
    thresholds = read_thresholds(restored, calibrated)
    if thresholds is None:
        return (
            f"The outputs are the probabilities of the model {state}. A sound that belongs to none of the classes gets"
            " probabilities as well."
        )
    names = map(escape_markdown, restored.model.classes)
    listed = ", ".join(f"{name} {limit:.3g}" for name, limit in zip(names, thresholds, strict=True))
    return (
        f"The outputs are the probabilities of the model {state}, one for each class; they do not sum to 1."
        f" A class counts as present from its threshold: {listed}."
    )


def _describe_measurement(restored: Restored) -> list[str]:
    """Paragraphs on the score of these weights, and on the cross-validation that they quote."""
    label, result = tasks.get(restored.config.task).metric_label, read_measurement(restored)
    quoted = read_cross_validation(restored)
    quote = [_describe_cross_validation(label, quoted)] if quoted else []
    if isinstance(result, str):
        return [f"There is no measured {label} of these weights: {result}.", *quote]
    text = (
        f"Measured {label}: {_describe_score(result)} on {counted(result.clips, 'clip')} of {name_folds(result.folds)},"
        f" which were not used for training.{_describe_protocol(result.protocol)}"
    )
    if result.mean_tta is not None:
        text += (
            f" With probabilities averaged over {result.tta_views} views, which this export does not compute:"
            f" {100 * result.mean_tta:.2f} %."
        )
    return [text, *quote]


def _describe_cross_validation(label: str, quoted: CrossValidation) -> str:
    return (
        f"Cross-validation of the same config: {label} {_describe_score(quoted)} on {counted(quoted.clips, 'clip')} of"
        f" {name_folds(quoted.folds)}. This is the score of other weights: each fold was predicted by a model that was"
        f" trained on the other folds.{_describe_protocol(quoted.protocol)}"
    )


def _describe_protocol(name: str) -> str:
    protocol = _PROTOCOLS.get(name)
    return f" Protocol `{name}`{f': {protocol}' if protocol else ''}."


def _describe_score(result: Score) -> str:
    spread = f" ± {100 * result.std:.2f} (standard deviation over runs)" if result.std is not None else ""
    low, high = (f"{100 * bound:.1f}" for bound in result.ci95)
    return f"**{100 * result.mean:.2f} %**{spread} (95 % interval {low} to {high})"


def _describe_data(restored: Restored) -> tuple[str, str]:
    """Name of the training data, and a sentence on their licence.

    Other data can be read under the name of a public data set, so its classes are checked.
    """
    name, classes = restored.config.data.name, restored.model.classes
    if name in _IDENTITY:
        number, some, other = _IDENTITY[name]
        if len(classes) != number or not some <= set(classes):
            return other, _OTHER_LICENCE
    return _DATA.get(name, (f"the data set {name}", f"The licence of {name} applies"))


def public_name(pretrained: str) -> str:
    """A hub id as it is; of a path only the last part, because the others are private."""
    name = pretrained if re.fullmatch(r"[\w-]+/[\w.-]+", pretrained) else pathlib.PurePath(pretrained).name
    return name.replace("`", "'")  # it is set in backticks


def _describe_teachers(restored: Restored) -> str:
    teacher, tokenized = _teacher_name(restored), _pretraining_teacher(restored)
    text = f" In pretraining, the features of the teacher {tokenized} were predicted." if tokenized else ""
    return text + (f" The outputs of the teacher {teacher} were further targets." if teacher else "")


def _teacher_licences(restored: Restored) -> list[str]:
    names = dict.fromkeys((_pretraining_teacher(restored), _teacher_name(restored)))
    return [f"The teacher {name}: the licence of its weights" for name in names if name]


def _pretraining_teacher(restored: Restored) -> str:
    """`pretrain.teacher`, without private folders; empty without one."""
    return escape_markdown(public_name(str(restored.config.get("pretrain", {}).get("teacher", ""))))


def _teacher_name(restored: Restored) -> str:
    teacher = restored.meta.get("teacher")
    return escape_markdown(str(teacher.get("name", ""))) if isinstance(teacher, dict) else ""


def _weights_licence(config: Any) -> str:
    known = _WEIGHTS.get(config.model.name, "see their publisher")
    return f"`{public_name(config.model.pretrained)}`: the licence of the published weights ({known}; check it there)"


def _describe_licences(*licences: str) -> str:
    items = [f"- {licence}." for licence in licences if licence]
    if not items:
        return "The weights are not derived from published recordings or weights."
    return "The weights are derived from these sources, whose licences apply:\n\n" + "\n".join(items)
