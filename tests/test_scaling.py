"""docs/scaling.md says what the measured constants say."""

from __future__ import annotations

from pathlib import Path

from benchmarks import scaling
from rag_owl.indexer import segment_files


def test_the_page_is_what_the_script_prints() -> None:
    page = (Path(__file__).parent.parent / "docs" / "scaling.md").read_text("utf-8")
    assert page == scaling.page(scaling.Constants.read())


def test_its_thresholds_are_those_of_the_index() -> None:
    assert (scaling.FLAT_UNTIL, scaling.HNSW_UNTIL) == (
        segment_files.HNSW_FROM,
        segment_files.IVF_FROM,
    )


def test_more_items_need_more_of_everything() -> None:
    constants = scaling.Constants.read()
    small, large = (scaling.Plan(items, constants) for items in (10**5, 10**9))
    assert large.index == 10**4 * small.index
    assert large.index_machines > small.index_machines == 1
    assert large.engine == "Milvus"
    assert 0 < large.questions_per_second < small.questions_per_second
