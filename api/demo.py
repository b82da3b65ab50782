"""`rag-owl demo`: the whole of it in one minute, on the sample collection."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.markup import escape

from rag_owl.api import show
from rag_owl.client import RagOwl
from rag_owl.sample import write_sample

COLLECTION = "flags"
PICTURE = "japan.png"


def run(data: Path | None, out: Console, err: Console) -> None:
    """Write the sample, ingest it, ask three questions, say how to go on."""
    with RagOwl.open(data) as owl:
        folder = owl.folder / "sample"
        written = write_sample(folder)
        out.print(f"The sample collection: {len(written)} files in {escape(str(folder))}\n")
        with show.progress(err) as follow:
            job = owl.ingest(COLLECTION, [folder], on_progress=follow)
        show.job(out, job)
        with TemporaryDirectory() as scratch:
            picture = _photograph(folder / PICTURE, Path(scratch))
            out.print(
                f"\nThree questions. The picture is {PICTURE} made smaller, tilted and "
                "recompressed: not the file that was ingested."
            )
            _ask(out, owl, "What is the capital of this country?", picture)
            _ask(out, owl, "Which languages are spoken in Switzerland?")
            _ask(out, owl, "Who won the chess world championship of 1972?")
    place = f" --data {data}" if data else ""
    out.print("\n[bold]Your own[/]")
    out.print(f"  rag-owl ingest notes PATH…{place}")
    out.print(f'  rag-owl ask notes "Your question"{place}')
    out.print(f'  rag-owl ask {COLLECTION} "What is this country\'s currency?" --image FILE{place}')
    out.print(f"  rag-owl demo --open{place}")


def serve_page(data: Path | None, out: Console) -> None:
    """Serve the folder on this machine alone, and show the page in a browser; until Ctrl-C."""
    from rag_owl.api.serve import serve
    from rag_owl.settings import read_settings

    settings = read_settings(data=data)
    if not _is_free(settings.host, settings.port):
        settings = read_settings(data=data, port=_any_port(settings.host))
    address = f"http://{settings.host}:{settings.port}"
    threading.Thread(target=_open_when_ready, args=(address, out), daemon=True).start()
    serve(settings)


def _is_free(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return False
    except OSError:
        return True


def _any_port(host: str) -> int:
    with socket.socket() as some:
        some.bind((host, 0))
        port: int = some.getsockname()[1]
        return port


def _open_when_ready(address: str, out: Console) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=5):
                break
        except (urllib.error.URLError, OSError):  # not yet
            time.sleep(0.1)
    else:
        return
    out.print(f"\n[bold]The page:[/] {address}/#/ask/{COLLECTION}   (Ctrl-C ends it)")
    webbrowser.open(f"{address}/#/ask/{COLLECTION}")


def _ask(out: Console, owl: RagOwl, question: str, picture: Path | None = None) -> None:
    shown = f" [dim]({picture.name})[/]" if picture else ""
    out.print(f"\n[bold cyan]▸ {escape(question)}[/]{shown}")
    show.answer(out, owl.ask(COLLECTION, question, images=[picture] if picture else []))


def _photograph(source: Path, folder: Path) -> Path:
    """Another picture of the same thing, as a user would have one."""
    from PIL import Image

    target = folder / f"photo-of-{source.stem}.jpg"
    with Image.open(source) as drawn:
        flag = drawn.convert("RGB").resize((300, 200))
    flag.rotate(4, expand=True, fillcolor="white").save(target, quality=60)
    return target
