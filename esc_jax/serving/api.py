"""A JSON API that classifies uploaded recordings.

    POST /classify   a recording as the body → windows and events
    GET /model       classes, sample rate, limits
    GET /health      whether the server works
    GET /metrics     for Prometheus
    GET /docs        this API as a page; /openapi.json describes it for programs

Uploads are computed one after the other. A bounded number of them is received or waits; further ones are answered with
503 and Retry-After.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent import futures
import contextlib
import functools
import math
import pathlib
import tempfile
import time
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
import uvicorn

import esc_jax
from esc_jax import files
from esc_jax.data.audio import AudioError
from esc_jax.errors import counted, describe_error, printable, shorten
from esc_jax.inference.classifier import SoundClassifier, load_classifier
from esc_jax.inference.events import EventOptions
from esc_jax.inference.live import warm_up
from esc_jax.inference.timeline import Timeline
from esc_jax.runtime import memory
from esc_jax.serving import schema, uploads
from esc_jax.serving.api_page import page
from esc_jax.serving.metrics import CONTENT_TYPE, Metrics

_CLOSED = "the client has closed the connection"
_UPLOAD_S = 60.0  # for a whole upload
_BODY = {
    "requestBody": {
        "required": True,
        "description": "The file of a recording, of any format, sample rate and number of channels; no form.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": schema.Problem, "description": "The body is empty."},
    408: {"model": schema.Problem, "description": "The upload took too long."},
    413: {"model": schema.Problem, "description": "The file is too large, or the sound too long."},
    415: {"model": schema.Problem, "description": "The body is a form; expected the file itself."},
    422: {
        "model": schema.Problem,
        "description": "The file cannot be used as audio, or a parameter is unknown or has a bad value.",
    },
    503: {"model": schema.Problem, "description": "The queue is full; Retry-After says when to try again, in seconds."},
}


class Refusal(Exception):
    """A request that is answered with a sentence.

    Args:
        status: of HTTP.
        sentence: for the client.
        headers: of the answer.
    """

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.headers = status, headers


class Queue:
    """Uploads, which are computed one after the other.

    Args:
        classifier: the model.
        folder: for the uploads.
        max_s: maximum length of a sound, s.
        max_bytes: maximum size of an upload.
        max_queue: uploads that are received or wait beside the one that is computed.
        metrics: are updated.
    """

    def __init__(
        self,
        classifier: SoundClassifier,
        folder: pathlib.Path,
        *,
        max_s: float,
        max_bytes: int,
        max_queue: int,
        metrics: Metrics,
    ):
        self._classifier, self._folder, self._metrics = classifier, folder, metrics
        self._max_s, self._max_bytes, self._max_queue = max_s, max_bytes, max_queue
        self.waiting = 0
        self._mean_s = 1.0  # of computing an upload
        self._turn = asyncio.Semaphore(1)
        self._thread = futures.ThreadPoolExecutor(1, "classify")

    async def classify(self, request: Request, hop_s: float) -> Timeline:
        """Receives and classifies the body of a request. Raises Refusal."""
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            await self._drain(request)
            raise Refusal(415, "the body is a form: send the file itself, for example with curl --data-binary @file")
        if self.waiting > self._max_queue:
            await self._drain(request)
            later = min(600, math.ceil(self._mean_s * self.waiting))
            sentence = f"the queue is full ({counted(self.waiting, 'request')}): try again in {later} s"
            raise Refusal(503, sentence, {"Retry-After": str(later)})
        with self._counted():
            async with self._received(request) as path:
                begin = time.monotonic()
                async with self._turn:
                    self._metrics.wait.observe(time.monotonic() - begin)
                    if await request.is_disconnected():
                        raise Refusal(400, _CLOSED)
                    return await self._compute(path, hop_s)

    @contextlib.contextmanager
    def _counted(self) -> Any:
        self.waiting += 1
        self._metrics.waiting.set(self.waiting)
        try:
            yield
        finally:
            self.waiting -= 1
            self._metrics.waiting.set(self.waiting)

    async def _compute(self, path: str, hop_s: float) -> Timeline:
        begin = time.monotonic()
        call = functools.partial(uploads.classify, self._classifier, path, self._max_s, hop_s)
        try:
            timeline = await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except uploads.TooLongError as error:
            raise Refusal(413, str(error)) from None
        except AudioError as error:
            raise Refusal(422, str(error)) from None
        except Exception as error:
            description = describe_error(error)
            if description is None:
                raise
            raise Refusal(500, description[1].replace(f"{path}: ", "")) from None
        finally:
            seconds = time.monotonic() - begin
            self._metrics.compute.observe(seconds)
            self._mean_s += 0.2 * (seconds - self._mean_s)
        self._metrics.sound.inc(timeline.duration_s)
        self._metrics.windows.inc(len(timeline.starts))
        return timeline

    @contextlib.asynccontextmanager
    async def _received(self, request: Request) -> AsyncIterator[str]:
        """A temporary file with the body of the request."""
        size = 0
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix="upload_", delete=False) as file:
            path = pathlib.Path(file.name)
            try:
                async with asyncio.timeout(_UPLOAD_S):
                    async for piece in request.stream():
                        size += len(piece)
                        if size > self._max_bytes:
                            await self._drain(request)
                            raise Refusal(413, f"the file is larger than {self._max_bytes >> 20} MiB")
                        file.write(piece)
                file.close()
                if not size:
                    raise Refusal(400, "the body is empty: send a recording")
                yield str(path)
            except TimeoutError:
                raise Refusal(408, f"the upload took longer than {_UPLOAD_S:g} s") from None
            except ClientDisconnect:
                raise Refusal(400, _CLOSED) from None
            finally:
                file.close()
                path.unlink(missing_ok=True)

    async def _drain(self, request: Request) -> None:
        """Reads on, up to the limit: many clients read the answer only when they have sent all."""
        size = 0
        with contextlib.suppress(TimeoutError, RuntimeError):
            async with asyncio.timeout(_UPLOAD_S / 4):
                async for piece in request.stream():
                    size += len(piece)
                    if size > self._max_bytes:
                        return


def create_app(
    classifier: SoundClassifier,
    model: str,
    folder: pathlib.Path,
    *,
    max_s: float = 600.0,
    max_mb: int = 100,
    max_queue: int = uploads.MAX_QUEUE,
) -> FastAPI:
    """The application, without a server.

    Args:
        classifier: the model.
        model: its name.
        folder: for uploads, which are deleted when they are classified.
        max_s: maximum length of a sound, s.
        max_mb: maximum size of an upload, MiB.
        max_queue: uploads that are received or wait.
    """
    app = FastAPI(
        title="esc_jax",
        version=esc_jax.__version__,
        description="Classifies recordings: which sounds they contain, and when.",
        docs_url=None,  # their pages load scripts from other servers
        redoc_url=None,
    )
    metrics, begin = Metrics(model), time.monotonic()
    queue = Queue(classifier, folder, max_s=max_s, max_bytes=max_mb << 20, max_queue=max_queue, metrics=metrics)
    _add_error_handlers(app, metrics)

    @app.post("/classify", response_model=schema.Result, responses=_PROBLEMS, openapi_extra=_BODY, tags=["sounds"])
    async def classify(request: Request, parameters: Annotated[schema.ClassifyParameters, Query()]) -> Any:
        """Classifies a recording: every window, and when each class begins and ends."""
        timeline = await queue.classify(request, parameters.hop_s)
        options = EventOptions(parameters.min_confidence, {}, parameters.min_length_s, parameters.max_gap_s)
        return JSONResponse(uploads.document(timeline, parameters.top_k, options))

    @app.get("/model", response_model=schema.ModelInfo, tags=["server"])
    async def model_info() -> Any:
        """The model, and the limits of this server."""
        thresholds = classifier.thresholds
        return schema.ModelInfo(
            model=model,
            task=classifier.task.name,
            classes=list(classifier.classes),
            sample_rate=classifier.sample_rate,
            window_s=classifier.window_s,
            thresholds=None if thresholds is None else thresholds.tolist(),
            max_s=max_s,
            max_bytes=max_mb << 20,
            version=esc_jax.__version__,
        )

    @app.get("/health", response_model=schema.Health, tags=["server"])
    async def health() -> Any:
        """Whether the server works."""
        return schema.Health(status="ok", waiting=queue.waiting, uptime_s=round(time.monotonic() - begin, 1))

    @app.get("/metrics", tags=["server"], response_class=Response)
    async def read_metrics() -> Response:
        """Metrics in the text format of Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()))

    return app


def _add_error_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Answers every error with a JSON object of one sentence, and counts answers."""

    @app.exception_handler(Refusal)
    async def refuse(request: Request, error: Refusal) -> JSONResponse:
        return _problem(error.status, str(error), error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        sentence = f"{request.method} {shorten(request.url.path)}: {str(error.detail).lower()}; see /docs"
        return _problem(error.status_code, sentence, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        given, sentence = shorten(f"{first['loc'][-1]}={first.get('input')}"), first["msg"].lower()
        if first["type"] == "extra_forbidden":
            sentence = f"there is no such parameter; expected {', '.join(schema.ClassifyParameters.model_fields)}"
        return _problem(422, f"{given}: {sentence}")

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> JSONResponse:
        return _problem(500, "the server has failed; its log has the reason")

    @app.middleware("http")
    async def count(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        status = 500
        try:
            response = await call_next(request)
            status = response.status_code
            return response
        finally:
            known = request.url.path in {getattr(route, "path", "") for route in app.routes}
            metrics.requests.labels(request.url.path if known else "other", str(status)).inc()


def _problem(status: int, sentence: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"detail": printable(sentence)}, status, headers)


def serve(
    model: str,
    *,
    host: str,
    port: int,
    max_s: float,
    max_mb: int,
    max_queue: int,
    announce: Callable[[str], None],
) -> None:
    """Serves the API until the process is interrupted. Requests that are being computed are then finished.

    Args:
        model: workdir of a run, or a published classifier.
        host, port: address to listen on.
        max_s, max_mb, max_queue: as of `create_app`.
        announce: called with the address when the API is served.

    Raises:
        AddressError: the address cannot be used.
        CheckpointError, PretrainedError, ModelPathError: as of `load_classifier`.
    """
    memory.share_heap()
    with uploads.bind(host, port) as listener, files.temporary_folder("esc_jax_serve_") as folder:
        classifier = load_classifier(model)
        warm_up(classifier, classifier.window_s)
        app = create_app(classifier, model, folder, max_s=max_s, max_mb=max_mb, max_queue=max_queue)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=30
        )
        address = f"[{host}]" if ":" in host else host
        announce(f"http://{address}:{listener.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listener])
