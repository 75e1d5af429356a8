"""Generated questions: exact answers, pictures that show them, the same for the same seed."""

import numpy as np
import pytest
from PIL import Image, ImageChops

from mobile_runtime.bundle import Preprocessing
from mobile_runtime.pictures.preprocess import plan_slices
from validation.questions import strings
from validation.questions.canvas import random_inks
from validation.questions.handwritten import COLLECTIONS, load_digits
from validation.questions.picture import ShapeGroup, plural
from validation.questions.printed import draw_page, draw_text
from validation.questions.shapes import MAX_COUNT, random_groups
from validation.questions.tasks import MIN_EM, TASKS, VIEW_AREA, DigitSource, draw_question
from validation.questions.video import DIRECTIONS

HALF = (0.5, 0.5, 0.5)
CONFIG = Preprocessing(168, 14, 4, True, True, HALF, HALF, 16, 32, 160)
ITEMS = range(12)


def questions(task, held_out=False):
    return [draw_question(task, 4, index, DigitSource(held_out)) for index in ITEMS]


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_and_index_draw_the_same_question(task):
    first, again = draw_question(task, 4, 7), draw_question(task, 4, 7)
    assert first.turns == again.turns
    for one, other in zip(first.pictures, again.pictures, strict=True):
        assert ImageChops.difference(one.image, other.image).getbbox() is None
    others = [draw_question(task, seed, index) for seed, index in ((4, 8), (6, 7))]
    assert all(np.any(_pixels(first) != _pixels(other)) for other in others)


def _pixels(question):
    return np.asarray(question.pictures[0].image.resize((40, 40)))


@pytest.mark.parametrize("task", TASKS)
def test_conversations_have_one_picture_slot_a_picture_and_end_with_the_user(task):
    for question in questions(task):
        answers = [turn.answer for turn in question.turns[:-1]]
        messages = question.messages(answers)
        assert messages[-1]["role"] == "user"
        shown = [part for part in messages[0]["content"] if part["type"] == "image"]
        assert len(shown) == len(question.pictures)
        assert all(turn.question and turn.answer for turn in question.turns)


def test_printed_texts_are_what_is_asked_for():
    for question in questions("printed_text"):
        (picture,) = question.pictures
        answer = question.turns[-1].answer
        assert 1 <= len(answer) <= strings.MAX_LENGTH
        assert set(answer) <= set(strings.CHARACTERS)
        assert answer == picture.text == answer.strip()
        assert all(0 <= glyph.x < 1 and 0 <= glyph.y < 1 for glyph in picture.glyphs)
        assert plan_slices(*picture.image.size, CONFIG).grid is None


def test_every_kind_of_character_is_drawn():
    rng = np.random.default_rng(0)
    drawn = "".join(strings.random_text(rng) for _ in range(3000))
    assert set(drawn) == set(strings.CHARACTERS)


def test_glyphs_stand_on_their_ink():
    """The middle of a wide letter's box lies within a glyph's width of ink, at any angle."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        picture = draw_text(rng, "HMHMH", (300, 200), (30, 40))
        ink = np.asarray(picture.ink)
        assert ink.max() == 255
        for glyph in picture.glyphs:
            x, y = round(glyph.x * 300), round(glyph.y * 200)
            assert ink[max(0, y - 8) : y + 9, max(0, x - 8) : x + 9].max() > 128


def test_text_that_does_not_fit_is_refused():
    rng = np.random.default_rng(0)
    assert draw_text(rng, "WWWWWWWWWWWW", (60, 40), (16, 20)) is None


def test_text_can_be_told_from_its_ground():
    rng = np.random.default_rng(0)
    luma = np.array([0.299, 0.587, 0.114])
    for _ in range(200):
        inks = random_inks(rng)
        assert min(abs((inks.text - ground) @ luma) for ground in inks.ground) >= 70


def test_a_page_is_full_of_characters():
    rng = np.random.default_rng(0)
    page = draw_page(rng, (168, 168), (16, 40))
    assert len(page.glyphs) > 12
    assert np.asarray(page.ink).mean() > 10


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_held_out_digits_are_apart(collection):
    kept, _ = load_digits(collection, held_out=False)
    held, labels = load_digits(collection, held_out=True)
    assert len(held) + len(kept) == {"opencv": 5000, "sklearn": 1797}[collection]
    assert set(labels.tolist()) == set(range(10))
    assert not {image.tobytes() for image in held} & {image.tobytes() for image in kept}


def test_numbers_have_one_to_three_digits():
    lengths = set()
    for question in questions("handwritten_digits", held_out=True):
        lengths.add(len(question.turns[-1].answer))
        assert question.turns[-1].answer.isdigit()
    assert lengths <= {1, 2, 3}


def test_shape_groups_differ_and_stay_few():
    rng = np.random.default_rng(0)
    for _ in range(100):
        one, two = random_groups(rng, 2)
        assert one.shape != two.shape and one.colour != two.colour
        assert 2 <= one.count + two.count <= MAX_COUNT + 2


@pytest.mark.parametrize(
    ("group", "text"),
    [
        (ShapeGroup(1, "red", "cross"), "1 red cross"),
        (ShapeGroup(2, "red", "cross"), "2 red crosses"),
        (ShapeGroup(3, "blue", "star"), "3 blue stars"),
    ],
)
def test_shapes_are_counted_in_english(group, text):
    assert str(group) == text


def test_plural_of_one_is_the_word_itself():
    assert plural("ring", 1) == "ring"


def test_small_text_is_legible_in_a_slice_alone():
    for question in questions("slices"):
        (picture,) = question.pictures
        plan = plan_slices(*picture.image.size, CONFIG)
        assert plan.grid is not None
        columns, rows = plan.grid
        cells = {(int(g.x * columns), int(g.y * rows)) for g in picture.glyphs}
        shrink = (VIEW_AREA / (picture.image.width * picture.image.height)) ** 0.5
        assert picture.em * shrink < 0.75 * MIN_EM  # pixels of an em in the overview
        assert len(cells) <= 2


def test_directions_are_where_the_ink_goes():
    for question in questions("video_direction"):
        centres = [_centre(picture.ink) for picture in question.pictures]
        step = np.subtract(centres[-1], centres[0])
        direction = np.array(DIRECTIONS[question.turns[-1].answer])
        assert step @ direction == pytest.approx(np.abs(step).max())


def _centre(ink: Image.Image):
    y, x = np.nonzero(np.asarray(ink) > 128)
    return x.mean(), y.mean()


def test_digits_of_a_video_are_its_frames_in_time():
    for question in questions("video_order"):
        assert question.turns[-1].answer.split() == [p.text for p in question.pictures]
        ((*times,),) = question.temporal_ids
        assert times == sorted(set(times)) and len(times) == len(question.pictures)


def test_comparisons_are_balanced_and_right():
    answers = []
    for index in range(60):
        question = draw_question("two_pictures", 4, index)
        one, two = question.pictures
        answer = question.turns[-1].answer
        answers.append(answer)
        if answer in ("yes", "no"):
            assert (one.text == two.text) == (answer == "yes")
        elif answer in ("the first", "the second"):
            counts = [sum(g.count for g in p.shapes) for p in (one, two)]
            assert (counts[0] > counts[1]) == (answer == "the first")
        else:
            assert answer in (one.text, two.text)
    assert {"yes", "no", "the first", "the second"} < set(answers)


def test_thoughts_spell_what_the_answer_says():
    for question in questions("thinking"):
        turn = question.turns[-1]
        assert question.options().enable_thinking is True
        if question.pictures[0].text:
            assert turn.thoughts.replace(" ", "").replace("_", " ") == question.pictures[0].text
