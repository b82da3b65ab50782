"""Pictures of many sizes, tiles of Ovis and tokens of Qwen2-VL; smaller where too much is shown."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from rag_owl.blobs import FolderBlobs
from rag_owl.errors import InvalidQuestion
from rag_owl.model.attribution import region
from rag_owl.model.evidence_prompt import Sights, Stretch, View, lay_out
from rag_owl.model.notes import notes
from rag_owl.model.ovis.partition import (
    TILE,
    choose_grid,
    letterbox,
    over_picture,
    placeholders,
)
from rag_owl.model.owl3.features import FeatureStore
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.pixels import Pixels
from rag_owl.model.prompting import Finest
from rag_owl.model.spliced.answerer import SplicedAnswerer
from rag_owl.types import Context, Question
from tests.films import write_film
from tests.model.families import write_model, write_qwen2_vl
from tests.model.test_owl3_answerer import context, item

torch.set_num_threads(1)  # tiny models lose more to threads than they gain
POSITIONS = 2_000


def drawn(number: int, width: int, height: int) -> bytes:
    random = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (8, 8, 3), generator=random).byte().numpy()
    written = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(written, "PNG")
    return written.getvalue()


def loaded(folder: Path, family: str, tmp_path: Path, **more: object) -> SplicedAnswerer:
    return SplicedAnswerer.load(
        str(folder),
        family,
        FolderBlobs(tmp_path / "blobs"),
        FeatureStore(tmp_path / "features", 10**8),
        sampling=Sampling(max_new_tokens=8),
        **more,
    )


@pytest.fixture
def qwen(tmp_path: Path) -> SplicedAnswerer:
    """With room for about six pictures of 256 tokens."""
    folder = write_qwen2_vl(tmp_path / "qwen", positions=POSITIONS)
    return loaded(folder, "qwen2_vl", tmp_path)


def blobs_of(owl: SplicedAnswerer) -> FolderBlobs:
    blobs = owl._looker._blobs
    assert isinstance(blobs, FolderBlobs)
    return blobs


def test_pictures_become_smaller_from_the_lowest_rank_on(qwen: SplicedAnswerer):
    put = blobs_of(qwen).put
    keys = [put(drawn(i, 600, 600)) for i in range(8)]
    assert all(qwen.remember_picture(key) for key in keys)
    seen = qwen.model.pictures_seen
    draft = qwen.answer(context([item(i, key=key) for i, key in enumerate(keys)]))
    assert draft.left_out == ()
    (note,) = draft.notes
    assert note.startswith("The pictures of [")
    assert "[8] were shown smaller" in note
    assert "[1]" not in note
    smaller = note.count("[")
    assert qwen.model.pictures_seen == seen + smaller  # encoded anew, and only they
    assert draft.usage is not None
    assert draft.usage.prompt_tokens <= POSITIONS - 8
    # The small ones are kept as well.
    qwen.answer(context([item(i, key=key) for i, key in enumerate(keys)]))
    assert qwen.model.pictures_seen == seen + smaller


def test_what_does_not_fit_at_its_smallest_is_left_out(qwen: SplicedAnswerer):
    put = blobs_of(qwen).put
    items = [item(i, "Words. " * 40, key=put(drawn(i, 600, 600))) for i in range(8)]
    draft = qwen.answer(context(items))
    assert draft.left_out
    assert draft.left_out[-1] == "i7"
    assert any("shown smaller" in note for note in draft.notes)


def test_what_is_left_out_makes_room_for_pictures(qwen: SplicedAnswerer):
    put = blobs_of(qwen).put
    keys = [put(drawn(i, 600, 600)) for i in range(3)]
    kept = [item(i, key=key) for i, key in enumerate(keys)]
    alone = qwen.answer(context(kept))
    assert alone.notes == ()
    too_long = item(3, "Words. " * 300, put(drawn(3, 600, 600)))
    draft = qwen.answer(context([*kept, too_long]))
    assert draft.left_out == ("i3",)
    assert draft.notes == ()  # as large as if there were no other
    assert draft.usage == alone.usage
    # Half of the room: the highest rank gets it.
    text = item(0, "Words. " * 120, keys[0])
    draft = qwen.answer(context([text, *kept[1:], item(3, key=put(drawn(4, 600, 600))), too_long]))
    assert draft.left_out == ("i3",)
    (note,) = draft.notes
    assert "[4] were shown smaller" in note
    assert "[1]" not in note
    assert draft.usage is not None
    assert POSITIONS - 8 - 256 < draft.usage.prompt_tokens <= POSITIONS - 8


def test_frames_are_counted_where_a_step_holds_two():
    def said(finest: Finest, step: int, failed: int) -> list[str]:
        film = Stretch.of("f" * 64, 0.0, 12.0, 64, finest)
        sights = Sights((), film=film)
        asked = Context(Question("c", "When?", video="f" * 64), ())
        laid = lay_out(asked, sights, 0, step=step)
        gone = {view.key: "torn" for view in film.frames[:failed]}
        return list(notes(asked, sights, laid, gone, 12.0))

    pairs, single = Finest(frame=8, paired=True), Finest()
    assert said(pairs, 1, 0) == said(single, 1, 0) == []
    assert said(pairs, 2, 0) == ["Your video of 12 s was shown as 12 frames."]
    assert said(single, 2, 0) == ["Your video of 12 s was shown as 6 frames."]
    assert said(pairs, 1, 3) == ["3 pairs of frames of your video could not be read."]
    assert said(single, 1, 3) == ["3 frames of your video could not be read."]


def test_the_user_s_pictures_become_smaller_where_the_question_does_not_fit(qwen: SplicedAnswerer):
    put = blobs_of(qwen).put
    mine = tuple(put(drawn(i, 1200, 900)) for i in range(3))
    draft = qwen.answer(context([item(0, "A text.")], pictures=mine))
    assert "Your pictures were shown smaller, so that the question fitted." in draft.notes
    assert draft.usage is not None
    assert draft.usage.prompt_tokens <= POSITIONS - 8
    with pytest.raises(InvalidQuestion, match="room for 1992"):
        qwen.answer(context([], "Why? " * 600, pictures=mine))


def test_the_same_picture_as_source_and_as_the_user_s(qwen: SplicedAnswerer):
    key = blobs_of(qwen).put(drawn(1, 900, 900))
    before = qwen.model.pictures_seen
    draft = qwen.answer(context([item(0, key=key)], pictures=(key,)))
    assert qwen.model.pictures_seen == before + 2  # the user's in more detail
    assert draft.usage is not None
    assert draft.usage.prompt_tokens > 900 + 256
    # All sizes of a picture are forgotten with it.
    features = qwen._looker.features
    assert features is not None
    assert features.get(qwen.model.memory_identity, f"{key}.256") is not None
    smaller = View.picture(key, 64)
    qwen._looker.look([smaller], keep=True)
    assert features.delete(key) == 2
    assert features.get(qwen.model.memory_identity, smaller.key) is None


def test_a_picture_that_goes_away_meanwhile(qwen: SplicedAnswerer):
    blobs = blobs_of(qwen)
    keys = [blobs.put(drawn(i, 600, 600)) for i in range(8)]
    for key in keys:
        qwen.remember_picture(key)
    blobs.delete(keys[7])
    draft = qwen.answer(context([item(i, key=key) for i, key in enumerate(keys)]))
    assert "i7" in draft.left_out
    assert any("of [8]" in note and "it is gone" in note for note in draft.notes)


def test_limits_of_pixels_are_kept(tmp_path: Path):
    folder = write_qwen2_vl(tmp_path / "qwen")
    owl = loaded(folder, "qwen2_vl", tmp_path, pixels=Pixels(16 * 784, 64 * 784))
    key = blobs_of(owl).put(drawn(1, 600, 600))
    tokens = [
        owl.answer(asked).usage.prompt_tokens
        for asked in (context([item(0, "t")]), context([item(0, "t", key)]))
    ]
    assert 0 < tokens[1] - tokens[0] <= 16 + 4


def test_least_sizes_hold_where_there_is_room(tmp_path: Path):
    folder = write_qwen2_vl(tmp_path / "qwen", positions=POSITIONS)
    bounds = Pixels(256 * 784, 256 * 784, 100 * 784, 196 * 784)
    owl = loaded(folder, "qwen2_vl", tmp_path, pixels=bounds)
    plain = loaded(folder, "qwen2_vl", tmp_path)  # the same store
    keys = [blobs_of(owl).put(drawn(i, 56, 56)) for i in range(30)]

    def tokens(model: SplicedAnswerer, asked: Context) -> int:
        usage = model.answer(asked).usage
        assert usage is not None
        return usage.prompt_tokens

    one = context([item(0, key=keys[0])], pictures=(keys[0],))
    assert plain.remember_picture(keys[0])
    assert owl.remember_picture(keys[0])
    assert tokens(owl, one) - tokens(plain, one) == (100 - 4) + (196 - 4)
    assert owl.model.pictures_seen == 2  # the user's only, beside the one that was stored
    many = context([item(i, key=key) for i, key in enumerate(keys)])
    draft = owl.answer(many)
    assert draft.left_out == ()
    (note,) = draft.notes
    assert "[30] were shown smaller" in note
    assert "[1]," not in note
    assert plain.answer(many).notes == ()


def test_a_film_is_one_piece_with_its_times(qwen: SplicedAnswerer, tmp_path: Path):
    mine = blobs_of(qwen).put(write_film(tmp_path / "mine.mp4", 4).read_bytes())
    asked = Context(Question("c", "When?", video=mine), ())
    sights = Sights.of(asked, 4.0, 64, qwen._finest)
    assert [view.also for view in sights.film.frames] == [0.5, 1.5, 2.5, 3.5]
    memories, failed = qwen._look(sights, lambda: None)
    assert not failed
    how = qwen._how({view.spot: memories[view.key].sizes or () for view in sights.views()})
    laid, prompt = qwen._fitting(asked, sights, how)
    video = qwen.model.config.video_token_id
    runs = [prompt.input_ids[start:end] for start, end in prompt.places]
    assert len(runs) == 4
    assert {token for run in runs for token in run} == {video}
    assert prompt.places[0][1] == prompt.places[1][0]  # one behind the other
    assert "from 0.0 s to 4.0 s, a step every 1.0 s: " in laid.parts


def test_the_order_of_becoming_smaller():
    def sizes(steps: int) -> list[list[int]]:
        stretches = [Stretch((View.picture(c * 64, 16),)) for c in "ab"]
        film = Stretch.of("c" * 64, 0.0, 2.0, 9, Finest(frame=8))
        found = Sights((*stretches, Stretch(), film)).smaller(steps, lambda most: most // 2)
        return [[view.most for view in stretch.frames] for stretch in found.sources]

    assert sizes(0) == [[16], [16], [], [8, 8]]
    assert sizes(1) == [[16], [16], [], [4, 4]]
    assert sizes(2) == [[16], [8], [], [4, 4]]
    assert sizes(4) == [[8], [8], [], [2, 2]]
    assert sizes(99) == [[1], [1], [], [1, 1]]
    view = View.picture("a" * 64, 16)
    assert view.key.endswith(".16")
    assert view.smaller(4) == View.picture("a" * 64, 4)
    enlarged = View.picture("a" * 64, 16, 8)
    assert enlarged.key.endswith(".8-16")
    assert enlarged.smaller(4) == view.smaller(4)


@pytest.fixture
def ovis(tmp_path: Path) -> SplicedAnswerer:
    return loaded(write_model(tmp_path / "ovis", "gemma"), "ovis16", tmp_path)


@torch.no_grad()
def test_large_pictures_of_the_user_are_shown_as_tiles(ovis: SplicedAnswerer):
    side = ovis.processor.image_size
    key = blobs_of(ovis).put(drawn(3, 4 * side, 2 * side))
    asked = context([item(0, "A text.")], pictures=(key,))
    sights = Sights.of(asked, finest=ovis._finest)
    memories, _ = ovis._look(sights, lambda: None)
    how = ovis._how({view.spot: memories[view.key].sizes or () for view in sights.views()})
    laid, prompt = ovis._fitting(asked, sights, how)
    grid = choose_grid(4 * side, 2 * side, side, 9)
    assert grid == (2, 4)
    (start,) = prompt.image_starts
    assert prompt.input_ids[start : start + len(placeholders(grid))] == placeholders(grid)
    shown = [memories[view.key] for view in laid.views]
    assert shown[0].features.shape[1] == 9 * ovis.model.vectors
    # As the model reads tiles that were encoded by themselves.
    embeds, _ = ovis.model.begin(prompt, shown)
    picture = Image.open(io.BytesIO(blobs_of(ovis).get(key)))
    pixels, _ = ovis.processor.partitioned(picture)
    tiles = ovis.model.remember(pixels)
    assert torch.allclose(embeds, ovis.model.embed(prompt.tensor(), tiles)[0], atol=1e-5)
    assert prompt.positions == embeds.shape[1]
    # One tile at its smallest.
    assert ovis._many is not None
    assert ovis._many.shown((4 * side, 2 * side), 1).grid is None
    answered = ovis.answer(asked)
    assert answered.usage is not None
    assert answered.usage.prompt_tokens == prompt.positions


@torch.no_grad()
def test_tiles_come_back_from_the_store(ovis: SplicedAnswerer, tmp_path: Path):
    side = ovis.processor.image_size
    piece = ovis.processor.piece([Image.new("RGB", (3 * side, side), "red")], 9)
    memory = ovis.model.remember_piece(piece, "one")
    back = VisualMemory.load(memory.save(tmp_path / "one", "int8"))
    assert back.sizes == ((3 * side, side),)
    assert len(back) == 1


@pytest.mark.parametrize(
    ("size", "grid", "where"),
    [
        ((100, 100), None, (0.8, 0.2)),
        ((100, 50), None, (0.8, 0.2)),  # grey above and below is no part of it
        ((50, 100), None, (0.3, 0.9)),
        ((400, 200), (1, 2), (0.8, 0.4)),
        ((300, 300), (3, 3), (0.15, 0.8)),
    ],
)
def test_attention_lies_over_the_picture(size, grid, where):
    """A bright spot of the picture, as the tower sees it in each tile -> where it is in it."""
    side, cell = 140, 14
    picture = Image.new("L", size, 0)
    x, y = int(where[0] * size[0]), int(where[1] * size[1])
    reach = max(2, min(size) // 10)
    picture.paste(255, (x - reach, y - reach, x + reach, y + reach))
    rgb = picture.convert("RGB")
    rows, columns = grid or (1, 1)
    crops = [rgb]
    if grid is not None:
        wide, high = size[0] // columns, size[1] // rows
        crops += [
            rgb.crop((c * wide, r * high, (c + 1) * wide, (r + 1) * high))
            for r in range(rows)
            for c in range(columns)
        ]

    def seen(crop: Image.Image) -> torch.Tensor:
        bright = (letterbox(crop, side)[:1] > 0).float()
        return torch.nn.functional.avg_pool2d(bright[None], cell).flatten()

    tiles = iter(crops)
    mass = [
        seen(next(tiles)) if token == TILE else torch.zeros(1)
        for token in placeholders((rows, columns))
    ]
    over = over_picture(torch.cat(mass), grid, size, side, cell)
    left, top, right, bottom = region(over)
    assert left <= where[0] <= right
    assert top <= where[1] <= bottom
    assert right - left < 0.6
    assert bottom - top < 0.6
