"""Usage examples of model cards. Every example is complete and runs in the exported folder."""

from esc_jax.tasks import registry as tasks
from esc_jax.training.restore import Restored

_STABLEHLO = """\
import json

import jax
from jax import export
import numpy as np

model = json.load(open("model.json"))
classify = jax.jit(export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call)
waveforms = np.zeros((1, model["samples"]), np.float32)  # your clips: mono, {rate} Hz, {seconds:g} s, in [-1, 1]
probabilities = np.asarray(classify(waveforms))
{classes}"""

# Parts of example.py: a wav file as windows of the model, and the classes of a window.
_READ_WAVE = """\
path = sys.argv[1] if len(sys.argv) > 1 else "clip.wav"
try:
    with wave.open(path) as clip:
        if (clip.getframerate(), clip.getsampwidth()) != (rate, 2):
            raise wave.Error
        channels = np.frombuffer(clip.readframes(clip.getnframes()), np.int16).reshape(-1, clip.getnchannels())
except (OSError, EOFError, wave.Error):
    sys.exit(f"{path} is not a 16-bit wav file of {rate} Hz: ffmpeg -i FILE -ar {rate} -c:a pcm_s16le clip.wav")

waveform = np.zeros(max(samples, len(channels)), np.float32)  # a short recording is padded with zeros
waveform[: len(channels)] = channels.mean(1) / 32768
starts = [*range(0, len(waveform) - samples, samples), len(waveform) - samples]  # the last window ends with the file
"""
_PRINT_CLASSES = """\
    best = ", ".join(f"{labels[i]} {row[i]:.3f}" for i in row.argsort()[::-1][:3])
    print(f"{start / rate:.1f} s: {best}")
"""

# example.py of an ONNX export, which is the same for every model.
ONNX = (
    """\
import pathlib
import sys
import wave

import numpy as np
import onnxruntime

file = pathlib.Path(__file__).with_name("model.onnx")
model = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
about = model.get_modelmeta().custom_metadata_map
labels, rate, samples = about["labels"].split("\\n"), int(about["sample_rate"]), int(about["samples"])

"""
    + _READ_WAVE
    + """\
probabilities = model.run(None, {"waveform": np.stack([waveform[start : start + samples] for start in starts])})[0]
for start, row in zip(starts, probabilities):
"""
    + _PRINT_CLASSES
)

# example.py of a LiteRT export.
TFLITE = (
    """\
import json
import pathlib
import sys
import wave

from ai_edge_litert.interpreter import Interpreter
import numpy as np

folder = pathlib.Path(__file__).parent
about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
labels, rate, samples = about["labels"], about["sample_rate"], about["samples"]
model = Interpreter(str(folder / "model.tflite"), num_threads=1)
model.allocate_tensors()
source, result = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]

"""
    + _READ_WAVE
    + """\
for start in starts:
    model.set_tensor(source, waveform[None, start : start + samples])
    model.invoke()
    row = model.get_tensor(result)[0]
"""
    + _PRINT_CLASSES
)

# The classes of a clip: by whether every decision is exactly one class.
_STABLEHLO_CLASSES = {
    True: """\
for i in probabilities[0].argsort()[::-1][:3]:
    print(model["labels"][i], f"{probabilities[0, i]:.3f}")""",
    False: """\
for label, probability, threshold in zip(model["labels"], probabilities[0], model["thresholds"]):
    if probability >= threshold:
        print(label, f"{probability:.3f}")""",
}
_TORCH_CLASSES = {
    True: """\
for i in probabilities.argsort(descending=True)[:3].tolist():
    print(model.config.id2label[i], f"{probabilities[i]:.3f}")""",
    False: """\
for i, threshold in enumerate(model.config.esc_jax_thresholds):
    if probabilities[i] >= threshold:
        print(model.config.id2label[i], f"{probabilities[i]:.3f}")""",
}

_HUBERT = """\
import librosa
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

extractor = AutoFeatureExtractor.from_pretrained(".")
model = AutoModelForAudioClassification.from_pretrained(".").eval()
waveform, _ = librosa.load("clip.wav", sr={rate})
{inputs}
with torch.no_grad():
    probabilities = model(**inputs).logits.{activation}[0]
{classes}"""

# By whether the model receives a padding mask.
_HUBERT_INPUTS = {
    False: """\
waveform = librosa.util.fix_length(waveform, size={samples})  # cut, or padded with zeros, as in training
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
waveform = librosa.util.fix_length(waveform, size={samples})  # cut, or padded with zeros, as in training
{features}
pixel_values = torch.tensor(spectrogram, dtype=torch.float32)[None, None].expand(1, 3, -1, -1)
with torch.no_grad():
    probabilities = model(pixel_values=pixel_values).logits.{activation}[0]
{classes}"""

_LOG_MEL = """\
power = librosa.feature.melspectrogram(
    y=waveform, sr={rate}, n_fft={n_fft}, win_length={win_length}, hop_length={hop}, center={center},
    pad_mode="constant", n_mels={mels}, fmin={fmin}, fmax={fmax}, htk={htk}, norm={norm!r},
)
spectrogram = (np.log(power.T + {offset}) - ({mean})) / {std}  # frames × bins"""

_OTHER_FRONTEND = """\
from esc_jax.frontends import registry  # no other library has this frontend

spectrogram = np.array(registry.build({frontend}, {rate})(waveform))  # frames × bins"""


def stablehlo_example(restored: Restored) -> str:
    """Python code that runs the program on a batch of waveforms."""
    classes = _STABLEHLO_CLASSES[tasks.get(restored.config.task).exclusive]
    return _STABLEHLO.format(rate=restored.model.sample_rate, seconds=restored.model.clip_s, classes=classes)


def transformers_example(restored: Restored) -> str:
    """Python code that classifies clip.wav with transformers."""
    model, task = restored.model, tasks.get(restored.config.task)
    values = {
        "rate": model.sample_rate,
        "samples": model.clip_samples,
        "activation": task.torch_activation,
        "classes": _TORCH_CLASSES[task.exclusive],
    }
    if restored.config.model.name == "hubert":
        return _HUBERT.format(inputs=_HUBERT_INPUTS[model.mask_padding].format(**values), **values)
    return _EFFICIENTNET.format(features=_features(restored), **values)


def _features(restored: Restored) -> str:
    """Code from `waveform` to `spectrogram`: for log-mel with librosa, which computes the same features."""
    frontend, rate = restored.config.frontend.to_dict(), restored.model.sample_rate
    if frontend["name"] != "log_mel":
        return _OTHER_FRONTEND.format(frontend=frontend, rate=rate)
    values = frontend | {
        "rate": rate,
        "win_length": frontend["win_length"] or frontend["n_fft"],
        "fmax": frontend["fmax"] or rate / 2,
        "norm": None if frontend["htk"] else "slaney",
    }
    return _LOG_MEL.format(**values)
