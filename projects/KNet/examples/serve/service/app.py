"""The service's addresses, and what happens to a request."""

import asyncio
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Callable, Dict, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from .answers import KINDS, Answers
from .batching import Batcher
from .errors import RequestError
from .observing import Metrics, Observer, facts
from .pictures import read_picture
from .settings import Settings

logger = logging.getLogger(__name__)

SEGMENT = "/v1/segment"
DECODERS = 2  # threads: each may hold a picture of max_pixels
DRAIN_SECONDS = 2.0  # a refused body is read so long, for the client to see the answer
BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY = {
    "required": True,
    "content": {
        "image/*": BINARY,
        "application/octet-stream": BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": BINARY["schema"]},
            }
        },
    },
}
ERRORS = {
    400: "no picture, or a broken one",
    411: "the length is not told",
    413: "too many bytes or pixels",
    415: "another content type",
    422: "a wrong parameter, or a picture that the model cannot take",
    503: "too many requests: come again after Retry-After seconds",
    504: "it takes too long",
}


class Service:
    """A model behind its limits."""

    def __init__(self, predictor, settings: Settings):
        """
        Args:
            predictor: ``knet_runtime.OnnxPredictor`` that makes one kind of results of RGB.
            settings: the limits.
        """
        self.predictor, self.settings = predictor, settings
        (key,) = predictor.results
        self.kind = next(kind for kind, each in KINDS.items() if each == key)
        self.metrics = Metrics()
        self.answers = Answers(self.kind, predictor.classes, settings.score_threshold)
        self.batcher = Batcher(
            predictor.predict, settings.max_batch, settings.max_wait, self.metrics.of_batch
        )
        self.num_accepted = 0
        self._threads = ThreadPoolExecutor(DECODERS, "pictures")
        self.metrics.accepted.set_function(lambda: self.num_accepted)
        self.metrics.waiting.set_function(lambda: self.batcher.num_waiting)
        self._seconds_each = 1.0  # a request, lately

    async def segment(self, request: Request, make: Callable[[Dict], Any]) -> Any:
        """Answer one request.

        Args:
            request: with a picture.
            make: the result -> the answer; called in a thread.

        Raises:
            RequestError: no answer.
        """
        limits = self.settings
        if self.num_accepted >= limits.max_requests:
            seconds = math.ceil(self._seconds_each * self.num_accepted)
            await drain(request)
            raise RequestError(
                503,
                "busy",
                f"{limits.max_requests} requests are being answered: come again later.",
                {"Retry-After": str(min(max(seconds, 1), 60))},
            )
        self.num_accepted += 1
        start = time.perf_counter()
        try:
            answer = await asyncio.wait_for(self._segment(request, make), limits.timeout)
        except asyncio.TimeoutError:
            text = f"The answer takes longer than {limits.timeout:g} seconds."
            raise RequestError(504, "timeout", text) from None
        finally:
            self.num_accepted -= 1
        share = (time.perf_counter() - start) / (self.num_accepted + 1)
        self._seconds_each += 0.1 * (share - self._seconds_each)
        return answer

    async def _segment(self, request: Request, make: Callable[[Dict], Any]) -> Any:
        content = await read_body(request, self.settings.max_bytes)
        picture = await self._in_thread(read_picture, content, self.settings.max_pixels)
        size = picture.shape[:2]
        facts.get().update(bytes=len(content), height=size[0], width=size[1])
        try:
            prepared = await self._in_thread(self.predictor.prepare, picture)
        except ValueError as error:
            text = f"The model cannot take the picture: {error}."
            raise RequestError(422, "unsuitable", text) from error
        result = await self.batcher(prepared, size)
        return await self._in_thread(make, result)

    async def _in_thread(self, function: Callable, *arguments) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The picture's file: the body, or the part ``image`` of a form.

    Raises:
        RequestError: 400, 411, 413 or 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = kind == "multipart/form-data"
    if not (is_form or kind.startswith("image/") or kind == "application/octet-stream"):
        await drain(request)
        text = "Send image/*, application/octet-stream, or multipart/form-data with 'image'."
        raise RequestError(415, "content_type", text)
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise RequestError(411, "no_length", "Tell the body's length: Content-Length.")
    if int(length) > max_bytes:
        await drain(request)
        text = f"The body has {length} bytes: at most {max_bytes} are taken."
        raise RequestError(413, "too_many_bytes", text)
    try:
        if not is_form:
            return await request.body()
        async with request.form(max_files=1, max_fields=10) as form:
            image = form.get("image")
            if image is None or isinstance(image, str):
                text = "The form has no file 'image'."
                raise RequestError(400, "no_image", text)
            return await image.read()
    except ClientDisconnect as error:
        raise RequestError(400, "cut_off", "The body has ended too early.") from error
    except HTTPException as error:  # the form is broken
        raise RequestError(400, "broken_form", f"The form is broken: {error.detail}.") from error


async def drain(request: Request) -> None:
    """Read what comes and forget it: a client that still sends would not see the answer."""

    async def read() -> None:
        async for _ in request.stream():
            pass

    try:
        await asyncio.wait_for(read(), DRAIN_SECONDS)
    except Exception:  # slow, or gone
        logger.debug("a refused body was not read to its end")


def create_app(predictor, settings: Settings) -> FastAPI:
    """The application of a model.

    Args:
        predictor, settings: see :class:`Service`.
    """
    service = Service(predictor, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        work = asyncio.create_task(service.batcher.run())
        yield  # until uvicorn has answered what it has accepted
        work.cancel()

    app = FastAPI(
        title="K-Net",
        version="1",
        description="Segmentation of pictures.",
        lifespan=lifespan,
        docs_url=None,  # pages that load scripts from other machines
        redoc_url=None,
    )
    app.add_middleware(Observer, metrics=service.metrics, segment_path=SEGMENT)
    _add_segment(app, service)
    _add_looks(app, service)
    _add_errors(app)
    return app


def _add_segment(app: FastAPI, service: Service) -> None:
    @app.post(
        SEGMENT,
        summary="Segment a picture",
        openapi_extra={"requestBody": BODY},
        responses={
            200: {"content": {"image/png": BINARY}},
            **{status: {"description": text} for status, text in ERRORS.items()},
        },
    )
    async def segment(request: Request, format: Literal["json", "png"] = "json") -> Response:
        if format == "json":
            return await service.segment(
                request, lambda r: JSONResponse(service.answers.to_json(r))
            )
        if service.kind == "instance":
            text = "Instances may overlap, so there is no PNG of them: ask for format=json."
            raise RequestError(422, "no_png", text)
        return await service.segment(
            request, lambda r: Response(service.answers.to_png(r), media_type="image/png")
        )


def _add_looks(app: FastAPI, service: Service) -> None:
    @app.get("/v1/model", summary="Classes of the model, and limits")
    async def model() -> Dict:
        limits = service.settings
        return {
            "kind": service.kind,
            "classes": service.predictor.classes,
            "max_bytes": limits.max_bytes,
            "max_pixels": limits.max_pixels,
            "timeout": limits.timeout,
        }

    @app.get("/healthz", summary="Is the process alive?")
    async def health() -> Dict:
        return {"status": "ok"}

    @app.get("/readyz", summary="Would a request be accepted now?")
    async def ready() -> JSONResponse:
        is_ready = service.num_accepted < service.settings.max_requests
        status = "ready" if is_ready else "busy"
        return JSONResponse({"status": status}, 200 if is_ready else 503)

    @app.get("/metrics", summary="For Prometheus", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_errors(app: FastAPI) -> None:
    def answer(error: RequestError) -> JSONResponse:
        facts.get().update(error=error.code)
        return JSONResponse(error.body, error.status, headers=error.headers)

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(HTTPException)  # no such address or method
    async def not_there(request: Request, error: HTTPException) -> JSONResponse:
        code = "_".join(str(error.detail).lower().split())
        return answer(RequestError(error.status_code, code, f"{error.detail}.", error.headers))

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        text = f"{first['loc'][-1]}: {first['msg']}."
        return answer(RequestError(422, "wrong_parameter", text))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        text = "The service has failed; its log says more, by the request's id."
        return answer(RequestError(500, "failed", text))
