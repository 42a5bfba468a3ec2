"""HTTP server of the monitor: serves the data of the other modules as JSON, and the page's files."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from rl.app.run_files import MOST_CONFIG, read_text
from rl.monitor.access import Access
from rl.monitor.charts import layout
from rl.monitor.compare import compare
from rl.monitor.episodes import episodes, question, sources
from rl.monitor.filters import EpisodeQuery
from rl.monitor.groups import Groups
from rl.monitor.index import EpisodeIndex
from rl.monitor.runs import NotThere, Run, Runs
from rl.monitor.series import curve
from rl.monitor.summaries import Summaries
from rl.monitor.warnings_find import find_warnings
from rl.monitor.warnings_view import RunWarning

_LOOK_EVERY = 2.0  # seconds between two looks for new runs
_STATIC = Path(__file__).parent / "static"


def make_app(runs: Runs, token: str | None = None) -> FastAPI:
    """Builds the app that serves `runs`.

    Args:
        token: required from every client; None: anyone on this machine may read.
    """
    index = EpisodeIndex()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        index.close()

    app = FastAPI(title="Sawtooth monitor", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Access, token=token)
    _say_errors(app)
    _curves(app, runs)
    _episodes(app, runs, index)

    @app.get("/")
    def page() -> Response:
        return FileResponse(_STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", Files(directory=_STATIC), name="static")
    app.mount("/vendor", Files(directory=str(files("plotly") / "package_data")), name="vendor")
    return app


class Files(StaticFiles):
    """Static files that a browser revalidates each time: modules of two versions would not work together."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


class Answer(JSONResponse):
    """JSON response in which nan and inf become null, and a lone surrogate becomes a question mark."""

    def render(self, content: Any) -> bytes:
        return json.dumps(_finite(content), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _warnings(run: Run) -> list[RunWarning]:
    try:
        return find_warnings(run, run.curves)
    except Exception as error:
        logging.getLogger(__name__).exception("warnings of run %s", run.id)
        detail = f"{type(error).__name__}: {error}"
        return [RunWarning("failed", "warning", "The warnings can't be computed", detail, "Please report this.")]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _say_errors(app: FastAPI) -> None:
    """Turns each error into one line that the page shows; the server keeps running."""

    def said(code: int, text: Callable[[Any], str]) -> Callable[[Request, Exception], JSONResponse]:
        return lambda _, error: JSONResponse({"error": text(error)}, code)

    def mistakes(error: RequestValidationError) -> str:
        return "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())

    app.add_exception_handler(NotThere, said(404, str))
    app.add_exception_handler(ValueError, said(422, str))
    app.add_exception_handler(OSError, said(410, lambda error: f"{error}: it was deleted or can't be read"))
    app.add_exception_handler(RequestValidationError, said(422, mistakes))


def _curves(app: FastAPI, runs: Runs) -> None:
    summaries = Summaries()

    def named(ids: str) -> list[Run]:
        found = [runs.get(id) for id in ids.split(",") if id]
        for run in found:
            run.curves.refresh()
        return found

    @app.get("/api/runs")
    def all_runs() -> Response:
        return Answer({"runs": summaries.of(runs.refresh(_LOOK_EVERY)), "time": time.time()})

    @app.get("/api/config")
    def config(run: str) -> Response:
        return Answer({"text": read_text(runs.get(run).folder, "config.yaml", MOST_CONFIG)})

    @app.get("/api/charts")
    def charts(runs: str, stage: str = "rl") -> Response:
        names = dict.fromkeys(name for run in named(runs) for name in run.curves.names(stage))
        return Answer({"charts": [vars(chart) for chart in layout(list(names), stage)]})

    @app.get("/api/curves")
    def curves(
        request: Request,
        runs: str,
        name: Annotated[list[str], Query()],
        stage: str = "rl",
        x: Literal["step", "time"] = "step",
        low: Annotated[float | None, Query(alias="from")] = None,
        high: Annotated[float | None, Query(alias="to")] = None,
        points: Annotated[int, Query(ge=2, le=5000)] = 600,
    ) -> Response:
        found = named(runs)
        version = ",".join(run.curves.version for run in found)
        tag = f'"{hash((version, str(request.url))):x}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}  # the browser caches the curves and revalidates each time
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        drawn = {
            run.id: {
                one: curve(run.curves, stage, one, x=x, low=low, high=high, points=points)
                for one in dict.fromkeys(name)
            }
            for run in found
        }
        return Answer({"curves": drawn}, headers=headers)

    @app.get("/api/warnings")
    def warnings(runs: str) -> Response:
        found = [{"run": run.id, **vars(one)} for run in named(runs) for one in _warnings(run)]
        return Answer({"warnings": found})


class _Episodes(EpisodeQuery):
    run: str


def _episodes(app: FastAPI, runs: Runs, index: EpisodeIndex) -> None:
    groups = Groups(index)

    @app.get("/api/sources")
    def all_sources(run: str) -> Response:
        return Answer(sources(index, runs.get(run)))

    @app.get("/api/episodes")
    def table(asked: Annotated[_Episodes, Query()]) -> Response:
        return Answer(episodes(index, runs.get(asked.run), **asked.model_dump(exclude={"run"})))

    @app.get("/api/group")
    def group(run: str, source: str, step: int, group: str) -> Response:
        return Answer(groups.group(runs.get(run), source, step, group))

    @app.get("/api/round")
    def one_round(run: str, source: str, step: int, episode: int, round: int) -> Response:
        return Answer(groups.round(runs.get(run), source, step, episode, round))

    @app.get("/api/question")
    def story(run: str, qid: str) -> Response:
        return Answer(question(index, runs.get(run), qid))

    @app.get("/api/compare")
    def compared(
        a: str,
        b: str,
        kind: Literal["all", "solved", "lost", "both", "neither"] = "all",
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> Response:
        return Answer(compare(index, runs, a, b, kind, limit, offset))
