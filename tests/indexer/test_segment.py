"""Segments: exact under every filter, whole or absent on the disk, clear about damage."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag_owl.errors import Conflict, CorruptData, DataFolderError, InvalidInput
from rag_owl.indexer import gpu, segment, segment_files
from rag_owl.indexer.segment import (
    Segment,
    merge_segments,
    remove_unfinished,
    search_segments,
    write_segment,
)

COUNT, DIMENSION = 600, 24
MANIFEST = {"embedder": "random@1"}


def unit(count: int, dimension: int = DIMENSION, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS = unit(COUNT)
IDS = np.arange(COUNT) * 7 + 3


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@cache
def opened(index_type: str) -> Segment:
    """One segment per index type for the whole module: they never change."""
    path = Path(tempfile.mkdtemp(prefix="segments-")) / index_type
    write_segment(path, IDS, VECTORS, index_type=index_type, manifest=MANIFEST)
    return Segment.open(path)


def brute_force(
    query: NDArray[np.float32],
    k: int,
    allowed: NDArray[np.int64] | None,
    excluded: NDArray[np.int64] | None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    keep = np.ones(COUNT, bool) if allowed is None else np.isin(IDS, allowed)
    if excluded is not None:
        keep &= ~np.isin(IDS, excluded)
    ids, scores = IDS[keep], VECTORS[keep] @ query
    order = np.argsort(-scores, kind="stable")[:k]
    return ids[order], scores[order]


# Keys that the segment knows and keys that it does not.
key_sets = st.one_of(
    st.none(),
    st.lists(st.integers(-5, COUNT * 7 + 30), max_size=80, unique=True),
    st.lists(st.sampled_from(IDS.tolist()), max_size=COUNT, unique=True),
).map(lambda keys: None if keys is None else np.array(sorted(keys), np.int64))


@settings(max_examples=80, deadline=None)
@given(k=st.integers(0, COUNT + 9), allowed=key_sets, excluded=key_sets, seed=st.integers(0, 99))
def test_flat_search_is_brute_force_under_any_filter(k, allowed, excluded, seed):
    query = unit(1, seed=seed + 1)[0]
    expected_ids, expected_scores = brute_force(query, k, allowed, excluded)
    ids, scores = search_segments([opened("flat")], query, k, allowed, excluded)
    assert ids.tolist() == expected_ids.tolist()
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


@pytest.mark.parametrize("index_type", ["hnsw", "ivf"])
@settings(max_examples=60, deadline=None)
@given(k=st.integers(0, COUNT + 9), allowed=key_sets, excluded=key_sets, seed=st.integers(0, 99))
def test_approximate_search_returns_k_whenever_k_exist(index_type, k, allowed, excluded, seed):
    query = unit(1, seed=seed + 1)[0]
    expected, _ = brute_force(query, k, allowed, excluded)
    ids, scores = search_segments([opened(index_type)], query, k, allowed, excluded)
    assert len(ids) == len(set(ids.tolist())) == len(expected)
    permitted, _ = brute_force(query, COUNT, allowed, excluded)
    assert np.isin(ids, permitted).all()
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_allclose(scores, opened(index_type).scores(query, ids), atol=1e-6)


@pytest.mark.parametrize("index_type", ["hnsw", "ivf"])
def test_a_selective_filter_is_compared_exactly(index_type, monkeypatch):
    monkeypatch.setattr(segment, "EXACT_ROWS", 120)
    allowed = IDS[::5]  # 120 rows
    for query in unit(20, seed=5):
        ids, _ = search_segments([opened(index_type)], query, 10, allowed)
        assert ids.tolist() == brute_force(query, 10, allowed, None)[0].tolist()


@pytest.mark.parametrize("index_type", ["hnsw", "ivf"])
def test_approximate_indexes_find_nearly_everything(index_type):
    queries = unit(100, seed=9)
    ids, _ = opened(index_type).search(queries, 10)
    truth = [set(brute_force(query, 10, None, None)[0].tolist()) for query in queries]
    assert np.mean([len(t & set(row)) for t, row in zip(truth, ids.tolist(), strict=True)]) > 9


def test_many_queries_at_once_find_what_each_finds_alone():
    queries = unit(30, seed=4)
    ids, scores = opened("flat").search(queries, 5)
    assert ids.shape == scores.shape == (30, 5)
    for query, row in zip(queries, ids, strict=True):
        assert row.tolist() == search_segments([opened("flat")], query, 5)[0].tolist()


def test_equal_vectors_come_in_order_of_their_keys(folder):
    write_segment(folder / "same", IDS[:9], np.repeat(unit(1), 9, 0), manifest=MANIFEST)
    ids, _ = search_segments([Segment.open(folder / "same")], unit(1)[0], 9)
    assert ids.tolist() == IDS[:9].tolist()


def test_the_order_of_writing_does_not_matter(folder):
    shuffled = np.random.default_rng(2).permutation(COUNT)
    write_segment(folder / "shuffled", IDS[shuffled], VECTORS[shuffled], manifest=MANIFEST)
    opened_again = Segment.open(folder / "shuffled")
    assert opened_again.ids.tolist() == IDS.tolist()
    blocks = list(opened_again.vectors(block=100))
    assert [len(ids) for ids, _ in blocks] == [100] * 6
    np.testing.assert_array_equal(np.concatenate([v for _, v in blocks]), VECTORS)


@pytest.mark.parametrize("index_type", ["flat", "hnsw", "ivf"])
def test_vectors_and_scores_by_key(index_type):
    wanted = np.array([IDS[5], 4, IDS[0]])  # 4 is not there
    ((ids, vectors),) = opened(index_type).vectors(wanted)
    assert ids.tolist() == [IDS[5], IDS[0]]
    np.testing.assert_array_equal(vectors, VECTORS[[5, 0]])
    scores = opened(index_type).scores(VECTORS[5], wanted)
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert np.isnan(scores[1])
    assert scores[2] == pytest.approx(float(VECTORS[5] @ VECTORS[0]), abs=1e-6)


def test_search_over_several_segments_is_search_over_all_rows(folder):
    parts = []
    for number, rows in enumerate(np.array_split(np.random.default_rng(3).permutation(COUNT), 4)):
        write_segment(folder / f"part-{number}", IDS[rows], VECTORS[rows], manifest=MANIFEST)
        parts.append(Segment.open(folder / f"part-{number}"))
    query = unit(1, seed=8)[0]
    allowed, excluded = IDS[::2], IDS[::3]
    ids, scores = search_segments(parts, query, 25, allowed, excluded)
    expected_ids, expected_scores = brute_force(query, 25, allowed, excluded)
    assert ids.tolist() == expected_ids.tolist()
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    assert search_segments([], query, 5)[0].shape == (0,)


@pytest.mark.parametrize("index_type", ["flat", "hnsw", "ivf"])
def test_merging_drops_tombstones_and_keeps_the_rest(folder, index_type, monkeypatch):
    monkeypatch.setattr(segment_files, "BLOCK_ROWS", 64)
    even, odd = IDS[::2], IDS[1::2]
    write_segment(folder / f"even-{index_type}", even, VECTORS[::2], manifest=MANIFEST)
    write_segment(folder / f"odd-{index_type}", odd, VECTORS[1::2], manifest=MANIFEST)
    parts = [Segment.open(folder / f"{name}-{index_type}") for name in ("even", "odd")]
    excluded = np.sort(np.append(IDS[10:30], [4, 10**9]))
    target = folder / f"merged-{index_type}"
    manifest = merge_segments(target, parts, excluded, index_type=index_type)
    merged = Segment.open(target)
    merged.verify()
    assert (manifest.count, manifest.embedder) == (COUNT - 20, "random@1")
    np.testing.assert_array_equal(merged.ids, np.delete(IDS, np.arange(10, 30)))
    stored = np.concatenate([vectors for _, vectors in merged.vectors()])
    np.testing.assert_array_equal(stored, np.delete(VECTORS, np.arange(10, 30), axis=0))


@pytest.mark.parametrize("index_type", ["flat", "hnsw", "ivf"])
def test_one_row_or_none_left(folder, index_type):
    source = folder / f"one-{index_type}"
    write_segment(source, IDS[:1], VECTORS[:1], index_type=index_type, manifest=MANIFEST)
    one = Segment.open(source)
    assert search_segments([one], VECTORS[0], 5)[0].tolist() == [IDS[0]]
    empty = folder / f"none-{index_type}"
    merge_segments(empty, [one], IDS[:1])
    none = Segment.open(empty)
    assert search_segments([none], VECTORS[0], 5, IDS, IDS)[0].tolist() == []
    assert list(none.vectors()) == []
    assert np.isnan(none.scores(VECTORS[0], IDS[:2])).all()


def test_merging_vectors_of_another_embedder_is_refused(folder):
    write_segment(folder / "other", IDS[:3], VECTORS[:3], manifest={"embedder": "other@1"})
    with pytest.raises(InvalidInput, match="other@1"):
        merge_segments(folder / "no", [opened("flat"), Segment.open(folder / "other")], None)
    with pytest.raises(InvalidInput, match="comes twice"):
        merge_segments(folder / "no", [opened("flat"), opened("ivf")], None)
    with pytest.raises(InvalidInput, match="nothing to merge"):
        merge_segments(folder / "no", [], None)
    assert not (folder / "no").exists()


def test_the_manifest_says_what_was_chosen(folder, monkeypatch):
    monkeypatch.setattr(segment_files, "HNSW_FROM", 100)
    monkeypatch.setattr(segment_files, "IVF_FROM", 500)
    for count, expected in [(99, "flat"), (100, "hnsw"), (499, "hnsw"), (500, "ivf")]:
        path = folder / f"auto-{count}"
        written = write_segment(
            path, IDS[:count], VECTORS[:count], manifest={**MANIFEST, "generation": 4}
        )
        stored = json.loads((path / "manifest.json").read_text())
        assert stored["index_type"] == written.index_type == expected
        assert stored["parameters"]["hnsw_from"] == 100
        assert stored["extra"] == {"generation": 4}
        assert (stored["count"], stored["dimension"]) == (count, DIMENSION)
        assert set(stored["files"]) == {"ids.npy", "index.faiss"}
        assert Segment.open(path).manifest == written


def test_bad_input_is_refused_and_leaves_nothing_behind(tmp_path):
    def write(ids=IDS[:3], vectors=VECTORS[:3], index_type="auto", manifest=MANIFEST):
        write_segment(tmp_path / "s", ids, vectors, index_type=index_type, manifest=manifest)

    with pytest.raises(InvalidInput, match="unit length"):
        write(vectors=VECTORS[:3] * 2)
    with pytest.raises(InvalidInput, match="unit length"):
        write(vectors=np.full((3, 4), np.nan, np.float32))
    with pytest.raises(InvalidInput, match="comes twice"):
        write(ids=np.array([1, 2, 1]))
    with pytest.raises(InvalidInput, match="do not fit"):
        write(ids=IDS[:2])
    with pytest.raises(InvalidInput, match="unknown index type 'pq'"):
        write(index_type="pq")
    with pytest.raises(InvalidInput, match="embedder"):
        write(manifest={})
    assert list(tmp_path.iterdir()) == []
    write()
    with pytest.raises(Conflict, match="exists"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataFolderError, match="cannot be written"):
        write_segment(tmp_path / "file" / "s", IDS[:3], VECTORS[:3], manifest=MANIFEST)


def test_what_an_interrupted_write_left_is_removed(tmp_path):
    (tmp_path / ".tmp-a-1234").mkdir()
    (tmp_path / ".tmp-a-1234" / "ids.npy").write_bytes(b"half")
    write_segment(tmp_path / "a", IDS[:3], VECTORS[:3], manifest=MANIFEST)
    assert remove_unfinished(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("index_type", ["flat", "hnsw", "ivf"])
@pytest.mark.parametrize("name", ["ids.npy", "index.faiss", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_damaged_files_are_named_when_opening(tmp_path, index_type, name, damage):
    write_segment(tmp_path / "s", IDS, VECTORS, index_type=index_type, manifest=MANIFEST)
    path = tmp_path / "s" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(CorruptData, match=rf"{name}.*rag-owl doctor --deep"):
        Segment.open(tmp_path / "s")


def test_a_changed_byte_is_found_by_verifying(tmp_path):
    write_segment(tmp_path / "s", IDS, VECTORS, manifest=MANIFEST)
    path = tmp_path / "s" / "index.faiss"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptData, match=r"index\.faiss does not have the checksum"):
        Segment.open(tmp_path / "s").verify()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("manifest.json", lambda m: m | {"format": 99}, "has format 99"),
        ("manifest.json", lambda m: m | {"surprise": 1}, "does not read as a manifest"),
        ("manifest.json", lambda m: m | {"index_type": "pq"}, "does not read as a manifest"),
        ("index.faiss", lambda m: m | {"dimension": 12}, "is not the index"),
        ("index.faiss", lambda m: m | {"index_type": "ivf"}, "is not the index"),
        ("ids.npy", lambda m: m | {"count": 12}, "sorted keys"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, name, change, message):
    write_segment(tmp_path / "s", IDS, VECTORS, manifest=MANIFEST)
    path = tmp_path / "s" / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CorruptData, match=f"{name}.*{message}"):
        Segment.open(tmp_path / "s")


def test_queries_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="dimension 24"):
        opened("flat").search(unit(1, 12), 3)
    with pytest.raises(InvalidInput, match="NaN"):
        opened("flat").search(np.full((1, DIMENSION), np.nan, np.float32), 3)


@pytest.mark.parametrize("index_type", ["flat", "hnsw", "ivf"])
def test_threads_share_a_segment(index_type):
    queries = unit(40, seed=12)
    filters = [None, IDS[::2], IDS[::50], IDS[1::2]]
    shared = opened(index_type)

    def ask(number: int) -> list[int]:
        allowed = filters[number % len(filters)]
        return search_segments([shared], queries[number], 8, allowed)[0].tolist()

    alone = [ask(number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, list(range(40)) * 10)) == alone * 10


def test_without_a_gpu_build_there_is_no_gpu_searcher():
    if hasattr(segment_files.faiss, "StandardGpuResources"):
        pytest.skip("this faiss was built for GPUs")
    assert gpu.open_gpu_searcher(2**30) is None


@pytest.mark.gpu
@pytest.mark.parametrize("index_type", ["flat", "ivf"])
def test_the_gpu_finds_what_the_cpu_finds(index_type):
    searcher = gpu.open_gpu_searcher(2**30)
    if searcher is None:
        pytest.skip("needs faiss with GPU support and a device")
    on_cpu = opened(index_type)
    on_gpu = Segment.open(on_cpu.folder, gpu=searcher)
    for excluded in (None, IDS[:40]):
        for query in unit(10, seed=3):
            expected, scores = search_segments([on_cpu], query, 10, None, excluded)
            ids, found = search_segments([on_gpu], query, 10, None, excluded)
            np.testing.assert_allclose(found, scores, atol=1e-3)
            assert len(set(ids.tolist()) & set(expected.tolist())) >= 9
    searcher.forget(on_gpu)
    searcher.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_full_disk_is_said_without_the_source_lines_of_faiss() -> None:
    index = segment_files.faiss.IndexFlatIP(64)
    index.add(unit(2_000, 64))
    with pytest.raises(RuntimeError) as failure:
        segment_files.faiss.write_index(index, "/dev/full")
    assert "/dev/full" in str(failure.value)
    assert segment_files.reason_of(failure.value) == "No space left on device"
    assert segment_files.reason_of(OSError(28, "No space left on device", "a")) == (
        "No space left on device"
    )
    assert segment_files.reason_of(RuntimeError("odd (")) == "odd ("
