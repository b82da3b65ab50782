"""A small page on this machine alone: answers side by side, rated A to D by a person.

No script: a form per question. Models are not named while rating, and stand in another order for
every question.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from rag_owl.errors import InvalidSettings, RagOwlError
from rag_owl.evaluation import page
from rag_owl.evaluation.owleval import ABILITIES, OwlQuestion
from rag_owl.evaluation.ratings import SCALE, Ratings, blind_order, summary

_IN_FILE = (
    "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'"
)
_POLICY = f"{_IN_FILE}; frame-ancestors 'none'"  # that is for headers only
_MOST_BYTES = 64 * 1024  # of a form
_STYLE = """<style>
.asked { max-width: 100%; max-height: 24rem; border: 1px solid var(--line); }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
fieldset { border: 1px solid var(--line); border-radius: .4rem; min-width: 0; }
.say { white-space: pre-wrap; max-height: 26rem; overflow-y: auto; }
label { display: block; padding: .25rem 0; }
button { font: inherit; padding: .5rem 1.2rem; margin-top: 1rem; }
nav { display: flex; gap: 1rem; flex-wrap: wrap; }
nav a.done { opacity: .6; }
</style>"""


class Rating:
    """The pages of one run."""

    def __init__(
        self,
        questions: Sequence[OwlQuestion],
        answers: Mapping[str, Mapping[int, str]],
        ratings: Ratings,
    ) -> None:
        self._questions, self._answers, self._ratings = questions, answers, ratings

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self.index),
                Route("/results", self.results),
                Route("/results.json", self.as_json),
                Route("/picture/{at:int}", self.picture),
                Route("/{at:int}", self.question, methods=["GET"]),
                Route("/{at:int}", self.rate, methods=["POST"]),
            ],
            middleware=[
                # Another site that has its name point here must not reach it.
                Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1"])
            ],
        )

    # --- pages ------------------------------------------------------------------------------------

    def index(self, request: Request) -> Response:
        for at, each in enumerate(self._questions):
            if self._open(each):
                return RedirectResponse(f"/{at}", 303)
        return RedirectResponse("/results", 303)

    def question(self, request: Request) -> Response:
        at, asked = self._asked(request)
        if asked is None:
            return _page("No such question", "<p>There is no such question.</p>", 404)
        models = blind_order(asked.id, self._models(asked))
        answers = "".join(self._answer(n, model, asked) for n, model in enumerate(models))
        abilities = ", ".join(ABILITIES[letter] for letter in asked.abilities)
        before = "".join(
            f"<li>{escape(each.question)}</li>" for each in self._questions if each.id in
            asked.follows
        )  # fmt: skip
        rated = sum(not self._open(each) for each in self._questions)
        body = (
            f"<h1>{escape(asked.question)}</h1>"
            f'<p class="small">Question {at + 1} of {len(self._questions)}, {rated} rated'
            f"{' · ' + escape(abilities) if abilities else ''}</p>"
            + (f"<p>Asked before, of the same picture:</p><ol>{before}</ol>" if before else "")
            + f'<img class="asked" src="/picture/{at}" alt="What the question is about">'
            f'<form method="post" action="/{at}"><div class="side">{answers}</div>'
            f'<button type="submit">Keep and go on</button></form>{self._nav(at)}'
        )
        return _page(asked.question, body)

    def _answer(self, number: int, model: str, asked: OwlQuestion) -> str:
        given = self._ratings.given.get((asked.id, model))
        choices = "".join(
            f'<label><input type="radio" name="{number}" value="{letter}"'
            f"{' checked' if given == letter else ''}> <b>{letter}</b> {escape(meaning)}</label>"
            for letter, meaning in SCALE.items()
        )
        return (
            f"<fieldset><legend>Answer {number + 1}</legend>"
            f'<p class="say" tabindex="0">{escape(self._answers[model][asked.id])}</p>{choices}'
            "</fieldset>"
        )

    def _nav(self, at: int) -> str:
        links = []
        if at > 0:
            links.append(f'<a href="/{at - 1}">Question before</a>')
        if at + 1 < len(self._questions):
            links.append(f'<a href="/{at + 1}">Next question</a>')
        links.append('<a href="/results">Results, with the models\' names</a>')
        return f"<nav>{''.join(links)}</nav>"

    async def rate(self, request: Request) -> Response:
        at, asked = self._asked(request)
        if asked is None:
            return _page("No such question", "<p>There is no such question.</p>", 404)
        # A form of another site could rate too; browsers say where a form comes from.
        origin = request.headers.get("origin", "")
        if urlsplit(origin).netloc != request.headers.get("host"):
            return _page("Refused", "<p>This form came from another page.</p>", 403)
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BYTES:
                return _page("Too large", "<p>This is no form of this page.</p>", 413)
        form = parse_qs(body.decode("ascii", "replace"))
        models = blind_order(asked.id, self._models(asked))
        chosen = [
            (model, form[str(number)][0])
            for number, model in enumerate(models)
            if str(number) in form
        ]
        try:
            for model, letter in chosen:
                await run_in_threadpool(self._ratings.rate, asked.id, model, letter)
        except RagOwlError as error:
            return _page("Not kept", f"<p>{escape(str(error))}</p>", 400)
        return RedirectResponse(f"/{at + 1}" if at + 1 < len(self._questions) else "/results", 303)

    def results(self, request: Request) -> Response:
        found = self._summary()["models"]
        head = ["", "rated", *SCALE]
        rows = [
            [model, f"{each['rated']} of {each['answers']}", *(str(each[k]) for k in SCALE)]
            for model, each in found.items()
        ]
        parts = ["<h1>Ratings</h1>", page.table(head, rows)]
        for ability in ABILITIES.values():
            rows = [
                [model, *(str(each["by_ability"][ability][k]) for k in ("rated", *SCALE))]
                for model, each in found.items()
                if ability in each["by_ability"]
            ]
            if rows:
                parts += [f"<h2>{escape(ability.capitalize())}</h2>", page.table(head, rows)]
        meanings = "; ".join(f"{letter}: {meaning}" for letter, meaning in SCALE.items())
        parts.append(f'<p class="small">{escape(meanings)}</p><p><a href="/">Go on rating</a></p>')
        return _page("Ratings", "".join(parts))

    def as_json(self, request: Request) -> Response:
        return JSONResponse(self._summary())

    def picture(self, request: Request) -> Response:
        _, asked = self._asked(request)
        if asked is None or not asked.image.is_file():
            return Response(status_code=404)
        # Whatever the file holds, it is shown as a picture or not at all.
        kind = "image/png" if asked.image.suffix.lower() == ".png" else "image/jpeg"
        safe = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
        return FileResponse(asked.image, media_type=kind, headers=safe)

    # --- what there is --------------------------------------------------------------------------

    def _asked(self, request: Request) -> tuple[int, OwlQuestion | None]:
        at: int = request.path_params["at"]
        return at, self._questions[at] if at < len(self._questions) else None

    def _models(self, asked: OwlQuestion) -> list[str]:
        return [model for model, found in self._answers.items() if asked.id in found]

    def _open(self, asked: OwlQuestion) -> bool:
        return any((asked.id, model) not in self._ratings.given for model in self._models(asked))

    def _summary(self) -> dict[str, Any]:
        return summary(self._ratings.given, self._answers, self._questions)


def serve(rating: Rating, port: int, say: Callable[[str], None]) -> None:
    """On loopback until it is interrupted. Raises `InvalidSettings` for a port that is taken."""
    import uvicorn

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            raise InvalidSettings(
                f"cannot listen on port {port}: {error.strerror or error}; choose one with --port"
            ) from error
        say(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        config = uvicorn.Config(rating.app(), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    headers = {
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
    return HTMLResponse(page.document(title, _STYLE + body, _IN_FILE), status, headers)
