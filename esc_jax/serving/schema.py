"""The types of the API, from which its OpenAPI description is made."""

from pydantic import BaseModel, ConfigDict, Field

from esc_jax.serving import uploads


class ClassifyParameters(BaseModel):
    """The parameters of a request to classify a sound. Others are refused."""

    model_config = ConfigDict(extra="forbid")

    hop_s: float = Field(1.0, ge=0.1, le=600.0, description="time between windows, seconds")
    top_k: int = Field(uploads.TOP_K, ge=1, le=1000, description="classes of a window")
    min_confidence: float | None = Field(
        None, ge=0.0, le=1.0, description="smallest probability of an event; of the model by default"
    )
    min_length_s: float = Field(0.0, ge=0.0, description="shorter events are dropped, seconds")
    max_gap_s: float = Field(0.0, ge=0.0, description="events that are closer are joined, seconds")


class ClassProbability(BaseModel):
    """A class with its probability."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="class", description="name of the class")
    probability: float = Field(description="from 0 to 1")


class Whole(BaseModel):
    """The sound without its silent windows: the mean, or the maximum for a multi-label model."""

    silent: bool = Field(description="whether all of it is silence")
    unfamiliar: bool = Field(description="whether most of it is unlike any class of the model")
    detected: list[str] | None = Field(None, description="of a multi-label model: classes above their thresholds")
    top: list[ClassProbability] = Field(description="the most probable classes")


class Window(BaseModel):
    """A window of the sound."""

    start_s: float = Field(description="start, seconds from the beginning")
    end_s: float = Field(description="end, seconds from the beginning")
    level_db: float | None = Field(description="RMS level, dB relative to full scale; null for digital silence")
    silent: bool = Field(description="whether the level is below the threshold of silence")
    unfamiliar: bool = Field(description="whether the window is unlike any class of the model")
    detected: list[str] | None = Field(None, description="of a multi-label model: classes above their thresholds")
    top: list[ClassProbability] = Field(description="the most probable classes; empty for silence")


class Event(BaseModel):
    """A part of a recording in which a class is detected without interruption."""

    onset_s: float = Field(description="beginning, seconds")
    offset_s: float = Field(description="end, seconds")
    label: str = Field(description="name of the class")
    score: float = Field(description="largest probability of the class in a window of the event")
    peak_s: float = Field(description="centre of the window with this probability, seconds")
    unfamiliar: bool = Field(description="whether more than half of the windows are unlike any class of the model")


class Result(BaseModel):
    """The result of a sound."""

    duration_s: float = Field(description="length of the sound, seconds")
    note: str = Field(description="what is wrong with the file, such as that it breaks off; or empty")
    whole: Whole
    windows: list[Window]
    events: list[Event]


class ModelInfo(BaseModel):
    """The model, and the limits of this server."""

    model: str = Field(description="as given on the command line")
    task: str = Field(description="single_label or multi_label")
    classes: list[str]
    sample_rate: int = Field(description="of the model, Hz; sounds of any rate are resampled")
    window_s: float = Field(description="length of a window, seconds")
    thresholds: list[float] | None = Field(description="of the classes of a multi-label model; null for its default")
    max_s: float = Field(description="longest sound, seconds")
    max_bytes: int = Field(description="largest upload, bytes")
    version: str = Field(description="of esc_jax")


class Health(BaseModel):
    """The state of the server."""

    status: str = Field(description="ok")
    waiting: int = Field(description="requests that are being received, wait, or are computed")
    uptime_s: float = Field(description="since the start, seconds")


class Problem(BaseModel):
    """What is wrong with a request."""

    detail: str = Field(description="one sentence")
