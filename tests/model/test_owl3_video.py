"""Films before the model: a retrieved stretch, and the user's own video, frame by frame."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from rag_owl.evidence import verify
from rag_owl.model.attribution import AttentionRecord
from rag_owl.model.drawn import Drawn
from rag_owl.model.evidence_prompt import Sights, Stretch, View, lay_out
from rag_owl.model.owl3.processor import Owl3Processor
from rag_owl.model.owl3.sizes import random_model
from rag_owl.model.owl3.tokenizer import Owl3Tokenizer
from rag_owl.types import Attribution, Context, Draft, Moment, Question, Retrieved, VideoLocation
from tests.films import write_film
from tests.model.test_owl3_answerer import answerer, item, picture

torch.set_num_threads(1)  # tiny models lose more to threads than they gain
PROCESSOR = Owl3Processor.of(Owl3Tokenizer.of_bytes(), random_model("tiny").config)
FILM, MINE = "a" * 64, "b" * 64


def clip(number: int, start: float, end: float, film: str = FILM, key: str | None = None):
    place = VideoLocation(start, end)
    return item(number, None, key, kind="video", location=place, video=film)


def asked(items, video: str | None = None) -> Context:
    return Context(Question("c", "When?", video=video), tuple(Retrieved(i, 1.0) for i in items))


def test_frames_are_about_one_a_second_and_evenly_at_most_so_many():
    assert [f.seconds for f in Stretch.of(FILM, 3.0, 6.0, 16).frames] == [3, 4, 5]
    assert [f.seconds for f in Stretch.of(FILM, 3.0, 3.4, 16).frames] == [3]
    many = [f.seconds for f in Stretch.of(FILM, 0.0, 7200.0, 400).frames]
    assert len(many) == 400
    assert {b - a for a, b in pairwise(many)} == {18}
    assert [f.key for f in Stretch.of(FILM, 3.5, 5.0, 16).frames] == [
        f"{FILM}.3500ms",
        f"{FILM}.4500ms",
    ]


def test_a_stretch_comes_with_the_times_of_its_frames():
    context = asked([clip(0, 3.0, 5.0)])
    laid = lay_out(context, Sights.of(context), 1)
    text = "".join(part if isinstance(part, str) else "#" for part in laid.parts)
    assert "[1] Title 0\nat 3.0 s: #\nat 4.0 s: #\n" in text
    assert [view.key for view in laid.views] == [f"{FILM}.3000ms", f"{FILM}.4000ms"]
    assert "say at which seconds" not in text


def test_films_share_the_frames_that_may_be_shown():
    items = [clip(0, 0, 10), clip(1, 20, 30, key="k1"), item(2, key="k2"), item(3, "Text.")]
    sights = Sights.of(asked(items), most_frames=12)
    assert [len(stretch.frames) for stretch in sights.sources] == [6, 6, 1, 0]
    # The user's video comes first; with one frame each, stretches are shown by their pictures.
    sights = Sights.of(asked(items, MINE), 60.0, most_frames=12)
    assert len(sights.film.frames) == 12
    assert [len(stretch.frames) for stretch in sights.sources] == [1, 1, 1, 0]
    assert sights.sources[0].frames[0].seconds == 5  # it has no picture
    assert sights.sources[1].frames[0] == View("k1", "k1")


def test_four_hundred_frames_go_through_the_model(tmp_path: Path):
    # One stretch of 400 s; a byte is a token here, so the model needs more positions.
    model = random_model("tiny", seed=5)
    model.config = replace(model.config, max_position_embeddings=20_000)
    owl, blobs, features = answerer(tmp_path, model, most_frames=10_000)
    film = write_film(tmp_path / "film.mp4", 420, rate=1)
    key = blobs.put(film.read_bytes())
    context = asked([clip(0, 0.0, 420.0, key)])
    draft = owl.answer(context)
    assert model.pictures_seen == 400 == len(features)
    assert draft.usage is not None
    assert draft.usage.prompt_tokens > 400 * 18
    assert owl.answer(context).text == draft.text
    assert model.pictures_seen == 400  # its frames are remembered


def test_the_users_own_video_is_watched_and_not_kept(tmp_path: Path):
    owl, blobs, features = answerer(tmp_path)
    film = write_film(tmp_path / "mine.mp4", 6)
    mine = blobs.put(film.read_bytes())
    context = asked([item(0, "A text."), item(1, key=blobs.put(picture(1)))], mine)
    draft = owl.answer(context)
    assert owl.model.pictures_seen == 6 + 1
    assert len(features) == 1
    answer = verify(draft, context, 1)
    assert answer.video == mine
    for moment in answer.moments:
        assert 0 <= moment.start_seconds < moment.end_seconds <= 6.2
    assert owl.answer(context).text == draft.text


def test_a_video_that_does_not_fit_is_thinned_and_it_is_said(tmp_path: Path):
    owl, blobs, _ = answerer(tmp_path, most_frames=400)
    mine = blobs.put(write_film(tmp_path / "mine.mp4", 200, rate=1).read_bytes())
    draft = owl.answer(asked([item(0, "A text.")], mine))
    (note,) = draft.notes
    assert note == "Your video of 200 s was shown as 50 frames."
    assert draft.left_out == ()


def record_of(patches: torch.Tensor, text: int) -> AttentionRecord:
    """One token that looked at pictures as told, and nowhere else."""
    return AttentionRecord([patches.flatten().half()], [torch.zeros(text).half()])


@pytest.mark.parametrize(
    ("mass", "seconds"),
    [
        ([0, 0, 1, 0, 0, 0], (2, 3)),
        ([0, 0.1, 1, 0.6, 0.5, 0.1], (2, 5)),
        ([1, 0, 0, 0, 0, 1.1], (5, 6.5)),
        ([1, 1, 1, 1, 1, 1], (0, 6.5)),
    ],
)
def test_seconds_are_those_around_the_frame_that_drew_most(mass, seconds):
    context = asked([clip(0, 10.0, 16.5)], MINE)
    theirs, mine = Stretch.of(FILM, 10.0, 16.0, 6).frames, Stretch.of(MINE, 0.0, 6.0, 6).frames
    sights = Sights((Stretch(theirs, 16.5),), film=Stretch(mine, 6.5))
    laid = lay_out(context, sights, 1)
    assert (len(laid.views_of[0]), len(laid.film_views)) == (6, 6)
    prompt = laid.prompt(PROCESSOR)
    nothing, patches = torch.zeros(6), torch.zeros(12, 25)
    for where in (0, 1):  # the retrieved stretch, the user's own video
        halves = [nothing, nothing]
        halves[where] = torch.tensor(mass)
        patches = torch.cat(halves)[:, None].expand(12, 25) / 100
        record = record_of(patches, len(prompt.input_ids))
        (ground,) = Drawn(record, range(1), laid, prompt).rests_on(0, 9, ())
        if where:
            assert isinstance(ground, Moment)
            assert (ground.start_seconds, ground.end_seconds) == pytest.approx(seconds)
            assert ground.attention == pytest.approx(1)
        else:
            assert isinstance(ground, Attribution)
            assert ground.seconds == pytest.approx([10 + s for s in seconds])
            assert ground.box is None
            draft = Draft("It scores.", (ground,))
            (citation,) = verify(draft, context, 1).citations
            assert citation.location == VideoLocation(*ground.seconds)


def test_a_marker_says_more_than_attention_to_the_video():
    context = asked([item(0, "A text.")], MINE)
    laid = lay_out(context, Sights.of(context, 2.0), 1)
    prompt = laid.prompt(PROCESSOR)
    drawn = Drawn(record_of(torch.ones(2, 25), len(prompt.input_ids)), range(1), laid, prompt)
    (ground,) = drawn.rests_on(0, 9, (0,))
    assert isinstance(ground, Attribution)
    (ground,) = drawn.rests_on(0, 9, ())
    assert isinstance(ground, Moment)
