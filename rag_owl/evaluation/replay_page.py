"""What changed in answers that were asked for again, both with their evidence, as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from rag_owl.evaluation import page

_STYLE = """<style>
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.5rem; }
.pair > div { border-left: 3px solid var(--line); padding-left: .8rem; }
.say { white-space: pre-wrap; }
</style>"""


def write(report: Mapping[str, Any]) -> str:
    """report: as `rag_owl.evaluation.replay.replay` gives it."""
    asked = f"with {report['model']}" if report["model"] else "with the model of then"
    rows = [[kind, f"{count:,}"] for kind, count in sorted(report["counts"].items())]
    body = [
        _STYLE,
        f"<h1>Asked again: {escape(report['collection'])}</h1>",
        f"<p>{report['asked']:,} stored questions, {escape(asked)}.</p>",
        page.table(["what happened", "answers"], rows),
    ]
    for row in report["changed"]:
        question = row["before"].get("question", row["before"]["id"])
        body.append(f"<h2>{escape(question)}</h2><p><b>{escape(row['kind'])}</b></p>")
        if row["now"] is None:
            body.append(f'<p class="wrong">{escape(row["error"])}</p>')
            continue
        both = _side("Before", row["before"], row["changes"]["cited"]["removed"])
        both += _side("Now", row["now"], row["changes"]["cited"]["added"])
        body.append(f'<div class="pair">{both}</div>')
    return page.document(f"Asked again: {report['collection']}", "\n".join(body))


def _side(title: str, answer: Mapping[str, Any], only_here: list[str]) -> str:
    evidence = "".join(
        f"<li>[{each['marker']}] {escape(each['document_name'])}"
        f"{' <b>(only here)</b>' if each['item_id'] in only_here else ''}: "
        f"“{escape(each['quote'] or '')}” <i>{escape(each['verdict'])}</i></li>"
        for each in answer["evidence"]
    )
    return (
        f'<div><p class="small">{title}: {escape(answer["model"])}, generation '
        f"{answer['generation']}, answer {escape(answer['id'])}</p>"
        f'<p class="say">{escape(answer["text"])}</p><ul>{evidence or "<li>no evidence</li>"}</ul>'
        "</div>"
    )
