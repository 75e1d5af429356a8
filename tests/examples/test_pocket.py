"""Training of the pocket model: its batched passes are the model's, its targets the picture's."""

import sys
from dataclasses import replace
from itertools import groupby, product

import numpy as np
import pytest
import torch

from examples.pocket.architecture import CONFIG, build_model
from examples.pocket.batch import PROCESSOR_CHUNK, has_shapes, join_views, like_length, make_batch
from examples.pocket.curriculum import CURRICULA, PAGES, TASK_OF, Weights, rate, stage_at
from examples.pocket.example import BLANK, CHARACTER_CLASSES, IGNORE, QUERY_TIME, make_example
from examples.pocket.forward import encode_views, resample, run_decoder
from examples.pocket.lessons import LESSONS, draw_lesson
from examples.pocket.muon import orthogonalize
from examples.pocket.objective import (
    TOTALS_WEIGHT,
    Probes,
    answer_losses,
    batch_losses,
    query_losses,
    spelling_loss,
)
from examples.pocket.optimizers import Optimizers
from examples.pocket.pool import Pool
from examples.pocket.recolour import recolour
from examples.pocket.state import (
    check_state,
    load_state,
    prepare_checkpoint,
    save_state,
    write_weights,
)
from examples.pocket.tokenizer import build_tokenizer, words_of_the_tasks
from export.calibration.chat_format import open_chat_format
from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.source import check_tensors
from export.models.tensors import tensor_shapes
from export.releases import load_config, parse_config
from mobile_runtime.errors import InputError
from mobile_runtime.model.positions import position_ids, sincos_2d, sincos_time
from validation.questions.shapes import COLOURS, SHAPES
from validation.questions.strings import CHARACTERS, MAX_LENGTH
from validation.questions.tasks import TASKS, DigitSource, draw_question, follow_ups
from validation.questions.video import DIRECTIONS
from validation.reference.qwen import KeyValueCache


@pytest.fixture(scope="module")
def model():
    return build_model(seed=1).eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("pocket") / "checkpoint"
    prepare_checkpoint(folder, build_tokenizer(words_of_the_tasks(0, 20)))
    write_weights(folder, model)
    return folder


@pytest.fixture(scope="module")
def chat_format(checkpoint):
    return open_chat_format(checkpoint)


def losses_of(model, probes, examples, weights, thinning, rng):
    batch = make_batch(examples, weights, thinning, rng, PROCESSOR_CHUNK)
    return batch_losses(model, probes, batch, weights)


def padded_views(model, grids):
    """Patches, position ids and validity of views of several sizes, padded to the longest."""
    generator = torch.Generator().manual_seed(0)
    longest = max(h * w for h, w in grids)
    patches = torch.randn(len(grids), longest, 588, generator=generator)
    ids = torch.zeros(len(grids), longest, dtype=torch.long)
    valid = torch.zeros(len(grids), longest, dtype=torch.bool)
    for n, (h, w) in enumerate(grids):
        buckets = model.config.vision.position_buckets
        ids[n, : h * w] = torch.from_numpy(position_ids(h, w, buckets))
        valid[n, : h * w] = True
    return patches, ids, valid


@torch.inference_mode()
def test_batched_tower_is_the_models(model):
    patches, ids, valid = padded_views(model, [(4, 9), (6, 6), (3, 5)])
    batched = encode_views(model.vpm, patches, ids, valid)
    single = model.vpm(patches, ids, valid)
    assert torch.allclose(batched[valid], single[valid], atol=1e-5)


@torch.inference_mode()
def test_batched_resampler_is_the_models(model):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 24, 128, generator=generator)
    positions = torch.from_numpy(sincos_2d(4, 6, 256)).expand(2, -1, -1)
    valid = torch.ones(2, 24, dtype=torch.bool)
    valid[1, 15:] = False
    batched = resample(model.resampler, features, positions, valid)
    for n, count in enumerate((24, 15)):
        single = model.resampler(features[n, :count], positions[n, :count])
        assert torch.allclose(batched[n], single, atol=1e-5)


@torch.inference_mode()
def test_batched_decoder_is_the_models(model):
    x = torch.randn(2, 11, 256, generator=torch.Generator().manual_seed(0))
    middle, batched = run_decoder(model.llm, x)
    for row, half, hidden in zip(x, middle, batched, strict=True):
        cache = KeyValueCache.empty(model.config.decoder, 11)
        first = model.llm.run_layers(row, 0, cache, range(2))
        assert torch.allclose(half, first, atol=1e-4)
        single = model.llm.model.norm(model.llm.run_layers(first, 0, cache, range(2, 4)))
        assert torch.allclose(hidden, single, atol=1e-4)


def test_orthogonalized_matrix_has_singular_values_near_one():
    for shape in ((24, 60), (60, 24), (40, 40)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalize(torch.stack([matrix, 3 * matrix.flip(0)])))
        assert values.min() > 0.5 and values.max() < 1.3


@pytest.mark.parametrize("task", TASKS)
def test_example_is_the_prompt_with_the_answer(task, chat_format):
    question = draw_question(task, 5, 3)
    example = make_example(question, chat_format)
    turn = question.turns[-1]
    answers = chat_format.tokenizer.decode(example.input_ids[example.answers].tolist(), False)
    thoughts = "" if turn.thoughts is None else f"{turn.thoughts}\n</think>\n\n"
    earlier = "".join(f"{t.answer}<|im_end|>" for t in question.turns[:-1])
    assert answers == f"{earlier}{thoughts}{turn.answer}<|im_end|>"
    whole = chat_format.tokenizer.decode(example.input_ids.tolist(), False)
    assert whole.endswith(f"{thoughts}{turn.answer}<|im_end|>")
    assert len(example.image_bound) == len(example.groups)
    for group in example.groups:
        for view in group.views:
            assert view.patches.shape == (view.grid[0] * view.grid[1], 588)


def spelled(classes):
    return "".join(CHARACTERS[c - 1] for c in classes)


def test_targets_spell_the_text_from_left_to_right(chat_format):
    """On the patches by column, and over the queries in order."""
    for index in range(8, 16):
        question = draw_question("printed_text", 5, index)
        (group,) = make_example(question, chat_format).groups
        (view,) = group.views
        text = question.turns[-1].answer
        assert spelled(group.text) == text
        patches, halves = np.nonzero(view.characters != BLANK)
        by_column = np.argsort(patches % view.grid[1] * 2 + halves)
        marked = view.characters[patches, halves][by_column]
        if (marked != IGNORE).all():  # narrow characters may share a place and be left out
            assert spelled(marked) == text
        assert view.content[patches[view.characters[patches, halves] != IGNORE]].mean() > 0.8


def test_frames_are_told_in_time(chat_format):
    question = draw_question("video_order", 5, 0)
    (group,) = make_example(question, chat_format).groups
    assert list(spelled(group.text)) == question.turns[-1].answer.split()
    late = replace(question, temporal_ids=(question.temporal_ids[0][::-1],))
    (group,) = make_example(late, chat_format).groups
    assert list(spelled(group.text)) == question.turns[-1].answer.split()[::-1]


def test_a_slice_without_text_is_told_to_be_blank(chat_format):
    groups = make_example(draw_question("slices", 5, 0), chat_format).groups
    assert any(group.text is not None and not len(group.text) for group in groups)
    assert groups[0].text is None  # the overview is too coarse to be judged


def test_lines_over_one_another_are_not_judged(chat_format):
    """However few characters a page has: queries read from left to right."""
    few = 0
    for index in range(60):
        question = draw_lesson("digit_page", 5, index, DigitSource())
        (group,) = make_example(question, chat_format).groups
        places = [glyph.x for glyph in question.pictures[0].glyphs]
        if places != sorted(set(places)):
            assert group.text is None
            few += len(places) <= MAX_LENGTH
    assert few


def test_a_text_across_two_slices_is_not_judged(chat_format):
    """Whatever the grid, a slice that cuts the text has no target, one that holds it all has."""
    texts = [
        group.text
        for index in range(20)
        for group in make_example(draw_question("slices", 5, index), chat_format).groups[1:]
    ]
    kinds = {None if text is None else bool(len(text)) for text in texts}
    assert {True, False} <= kinds


def test_spelling_loss_is_the_sum_over_all_ways_to_spell():
    """Against the definition: every row of slots that collapses to the text, counted out."""
    logits = torch.randn(3, 2, 2 * CHARACTER_CLASSES, generator=torch.Generator().manual_seed(1))
    texts = [(5, 5), (7,), ()]
    joined = torch.tensor([character for text in texts for character in text])
    loss, _ = spelling_loss(logits, joined, [len(text) for text in texts])
    slots = logits.view(3, 4, CHARACTER_CLASSES).softmax(-1)
    expected = 0.0
    for row, text in zip(slots, texts, strict=True):
        ways = [
            way
            for way in product({BLANK, *text}, repeat=4)
            if tuple(c for c, _ in groupby(way) if c != BLANK) == text
        ]
        expected -= np.log(sum(float(row[range(4), way].prod()) for way in ways))
    assert float(loss) == pytest.approx(expected / (3 + 2 + 1), rel=1e-5)


def test_texts_are_exact_where_the_likeliest_classes_spell_them():
    logits = torch.full((2, 2, 2, CHARACTER_CLASSES), -5.0)
    for row, spelling in enumerate([(9, 9, BLANK, 9), (4, BLANK, 4, 4)]):
        for slot, character in enumerate(spelling):
            logits[row, slot // 2, slot % 2, character] = 5
    _, exact = spelling_loss(logits.flatten(2), torch.tensor([9, 9, 4]), [2, 1])
    assert exact == 0.5


def test_losses_are_finite_and_reach_every_parameter(model, chat_format):
    torch.manual_seed(0)
    probes = Probes(model)
    examples = [make_example(draw_question(task, 5, 1), chat_format) for task in TASKS]
    rng = np.random.default_rng(0)
    losses = losses_of(model, probes, examples, Weights(), 0.5, rng)
    losses.total.backward()
    assert np.isfinite(losses.total.item())
    # An untrained model guesses: the cross-entropy of a uniform choice, give or take.
    texts = [example for example in examples if not has_shapes(example)]
    untrained = losses_of(model, probes, texts, Weights(answer=0, query=0), 0.5, rng)
    assert 0.5 < untrained.patch / np.log(CHARACTER_CLASSES) < 2
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert missing == []
    model.zero_grad()


def test_losses_are_the_same_however_things_are_put_together(model, chat_format):
    """In chunks of their own length, or padded in one as a GPU computes them."""
    torch.manual_seed(0)
    probes, rng = Probes(model), np.random.default_rng(0)
    examples = [make_example(draw_question(task, 5, 2), chat_format) for task in TASKS]
    single, whole = (
        batch_losses(model, probes, make_batch(examples, Weights(), 0, rng, most), Weights())
        for most in (1, sys.maxsize)
    )
    for name in ("total", "answer", "query", "patch", "text", "exact"):
        values = [getattr(losses, name).item() for losses in (single, whole)]
        assert values[0] == pytest.approx(values[1], rel=1e-5), name


def test_things_computed_together_are_of_like_length():
    lengths = [7, 40, 3, 12, 13, 5, 6, 3]
    chunks = like_length(lengths, most=3)
    assert sorted(n for chunk in chunks for n in chunk) == list(range(len(lengths)))
    for chunk in chunks:
        of_chunk = [lengths[n] for n in chunk]
        assert len(chunk) <= 3 and max(of_chunk) < 2 * min(of_chunk)


def test_decoder_is_asked_what_it_has_counted_where_a_picture_ends(model, chat_format):
    """A probe of zeros tells log(2) of every kind: off by this, or by a count less it."""
    example = make_example(draw_question("shapes", 5, 1), chat_format)
    ends = chat_format.prompt.special_tokens["image_end"].id
    assert [example.input_ids[end] for _, end in example.image_bound] == [ends]
    probes = Probes(model)
    for parameter in probes.of_decoder():
        torch.nn.init.zeros_(parameter)
    losses = answer_losses(model, probes, [example], 0, np.random.default_rng(0), {})
    off = abs(example.groups[0].counts.shapes.sum(0) - np.log(2))
    assert off.min() > 0.25  # beyond it, an error counts by its size less an eighth
    counted = 2 * (off - 0.125).sum()  # the one place is a cell and the whole
    assert losses.total.item() == pytest.approx(
        losses.answer.item() + TOTALS_WEIGHT * counted, rel=1e-5
    )
    losses.total.backward()
    assert all(parameter.grad.any() for parameter in probes.of_decoder())
    model.zero_grad()


def test_decoder_alone_learns_from_what_was_seen_once(model, chat_format):
    examples = [make_example(draw_question("shapes", 5, n), chat_format) for n in (1, 2, 1)]
    examples = [examples[0], examples[1], examples[0]]
    probes, memory, rng = Probes(model), {}, np.random.default_rng(0)
    losses = answer_losses(model, probes, examples, 0.5, rng, memory)
    losses.total.backward()
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None} == {"llm"}
    model.zero_grad()
    assert set(memory) == set(examples)
    again = answer_losses(model, probes, examples, 0.5, rng, memory)
    assert again.answer == losses.answer
    full = losses_of(model, probes, examples, Weights(), 0, rng)
    whole = answer_losses(model, probes, examples, 0, rng, {})
    assert whole.answer.item() == pytest.approx(full.answer.item(), rel=1e-5)


def test_resampler_alone_learns_from_patches_that_were_seen_once(model, chat_format):
    tasks = ("printed_text", "video_order")  # one view, and several in a group
    first, second = (make_example(draw_question(task, 5, 1), chat_format) for task in tasks)
    probes, seen, rng = Probes(model), {}, np.random.default_rng(0)
    losses = query_losses(model, probes, [first, second, first], 0.5, rng, seen)
    losses.total.backward()
    learning = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert learning == {"resampler"}
    assert [len(seen[e][1]) for e in (first, second)] == [1, len(second.groups[0].views)]
    again = query_losses(model, probes, [first, second, first], 0.5, rng, seen)
    assert again.query == losses.query
    full = losses_of(model, probes, [first, second], Weights(answer=0), 0, rng)
    whole = query_losses(model, probes, [first, second], 0, rng, {})
    assert whole.query.item() == pytest.approx(full.query.item(), rel=1e-5)


def test_shapes_are_told_where_they_are(chat_format):
    """On the patch of each middle, and counted."""
    for index in range(6):
        question = draw_question("shapes", 5, index)
        (picture,) = question.pictures
        (group,) = make_example(question, chat_format).groups
        (view,) = group.views
        assert view.content.all()
        for shapes in picture.shapes:
            kind = (SHAPES.index(shapes.shape) + 1, list(COLOURS).index(shapes.colour) + 1)
            patches = np.flatnonzero((view.marks == kind).all(1))
            assert len(patches) == shapes.count
            for counts in (view.counts, group.counts):
                told = counts.shapes.sum(0)[[kind[0] - 1, len(SHAPES) + kind[1] - 1]]
                assert (told == shapes.count).all()


def test_shapes_of_a_video_are_not_counted(chat_format):
    """Its frames show one shape again and again; each view by itself is."""
    (video,) = make_example(draw_question("video_direction", 5, 1), chat_format).groups
    assert video.counts is None
    assert all(view.counts.shapes.sum() == 2 for view in video.views)  # its kind and its colour


def test_motion_is_told_in_time(chat_format):
    for index in range(8):
        question = draw_question("video_direction", 5, index)
        (group,) = make_example(question, chat_format).groups
        told = group.places[(group.places != IGNORE).all(1)]
        assert len(told) == len(question.pictures)
        step = np.array(DIRECTIONS[question.turns[-1].answer])
        way = told[-1] - told[0]
        assert way @ step > 0 and abs(way @ step) > abs(way @ step[::-1])


def test_thinning_leaves_out_empty_patches_alone(chat_format):
    from examples.pocket.batch import _thin

    (group,) = make_example(draw_question("printed_text", 5, 8), chat_format).groups
    (view,) = group.views
    kept = _thin(view, 1.0, np.random.default_rng(0))
    assert set(np.flatnonzero(view.content)) <= set(kept.tolist())
    assert len(kept) <= view.content.sum() + 1
    assert len(_thin(view, 0.0, np.random.default_rng(0))) == len(view.content)


def test_lessons_never_repeat_an_evaluation_picture():
    one = draw_lesson("printed_text", 1, 0, DigitSource())
    assert one.turns != draw_question("printed_text", 2, 0).turns


def test_pool_draws_the_wanted_tasks_and_reuses_examples(chat_format):
    pool = Pool(chat_format, seed=0, stream=0, source=DigitSource())
    tasks = {"shapes": 0.5, "handwritten_digits": 0.5}
    early = [id(example) for _ in range(40) for example in pool.batch(8, tasks, 4)]
    assert pool.drawn >= 320  # nothing is shown often before there is much to choose from
    later = [id(example) for _ in range(80) for example in pool.batch(8, tasks, 4)]
    assert 400 < pool.drawn < 320 + 640
    assert len(set(early)) > 150 and len(set(later)) < 640


def test_other_colours_keep_the_drawing_and_spare_shapes(chat_format):
    text, shapes = (
        make_example(draw_question(task, 5, 8), chat_format) for task in ("printed_text", "shapes")
    )
    views, _ = join_views([text, shapes], 0, np.random.default_rng(0), most=2)
    (chunk,) = views.chunks
    assert sorted(chunk.colourless.tolist()) == [False, True]
    pixels = chunk.patches.float() / 127.5 - 1
    shown = recolour(pixels, chunk.colourless, np.random.default_rng(1))
    for old, new, other in zip(pixels, shown, chunk.colourless, strict=True):
        before, after = (patches.view(-1, 3, 196).mean(1).flatten() for patches in (old, new))
        assert abs(np.corrcoef(before, after)[0, 1]) > 0.99
        assert torch.equal(old, new) == (not other)
        assert new.abs().max() <= 1


def test_lessons_by_themselves_are_the_hard_part_of_a_task():
    for n in range(20):
        (asked,) = draw_lesson("counting", 1, n, DigitSource()).turns
        assert any(digit in asked.answer for digit in "123456")
        read, again = draw_lesson("spelling", 1, n, DigitSource()).turns
        said = again.answer[::2].replace("_", " ") if "Spell" in again.question else again.answer
        assert said in (read.answer, read.answer[::-1])
        assert again in follow_ups(read.answer)
        assert draw_lesson("comparing", 1, n, DigitSource()).turns[0].answer in ("yes", "no")
    assert {*TASK_OF, *TASKS} == {*LESSONS}


@pytest.mark.parametrize("stages", CURRICULA.values(), ids=list(CURRICULA))
def test_every_stage_has_something_of_a_task_with_pages(stages):
    for stage in stages:
        for task in PAGES.values():
            chosen = stage.tasks_among({task})
            assert chosen and {TASK_OF.get(lesson, lesson) for lesson in chosen} == {task}


def test_queries_look_at_columns_from_left_to_right_and_at_times_in_order(model):
    """Before any training, on plain pictures."""
    resampler, size = model.resampler, model.config.decoder.hidden_size
    normed = resampler.ln_kv(torch.zeros(size))
    weights, heads = resampler.attn.in_proj_weight.chunk(3), resampler.num_heads
    query = (resampler.ln_q(resampler.query) @ weights[0].T).view(-1, heads, size // heads)

    def scores(positions):
        keys = (normed + torch.from_numpy(positions)) @ weights[1].T
        return torch.einsum("qhd,nhd->qhn", query, keys.view(-1, heads, size // heads))

    with torch.no_grad():
        columns = scores(sincos_2d(1, 24, size)).argmax(-1)
        times = scores(sincos_time(np.arange(64), size)).argmax(-1)
    assert (columns == torch.arange(24)[:, None]).all()
    wanted = (torch.arange(len(times)) * QUERY_TIME)[:, None]
    assert ((times - wanted).abs() <= QUERY_TIME).float().mean() > 0.8


@pytest.mark.parametrize("stages", CURRICULA.values(), ids=list(CURRICULA))
def test_rates_rise_and_fall_in_every_stage(stages):
    shares = np.linspace(0, 1, 2001)[:-1]
    for stage in stages:
        rates = [rate(share, stages) for share in shares if stage_at(share, stages) is stage]
        assert max(rates) == pytest.approx(stage.peak)
        assert rates[0] < 0.1
        assert rates[-1] < 0.12
    assert rate(0.99999, stages) < 0.02


def test_saved_state_is_restored_exactly(tmp_path, chat_format):
    def step(model, probes, optimizers, index):
        examples = [make_example(draw_question("shapes", 5, index), chat_format)]
        rng = np.random.default_rng(index)
        losses_of(model, probes, examples, Weights(), 0.5, rng).total.backward()
        optimizers.step(0.5)

    def fresh(seed):
        torch.manual_seed(seed)
        model = build_model(seed)
        probes = Probes(model)
        return model, probes, Optimizers({"model": model, "probes": probes})

    run = fresh(0)
    step(*run, 0)
    facts = {"step": 1, "seconds": 2.5, "drawn": 3, "begin": 0.5, "fitting": 0}
    facts |= {"began_with": None, "device": "cpu"}
    save_state(tmp_path, run[2], facts)
    other = fresh(7)
    check_state(tmp_path, other[2].named, "cpu")
    with pytest.raises(InputError, match="--device cpu"):
        check_state(tmp_path, other[2].named, "cuda")
    assert load_state(tmp_path, other[2]) == facts
    for each in (run, other):
        step(*each, 1)
    for name, parameter in run[2].named.items():
        assert torch.equal(parameter, other[2].named[name]), name


def test_checkpoint_is_in_the_published_layout(checkpoint):
    config = load_config(checkpoint)
    assert config == parse_config(CONFIG)
    opened = Checkpoint(checkpoint)
    check_tensors(opened, tensor_shapes(config), "it", "whole")
    assert {info.dtype for info in opened.tensors.values()} == {"bfloat16"}
    assert (checkpoint / "model.safetensors").stat().st_size <= 12e6


def test_capitals_digits_and_punctuation_are_one_token_each(chat_format):
    text = "HELLO WORLD 1234567890 .,!?-:/&+#%()$@"
    assert len(chat_format.tokenizer.encode_text(text)) == len(text)
    assert len(chat_format.tokenizer.encode_text("What does it say?")) <= 6
