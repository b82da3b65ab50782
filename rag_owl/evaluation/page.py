"""The report of an evaluation as one HTML file: no script, nothing from outside, all escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rag_owl.evaluation import plots

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, td, summary, li { overflow-wrap: break-word; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.small { font-size: .85rem; opacity: .8; } .note { border-left: 3px solid #d1620b;
  padding-left: .8rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
.grid { stroke: var(--line); stroke-width: .6; } .whisker { stroke: currentColor; fill: none;
  stroke-width: 1.2; }
details { border-bottom: 1px solid var(--line); padding: .35rem 0; }
summary { cursor: pointer; } .wrong { color: #c0392b; } .right { color: #2c8a3d; }
@media (prefers-color-scheme: dark) { .wrong { color: #ff8a7a; } .right { color: #7fd48f; } }
"""

LABELS = {
    "f1": "Token F1",
    "exact_match": "Exact match",
    "f1_with_unanswerable": "F1, unanswerable counted (SQuAD 2.0)",
    "recall": "Retrieval: recall of what was shown",
    "mrr": "Retrieval: MRR of what was shown",
    "right_item": "Right item cited first",
    "citation_recall": "Citation recall (ALCE)",
    "citation_precision": "Citation precision (ALCE)",
    "gold_citation_recall": "Gold evidence cited: recall",
    "gold_citation_precision": "Gold evidence cited: precision",
    "pointing": "Region pointing accuracy",
    "region_iou": "Region IoU",
    "abstention_auroc": "Abstention, ROC area",
    "abstained_of_answerable": "Abstained where there is an answer",
    "abstained_of_unanswerable": "Abstained where there is none",
    "risk_coverage_area": "Risk-coverage, area (less is better)",
}
COSTS = {
    "seconds": "Seconds per question (median)",
    "seconds_95": "Seconds, 95th percentile",
    "seconds_to_first_token": "Seconds to the first words (median)",
    "seconds_per_token": "Seconds per further token (median)",
    "peak_memory_bytes": "Peak memory of the process",
    "peak_gpu_memory_bytes": "Peak memory of the GPU",
}
_MOST_QUESTIONS = 2_000  # listed on the page; all stand in the JSON


def write(report: Mapping[str, Any]) -> str:
    models = list(report["models"])
    data = report["dataset"]
    body = [
        f"<h1>Evaluation of {_text(', '.join(models))}</h1>",
        f"<p>{data['questions']:,} questions of {_text(data['name'])} "
        f"({data['answerable']:,} with an answer, {data['with_items']:,} say where it stands), "
        f"asked of the collection <b>{_text(report['collection'])}</b>, {report['k']} items each."
        "</p>",
        *(f'<p class="note">{_text(note)}</p>' for note in report["notes"]),
        _figures(report["models"]),
        _all_plots(report),
        _retrieval(report["retrieval"]),
        _comparisons(report["comparisons"]),
        _costs(report["models"]),
        _questions(report["questions"], models),
        f'<p class="small">Intervals are 95 %, by bootstrap over questions. Citation recall and '
        "precision, and gold evidence, are of answers that were given; an abstention has neither. "
        f"{_text(report['machine'])}</p>",
    ]
    return document(f"Evaluation of {', '.join(models)}", "\n".join(body))


def document(title: str, body: str, policy: str = _POLICY) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title[:120])}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


# --- tables ---------------------------------------------------------------------------------------


def _figures(models: Mapping[str, Any]) -> str:
    rows = []
    for name, label in LABELS.items():
        if any(found[name] is not None for found in models.values()):
            cells = [with_interval(found[name], found.get(f"{name}_interval")) for found in
                     models.values()]  # fmt: skip
            rows.append([label, *cells])
    errors = [str(found["errors"]) for found in models.values()]
    if any(found["errors"] for found in models.values()):
        rows.append(["Questions that failed", *errors])
    return table(["", *models], rows)


def _costs(models: Mapping[str, Any]) -> str:
    rows = []
    for name, label in COSTS.items():
        values = [found[name] for found in models.values()]
        if any(value is not None for value in values):
            rows.append([label, *(cost(name, value) for value in values)])
    return "<h2>Time and memory</h2>" + table(["", *models], rows)


def cost(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 2**20:,.0f} MiB" if name.endswith("bytes") else f"{value:.3f}"


def _retrieval(channels: Mapping[str, Any]) -> str:
    if not channels:
        return ""
    cutoffs = list(next(iter(channels.values()))["recall"])
    rows = [
        [
            name,
            f"{found['questions']:,}",
            *(with_interval(found["recall"][k], found["recall_interval"][k]) for k in cutoffs),
            with_interval(found["mrr"], found["mrr_interval"]),
        ]
        for name, found in channels.items()
    ]
    head = ["channel", "questions", *(f"recall@{k}" for k in cutoffs), "MRR"]
    return "<h2>Retrieval</h2>" + table(head, rows)


def _comparisons(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return ""
    rows = [
        [
            f"{each['models'][0]} − {each['models'][1]}: {LABELS[each['measure']]}",
            f"{each['questions']:,}",
            f"{each['difference']:+.3f}",
            "{:+.3f} to {:+.3f}".format(*each["difference_interval"]),
            "< 0.001" if each["p"] < 0.001 else f"{each['p']:.3f}",
        ]
        for each in found
    ]
    head = ["pair", "questions", "difference", "95 % interval", "p"]
    return (
        "<h2>Compared, question by question</h2>"
        + table(head, rows)
        + '<p class="small">p: by approximate randomisation, two-sided, for each row by itself.</p>'
    )


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column is text, the others are numbers."""
    kinds = ['scope="col"', *['scope="col" class="number"'] * (len(head) - 1)]
    top = "".join(f"<th {kind}>{_text(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    lines = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>'
        + "".join(f'<td class="number">{_text(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>'
        "</div>"
    )


# --- plots ----------------------------------------------------------------------------------------


def _all_plots(report: Mapping[str, Any]) -> str:
    models = report["models"]
    drawn = [
        _bars("Answers", models, ("f1", "exact_match", "right_item"), ("F1", "exact", "item")),
        _bars(
            "Evidence",
            models,
            ("citation_recall", "citation_precision", "gold_citation_recall",
             "gold_citation_precision"),
            ("recall", "precision", "gold recall", "gold precision"),
        ),
        _bars("Regions", models, ("pointing", "region_iou"), ("pointing", "IoU")),
    ]  # fmt: skip
    curves = {name: found["risk_coverage"] for name, found in models.items()}
    if any(curves.values()):
        plot = plots.lines(
            "Risk by coverage", curves, across="share of questions answered",
            marks=(0, 0.25, 0.5, 0.75, 1), steps=True,
        )  # fmt: skip
        drawn.append(figure("Risk (1 − F1) by coverage, surest answers first", plot))
    channels = {
        name: [(float(k), value) for k, value in found["recall"].items()]
        for name, found in report["retrieval"].items()
    }
    if channels:
        plot = plots.lines("Recall by depth", channels, across="items retrieved", even=True)
        drawn.append(figure("Recall by depth of retrieval", plot))
    return f'<h2>Plots</h2><div class="plots">{"".join(drawn)}</div>'


def _bars(
    title: str, models: Mapping[str, Any], names: Sequence[str], labels: Sequence[str]
) -> str:
    measured = [
        (name, label)
        for name, label in zip(names, labels, strict=True)
        if any(found[name] is not None for found in models.values())
    ]
    if not measured:
        return ""
    series = {
        model: [
            None if found[name] is None else (found[name], found[f"{name}_interval"])
            for name, _ in measured
        ]
        for model, found in models.items()
    }
    return figure(title, plots.bars(title, [label for _, label in measured], series))


def figure(caption: str, plot: str) -> str:
    return f"<figure><figcaption>{_text(caption)}</figcaption>{plot}</figure>"


# --- questions ------------------------------------------------------------------------------------


def _questions(questions: Sequence[Mapping[str, Any]], models: Sequence[str]) -> str:
    parts = ["<h2>Questions</h2>"]
    if len(questions) > _MOST_QUESTIONS:
        parts.append(
            f"<p>The first {_MOST_QUESTIONS:,} of {len(questions):,}; report.json has all.</p>"
        )
    for each in questions[:_MOST_QUESTIONS]:
        truth = " / ".join(each["answers"]) or "(no answer in the collection)"
        marks = "".join(_mark(each["models"].get(model), bool(each["answers"])) for model in models)
        said = "".join(_said(model, each["models"].get(model)) for model in models)
        pictures = f" [{', '.join(each['images'])}]" if each["images"] else ""
        parts.append(
            f"<details><summary>{marks} {_text(each['question'])}{_text(pictures)}</summary>"
            f"<p><b>Wanted:</b> {_text(truth)}</p>{said}"
            f'<p class="small">{_text(each["id"])}</p></details>'
        )
    return "\n".join(parts)


def _mark(answer: Mapping[str, Any] | None, answerable: bool) -> str:
    if answer is None:
        return "· "
    good = answer["f1_with_unanswerable"] or 0.0
    if answerable and 0 < good < 1:
        return f'<span title="F1 {good:.2f}">~</span> '
    return '<span class="right" title="right">✓</span> ' if good else (
        '<span class="wrong" title="wrong">✗</span> '
    )  # fmt: skip


def _said(model: str, answer: Mapping[str, Any] | None) -> str:
    if answer is None:
        return f"<p><b>{_text(model)}:</b> not asked</p>"
    if "error" in answer:
        return f'<p><b>{_text(model)}:</b> <span class="wrong">{_text(answer["error"])}</span></p>'
    short = f" ({_text(answer['short'])})" if answer["short"] else ""
    cited = "".join(
        f"<li>[{each['marker']}] {_text(each['document_name'])}: “{_text(each['quote'] or '')}” "
        f"<i>{_text(each['verdict'])}</i></li>"
        for each in answer["citations"]
    )
    figures = ", ".join(
        f"{LABELS[name]} {answer[name]:.2f}"
        for name in ("f1", "citation_recall", "citation_precision", "right_item")
        if answer[name] is not None
    )
    return (
        f"<p><b>{_text(model)}:</b> {_text(answer['text'])}{short}</p><ul>{cited}</ul>"
        f'<p class="small">{_text(figures)} · answer {_text(answer["answer"])}</p>'
    )


def _text(text: str) -> str:
    return escape(" ".join(text.split()) if "\n" in text else text)
