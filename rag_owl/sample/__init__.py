"""The sample collection: a picture and a text for each of more than a hundred countries.

Everything is drawn and written by code from two compact tables, `flags` and `facts`: no network, no
downloaded picture or sentence, and the same files on every run.
"""

from __future__ import annotations

from pathlib import Path

from rag_owl.errors import InvalidInput


def write_sample(folder: Path) -> list[Path]:
    """Write `<country>.png` and `<country>.txt` side by side; -> the paths, in name order.

    The folder is made where it is missing; files of the same names are replaced, others are left
    alone. Pictures are RGB, 480 pixels wide and as high as the flag's published ratio asks for.

    Raises:
        InvalidInput: the folder cannot be made or written to.
    """
    from rag_owl.sample.facts import COUNTRIES
    from rag_owl.sample.flags import FLAGS
    from rag_owl.sample.text import describe

    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for country in COUNTRIES:
            picture, text = folder / f"{country.stem}.png", folder / f"{country.stem}.txt"
            FLAGS[country.stem].render().save(picture)
            text.write_text(describe(country).text, encoding="utf-8", newline="\n")
            written += [picture, text]
    except OSError as error:
        raise InvalidInput(
            f"cannot write the sample collection to {folder}: {error.strerror or error}; "
            "name a folder that can be written to"
        ) from error
    return written
