"""The model card of an export: what it was trained on, what was measured, how to use it, which licences apply."""

import json
import pathlib
import re
from typing import Any

from esc_jax.errors import Failure

# What is said of an accuracy, by the protocol that it was measured under.
_PROTOCOLS = {
    "holdout": "trained for a number of epochs that was fixed beforehand and tested once, at the end",
    "validation": "the epoch was selected on one of the training folds, the test fold tested once, at the end",
    "oracle": "the epoch was selected on the test fold itself, so this accuracy is too good (†)",
}
_CITATION = 'K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", 2015'
# By data.name: what the data are called, and their licence where they have one to be respected.
_DATA = {
    "esc50": ("ESC-50", f"ESC-50's recordings are CC BY-NC 3.0: name the source, no commercial use ({_CITATION})"),
    "esc10": ("ESC-10", f"ESC-10's recordings are CC BY 3.0: name the source ({_CITATION})"),
    "gtzan": ("GTZAN", "GTZAN is published without a licence for its recordings"),
    "synthetic": ("sounds synthesised by esc_jax", ""),
}
# Classes that ESC-50 and ESC-10 have: data of one's own may lie in the same layout, under the same data.name.
_ESC_CLASSES = {"dog", "sea_waves", "chainsaw"}
# By model.name: the licence of the weights as their publishers give it.
_WEIGHTS = {
    "beats": "MIT for the BEATs that microsoft/unilm publishes",
    "efficientat": "MIT for the EfficientAT that fschmid56/EfficientAT publishes",
    "efficientnet": "Apache 2.0 for google/efficientnet-b0 and timm, BSD for torchvision",
    "hubert": "Apache 2.0 for ntu-spml/distilhubert and facebook's HuBERT",
}

_STABLEHLO = """\
import json

import jax
from jax import export
import numpy as np

model = json.load(open("model.json"))
classify = jax.jit(export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call)
waveforms = np.zeros((1, model["samples"]), np.float32)  # your clips: mono, {rate} Hz, {seconds:g} s, in [-1, 1]
probabilities = np.asarray(classify(waveforms))
print([model["labels"][i] for i in probabilities.argmax(-1)])"""

_HUBERT = """\
import librosa
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

extractor = AutoFeatureExtractor.from_pretrained(".")
model = AutoModelForAudioClassification.from_pretrained(".").eval()
waveform, _ = librosa.load("clip.wav", sr={rate})
{inputs}
with torch.no_grad():
    probabilities = model(**inputs).logits.softmax(-1)[0]
for i in probabilities.argsort(descending=True)[:3].tolist():
    print(model.config.id2label[i], f"{{probabilities[i]:.3f}}")"""

# By whether the model was told of padding in training.
_HUBERT_INPUTS = {
    False: """\
waveform = librosa.util.fix_length(waveform, size={samples})  # cut, or padded with silence, as in training
inputs = extractor(waveform, sampling_rate={rate}, return_tensors="pt")""",
    True: """\
settings = {{"padding": "max_length", "max_length": {samples}, "truncation": True}}  # cut, or padded, as in training
inputs = extractor(waveform, sampling_rate={rate}, return_tensors="pt", **settings)""",
}

_EFFICIENTNET = """\
import librosa
import numpy as np
import torch
from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained(".").eval()
waveform, _ = librosa.load("clip.wav", sr={rate})
waveform = librosa.util.fix_length(waveform, size={samples})  # cut, or padded with silence, as in training
{features}
pixel_values = torch.tensor(spectrogram, dtype=torch.float32)[None, None].expand(1, 3, -1, -1)
with torch.no_grad():
    probabilities = model(pixel_values=pixel_values).logits.softmax(-1)[0]
for i in probabilities.argsort(descending=True)[:3].tolist():
    print(model.config.id2label[i], f"{{probabilities[i]:.3f}}")"""

_LOG_MEL = """\
power = librosa.feature.melspectrogram(
    y=waveform, sr={rate}, n_fft={n_fft}, win_length={win_length}, hop_length={hop}, center={center},
    pad_mode="constant", n_mels={mels}, fmin={fmin}, fmax={fmax}, htk={htk}, norm={norm!r},
)
spectrogram = (np.log(power.T + {offset}) - ({mean})) / {std}  # frames × bins"""

_OTHER_FRONTEND = """\
from esc_jax.frontends import registry  # this frontend is in no other library

spectrogram = np.array(registry.build({frontend}, {rate})(waveform))  # frames × bins"""


class CardError(Failure, RuntimeError):
    """The run's results cannot be read. The message is one sentence."""


def name(run) -> str:
    """What the model is called: its experiment, or where that has no name its architecture."""
    return run.config.experiment or run.config.model.name


def measured(run) -> dict[str, Any]:
    """The accuracy of exactly these weights, from the results.json of their run.

    Returns:
        {"accuracy", "std", "ci95", "clips", "folds", "protocol", "test_selected", "accuracy_tta", "tta_views"}, or
        {"accuracy": None, "reason"} where there is none.
    Raises:
        CardError: results.json is there and is not what a run writes.
    """
    workdir = run.folder.parent if run.folder.name == "checkpoints" else run.folder
    path = pathlib.Path(workdir) / "results.json"
    if not path.exists():
        return {"accuracy": None, "reason": "the run has no results"}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        step = found.get("checkpoint_step")
        if step is not None and step != run.step:
            return {"accuracy": None, "reason": f"the run's results are of step {step}, these weights of {run.step}"}
        tta = found["accuracy_tta"]
        return {
            "accuracy": float(found["accuracy"]["mean"]),
            "std": found["accuracy"]["std"],
            "ci95": [float(bound) for bound in found["accuracy"]["ci95"]],
            "clips": sum(fold["total"] for fold in found["folds"]),
            "folds": sorted({fold["fold"] for fold in found["folds"]}),
            "protocol": found["protocol"],
            "test_selected": bool(found["test_selected"]),
            "accuracy_tta": float(tta["mean"]) if tta else None,
            "tta_views": found.get("tta_views", 0),
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CardError(f"{path} is not what a run writes: test the run again with --mode=evaluate") from None


def huggingface(run) -> str:
    """README.md of a directory for transformers."""
    rate, size = run.sample_rate, round(run.clip_s * run.sample_rate)
    if run.config.model.name == "hubert":
        inputs = _HUBERT_INPUTS[run.mask_padding].format(rate=rate, samples=size)
        code = _HUBERT.format(rate=rate, inputs=inputs)
        about = "The feature extractor takes the waveform as it is; nothing else is to be set."
    else:
        code = _EFFICIENTNET.format(rate=rate, samples=size, features=_features(run))
        about = (
            "`pixel_values` is the spectrogram, three times over, (batch, 3, frames, bins); transformers has no"
            " processor that makes it. Its settings are in config.json, `esc_jax_frontend`."
        )
    if run.config.model.dtype != "float32":
        about += (
            f"\n\nIt was trained and measured in {run.config.model.dtype}. The weights are float32, as transformers"
            " computes: the probabilities differ by that rounding."
        )
    kind = "audio" if run.config.model.name == "hubert" else "image"
    header = f"---\nlibrary_name: transformers\npipeline_tag: {kind}-classification\nlicense: other\n---\n\n"
    use = f"In this folder, with transformers, torch and librosa:\n\n```python\n{code}\n```\n\n{about}"
    return header + _card(run, use)


def stablehlo(run) -> str:
    """README.md of a program."""
    import jax

    code = _STABLEHLO.format(rate=run.sample_rate, seconds=run.clip_s)
    use = (
        f"In this folder, with jax and numpy alone:\n\n```python\n{code}\n```\n\n"
        "One program for CPU, CUDA and TPU, from waveform to probabilities: spectrogram, model and weights are inside."
        " `waveforms` is (batch, samples), of any batch size; each new one is compiled once. A shorter clip is padded"
        " with zeros at its end, a longer recording cut into windows. On GPU and TPU, JAX multiplies matrices with"
        " fewer digits than on a CPU unless told otherwise.\n\n"
        f"Exported with JAX {jax.__version__}, which promises that releases of the next six months read it; after that,"
        " export the checkpoint again."
    )
    return _card(run, use)


def _card(run, use: str) -> str:
    config = run.config
    data, data_licence = _data(run)
    parameters = sum(leaf.size for leaf in _leaves(run.variables["params"]))
    started = f"from the published weights `{_published(config.model.pretrained)}`" if config.model.pretrained else ""
    licence = [f"- {data_licence}." if data_licence else "", f"- {_weights_licence(config)}." if started else ""]
    lines = [
        f"# {name(run)}",
        f"Classifies sounds: {len(run.classes)} classes, clips of {run.clip_s:g} s, mono, {run.sample_rate} Hz."
        f" {config.model.name}, {parameters:,} parameters, trained with esc_jax on {data}"
        f" {started or 'from random weights'}.",
        "## Use",
        use,
        "## Measured",
        _measured_in_words(measured(run)),
        f"Protocol `{config.protocol}`, test fold {config.data.test_fold}, which was left out of the training. The"
        " probabilities are the softmax of the model, not calibrated; a sound of no class gets one all the same.",
        "## Classes",
        ", ".join(run.classes) + ".",
        "## Licence",
        "The weights derive from what they were trained on and started from, whose licences apply:\n\n"
        + "\n".join(line for line in licence if line)
        if any(licence)
        else "The weights derive from no published recordings or weights.",
    ]
    return "\n\n".join(lines) + "\n"


def _leaves(tree: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(tree)


def _measured_in_words(found: dict[str, Any]) -> str:
    if found["accuracy"] is None:
        return f"No accuracy is known: {found['reason']}."
    low, high = found["ci95"]
    spread = f" ± {100 * found['std']:.2f} (standard deviation over runs)" if found["std"] is not None else ""
    folds = f"fold{'s' if len(found['folds']) > 1 else ''} {', '.join(map(str, found['folds']))}"
    text = (
        f"**{100 * found['accuracy']:.2f} %**{spread} of {found['clips']} clips of {folds}, 95 % interval"
        f" {100 * low:.1f} to {100 * high:.1f} (Wilson, clips taken as independent):"
        f" {_PROTOCOLS.get(found['protocol'], 'protocol ' + found['protocol'])}."
    )
    if found["accuracy_tta"] is not None:
        text += f" With {found['tta_views']} views averaged, which this export does not do: "
        text += f"{100 * found['accuracy_tta']:.2f} %."
    return text


def _data(run) -> tuple[str, str]:
    """What the data are called, and the sentence on their licence."""
    kind = run.config.data.name
    if kind in ("esc50", "esc10") and not set(run.classes) >= _ESC_CLASSES:
        return "a data set in ESC-50's layout", "The licence of those recordings applies"
    return _DATA.get(kind, (kind, f"The licence of {kind} applies"))


def _published(pretrained: str) -> str:
    """A hub id as it is; of a path the last part, for where it lay is nobody's business."""
    return pretrained if re.fullmatch(r"[\w-]+/[\w.-]+", pretrained) else pathlib.PurePath(pretrained).name


def _weights_licence(config) -> str:
    known = _WEIGHTS.get(config.model.name, "see where they are published")
    return f"`{_published(config.model.pretrained)}`: the licence of the published weights ({known}; check it there)"


def _features(run) -> str:
    """Code from `waveform` to `spectrogram`: librosa's for log-mel, which gives the same."""
    frontend = run.config.frontend.to_dict()
    if frontend["name"] != "log_mel":
        return _OTHER_FRONTEND.format(frontend=frontend, rate=run.sample_rate)
    values = frontend | {
        "rate": run.sample_rate,
        "win_length": frontend["win_length"] or frontend["n_fft"],
        "fmax": frontend["fmax"] or run.sample_rate / 2,
        "norm": None if frontend["htk"] else "slaney",
    }
    return _LOG_MEL.format(**values)
