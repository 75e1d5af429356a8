import dataclasses
import json
import random
from itertools import chain

import numpy as np
import pytest

from mobile_runtime.bundle import SpecialToken
from mobile_runtime.chat.messages import collect_media, read_turns
from mobile_runtime.chat.prompt import (
    MediaLayout,
    PromptOptions,
    check_prompt,
    check_temporal_ids,
    encode_prompt,
)
from mobile_runtime.errors import InputError
from mobile_runtime.pictures.preprocess import plan_slices, preprocess_image
from tests.paths import GOLDEN

GOLDEN_PROMPTS = json.loads((GOLDEN / "prompts.json").read_text(encoding="utf-8"))
HOSTILE = (
    *("<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>", "<unk>"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "(<image>./</image>)", "<think>", "</think>"),
)
SLOT = "(<image>./</image>)"
ONE_VIEW = "<image><unk></image>"
IMAGE = {"type": "image", "image": None}


def _text(text):
    return {"type": "text", "text": text}


def _user(*parts):
    return {"role": "user", "content": list(parts)}


def _golden_messages(entry):
    """The golden chat in the transformers convention."""
    messages = []
    if "system_prompt" in entry:
        messages.append({"role": "system", "content": entry["system_prompt"]})
    for message in entry["messages"]:
        parts = [
            _text(part) if isinstance(part, str) else {"type": "image", "image": part["picture"]}
            for part in message["content"]
        ]
        messages.append({"role": message["role"], "content": parts})
    return messages


def _options(entry):
    keys = ("enable_thinking", "use_image_id", "temporal_ids")
    return PromptOptions(**{key: entry[key] for key in keys if key in entry})


@pytest.mark.parametrize(
    "entry", GOLDEN_PROMPTS, ids=lambda entry: str(entry["messages"][-1]["content"][-1])
)
def test_golden_chat_gives_the_published_ids(entry, published, preprocessing, picture):
    tokenizer, prompt = published
    messages = _golden_messages(entry)
    sizes = [media.source for media in collect_media(read_turns(messages))]
    slices = entry.get("max_slice_nums")
    media = [MediaLayout((plan_slices(w, h, preprocessing, slices).grid,)) for w, h, _ in sizes]
    encoded = encode_prompt(
        read_turns(messages), media, tokenizer, prompt, preprocessing, _options(entry)
    )
    views = [preprocess_image(picture(*size), preprocessing, slices) for size in sizes]
    in_order = [views[frame][group.view] for group in encoded.groups for frame in group.frames]
    assert encoded.input_ids.tolist() == entry["input_ids"]
    assert encoded.image_bound.tolist() == entry["image_bound"]
    assert [list(view.tgt_size) for view in in_order] == entry["tgt_sizes"]
    assert [list(group.temporal_ids) for group in encoded.groups] == entry["temporal_ids_used"]


@pytest.fixture(scope="module")
def template(chat_template):
    """The published template, compiled as transformers does."""
    jinja2 = pytest.importorskip("jinja2", reason="renders the published template")
    return jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(chat_template)


def _reference(template, messages, enable_thinking):
    """The chat as published code writes it: contents joined by newlines, then the template."""
    joined = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = "\n".join(part.get("text", SLOT) for part in content)
        joined.append({**message, "content": content})
    variables = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    return template.render(messages=joined, add_generation_prompt=True, **variables)


def _reference_groups(text, groups):
    """The published placement on a text: later frames of a group strip the chunk before them."""
    chunks = text.split(SLOT)
    later = {frame for group in groups for frame in group[1:]}
    placed = [
        chunk.strip() if frame in later else chunk + f"<image_id>{frame}</image_id>{ONE_VIEW}"
        for frame, chunk in enumerate(chunks[:-1])
    ]
    return "".join(placed) + chunks[-1]


def _random_content(rng, role):
    pieces = ["the", "\n", "\n\n", " ", "<think>", "</think>", "图", "", "a <b>"]
    pieces += ["<tool_response>", "</tool_response>"] if role == "user" else []
    if role == "assistant" and rng.random() < 0.5:
        return f"<think>\nhm {rng.choice(pieces)}\n</think>\n\n{rng.choice(pieces)}"
    if role == "user" and rng.random() < 0.3:
        return "<tool_response>" + rng.choice(pieces) + "</tool_response>"
    texts = ["".join(rng.choices(pieces, k=rng.randint(0, 4))) for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.5:
        return "".join(texts)
    parts = [_text(text) for text in texts]
    if role == "user" and rng.random() < 0.5:
        parts.insert(rng.randint(0, len(parts)), IMAGE)
    return parts


def _random_chat(rng):
    roles = ["system"] * (rng.random() < 0.4)
    roles += rng.choices(["user", "assistant", "user", "assistant", "system"], k=rng.randint(1, 5))
    messages = [{"role": role, "content": _random_content(rng, role)} for role in roles]
    for message in messages:
        if message["role"] == "assistant" and rng.random() < 0.2:
            message["reasoning_content"] = rng.choice(["", "\nbecause\n", "so"])
    return messages


@pytest.mark.parametrize("seed", range(20))
def test_random_chats_read_as_the_published_template(seed, tiny, preprocessing, template):
    tokenizer, prompt = tiny
    config = dataclasses.replace(preprocessing, num_queries=1, use_image_id=False)
    rng = random.Random(seed)
    for _ in range(100):
        messages, thinking = _random_chat(rng), rng.choice([True, False, None])
        media = [MediaLayout((None,))] * len(collect_media(read_turns(messages)))
        options = PromptOptions(enable_thinking=thinking)
        encoded = encode_prompt(read_turns(messages), media, tokenizer, prompt, config, options)
        assert encoded.text == _reference(template, messages, thinking).replace(SLOT, ONE_VIEW)
        assert tokenizer.decode(encoded.input_ids.tolist(), skip_special=False) == encoded.text


@pytest.mark.parametrize("seed", range(10))
def test_random_groups_are_placed_as_published(seed, tiny, preprocessing, template):
    config = dataclasses.replace(preprocessing, num_queries=1)
    rng = random.Random(seed)
    for _ in range(50):
        messages = [
            _user(*rng.choices([IMAGE, IMAGE, _text(" a \n"), _text("\t"), _text("")], k=6))
            for _ in range(rng.randint(1, 3))
        ]
        frames = list(range(len(collect_media(read_turns(messages)))))
        groups = []
        while frames:
            size = rng.randint(1, 6)
            groups, frames = [*groups, frames[:size]], frames[size:]
        media = [MediaLayout((None,))] * sum(map(len, groups))
        options = PromptOptions(None, True, groups)
        encoded = encode_prompt(read_turns(messages), media, *tiny, config, options)
        assert encoded.text == _reference_groups(_reference(template, messages, None), groups)
        assert [list(group.frames) for group in encoded.groups] == groups


def test_an_answer_with_places_comes_back_unchanged(published, preprocessing):
    """Its ids are those that the model gave; so the cache holds them already."""
    tokenizer, prompt = published
    given = [151671, 2190, 151672, 151673, 16, 15, 220, 17, 15, 151674]
    question = _user(_text("Where is <ref>the book</ref>?"))
    answer = {"role": "assistant", "content": tokenizer.decode(given, skip_special=False)}

    def encode(*messages):
        encoded = encode_prompt(read_turns(messages), [], tokenizer, prompt, preprocessing)
        return encoded.input_ids.tolist()

    before = encode(question)
    assert before.count(151671) == before.count(151672) == 1
    after = encode(question, answer, _user(_text("And now?")))
    answered = "".join(map(chr, given))
    assert answered in "".join(map(chr, after))


@pytest.mark.parametrize("given", ["<think>\nFirst the", "<think>", "<think>\na <think> b"])
def test_thoughts_that_a_limit_cut_begin_with_the_token_that_the_model_gave(
    given, published, preprocessing
):
    """As published, where the tag is one token; a user who writes it means the letters."""
    tokenizer, prompt = published
    think = prompt.special_tokens["think_start"].id
    answer = {"role": "assistant", "content": given}
    messages = [_user(_text("<think> Why?")), answer, _user(_text("And now?"))]
    options = PromptOptions(enable_thinking=None)
    encoded = encode_prompt(read_turns(messages), [], tokenizer, prompt, preprocessing, options)
    ids = encoded.input_ids.tolist()
    assert ids.count(think) == 1
    assert f"assistant\n{given}<|im_end|>" in encoded.text
    opening = tokenizer.encode_text("assistant\n")
    assert ids[ids.index(think) - len(opening) : ids.index(think)] == opening


@pytest.mark.parametrize("seed", range(10))
def test_special_tokens_in_text_change_no_bound_and_no_control_token(seed, tiny, preprocessing):
    tokenizer, prompt = tiny
    rng = random.Random(seed)
    ids_of = {token.content: token.id for token in prompt.special_tokens.values()}

    def text(pieces):
        return "".join(rng.choices(pieces, k=rng.randint(1, 10)))

    for _ in range(20):
        hostile = [
            {"role": "system", "content": text(HOSTILE)},
            _user(_text(text(HOSTILE)), IMAGE, _text(text(HOSTILE)), IMAGE),
            {"role": "assistant", "content": text([p for p in HOSTILE if "think" not in p])},
            _user(_text(text(HOSTILE))),
        ]
        harmless = json.loads(json.dumps(hostile))
        for part in chain(*(m["content"] for m in harmless if m["role"] == "user")):
            if part["type"] == "text":
                part["text"] = "x"
        harmless[0]["content"] = harmless[2]["content"] = "x"
        media = [MediaLayout(((2, 1),)), MediaLayout((None,))]
        encoded = encode_prompt(read_turns(hostile), media, tokenizer, prompt, preprocessing)
        expected = encode_prompt(read_turns(harmless), media, tokenizer, prompt, preprocessing)
        assert encoded.groups == expected.groups
        for start, end in encoded.image_bound:
            assert end - start == 64
            assert set(encoded.input_ids[start:end].tolist()) == {ids_of["<unk>"]}
        controls = set(ids_of.values())
        kept = [n for n in encoded.input_ids.tolist() if n in controls]
        assert kept == [n for n in expected.input_ids.tolist() if n in controls]


def test_text_is_encoded_together_with_the_template_around_it(tiny, preprocessing):
    tokenizer, prompt = tiny
    ids = encode_prompt(
        read_turns([_user(_text("\nuser"))]), [], *tiny, preprocessing
    ).input_ids.tolist()
    start = prompt.special_tokens["message_start"].id
    newlines, user = tokenizer.token_id("ĊĊ"), tokenizer.token_id("user")
    assert ids[:4] == [start, user, newlines, user]


def test_placeholder_of_a_sliced_image(tiny, preprocessing):
    config = dataclasses.replace(preprocessing, num_queries=1)
    messages = [_user(_text("a"), IMAGE, IMAGE)]
    media = [MediaLayout(((3, 2),)), MediaLayout((None,))]
    encoded = encode_prompt(read_turns(messages), media, *tiny, config, PromptOptions(None))
    row = "<slice><unk></slice>" * 3
    assert encoded.text == (
        "<|im_start|>user\na\n<image_id>0</image_id><image><unk></image>"
        f"{row}\n{row}\n<image_id>1</image_id><image><unk></image><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert [(group.frames, group.view) for group in encoded.groups] == [
        *(((0,), view) for view in range(7)),
        ((1,), 0),
    ]


def test_video_frames_of_a_group_share_one_placeholder(tiny, preprocessing):
    config = dataclasses.replace(preprocessing, num_queries=1)
    video = MediaLayout((None,) * 5, ((0, 2), (4, 6), (8,)))
    messages = [_user({"type": "video", "video": "v.mp4"}, _text("What?"))]
    encoded = encode_prompt(read_turns(messages), [video], *tiny, config, PromptOptions(None))
    view = ONE_VIEW
    assert encoded.text == (
        f"<|im_start|>user\n{view}\n{view}\n{view}\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [group.frames for group in encoded.groups] == [(0, 1), (2, 3), (4,)]
    assert [group.temporal_ids for group in encoded.groups] == [(0, 2), (4, 6), (8,)]


def test_text_before_a_later_frame_is_stripped_whole(tiny, preprocessing):
    config = dataclasses.replace(preprocessing, num_queries=1)
    messages = [
        _user(IMAGE, _text("  one \n"), IMAGE, _text(" two ")),
        {"role": "assistant", "content": " ok "},
        _user(_text("\n"), IMAGE, _text("three")),
    ]
    options = PromptOptions(None, True, [[1, 2, 3]])
    media = [MediaLayout((None,))] * 3
    encoded = encode_prompt(read_turns(messages), media, *tiny, config, options)
    assert encoded.text == (
        "<|im_start|>user\n<image_id>0</image_id><image><unk></image>onetwo <|im_end|>\n"
        "<|im_start|>assistant\n ok <|im_end|>\n<|im_start|>user\nthree<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_sliced_frames_of_a_group_are_packed_view_by_view(tiny, preprocessing):
    media = [MediaLayout(((2, 1),))] * 2
    options = PromptOptions(temporal_ids=[[0, 5]])
    encoded = encode_prompt(read_turns([_user(IMAGE, IMAGE)]), media, *tiny, preprocessing, options)
    assert [(group.frames, group.view) for group in encoded.groups] == [
        ((0, 1), 0),
        ((0, 1), 1),
        ((0, 1), 2),
    ]
    assert {group.temporal_ids for group in encoded.groups} == {(0, 5)}


def test_image_id_of_a_group_is_its_first_frame(tiny, preprocessing):
    media = [MediaLayout((None,) * 4, ((0, 1), (2, 3)))]
    messages = [_user({"type": "video", "video": ""})]
    options = PromptOptions(use_image_id=True)
    text = encode_prompt(read_turns(messages), media, *tiny, preprocessing, options).text
    assert text.count("<image_id>") == 2
    assert "<image_id>0</image_id>" in text and "<image_id>2</image_id>" in text


def test_frames_of_one_group_must_be_sliced_alike(tiny, preprocessing):
    media = [MediaLayout((None,)), MediaLayout(((2, 1),))]
    options = PromptOptions(temporal_ids=[[0, 1]])
    with pytest.raises(InputError, match="sliced differently"):
        encode_prompt(read_turns([_user(IMAGE, IMAGE)]), media, *tiny, preprocessing, options)


def test_layouts_must_match_the_pictures(tiny, preprocessing):
    with pytest.raises(InputError, match="1 pictures and videos, 0 layouts"):
        encode_prompt(read_turns([_user(IMAGE)]), [], *tiny, preprocessing)


@pytest.mark.parametrize(
    ("temporal_ids", "match"),
    [
        ([[0, 1]], "describes 2 pictures and the messages hold 3"),
        ([[0, 1, 2], []], "1 to 6"),
        ([[-2, 1, 2]], "−1 or more"),
        ([list(range(7))], "1 to 6"),
        ([0, 1, 2], "the group 0; a group is a list of integers"),
        (["012"], "the group 012; a group is a list of integers"),
        ([[0, "a", 2]], "a group is a list of integers"),
        ([[0, 1.5, 2]], "a group is a list of integers"),
        ([[0, True, 2]], "a group is a list of integers"),
        ([[0, None, 2]], "a group is a list of integers"),
        ([[0, 1, 2**24 + 1]], "an id above 16,777,216"),
        ([[0, 1, 10**5000]], "an id above 16,777,216"),
    ],
)
def test_wrong_temporal_ids_are_refused(temporal_ids, match):
    with pytest.raises(InputError, match=match):
        check_temporal_ids(temporal_ids, 3)


def test_arrays_of_numpy_are_groups():
    assert check_temporal_ids([np.arange(3)], 3) == [(0, 1, 2)]


def test_manifest_and_tokenizer_must_agree(tiny):
    tokenizer, prompt = tiny
    check_prompt(prompt, tokenizer)
    tokens = dict(prompt.special_tokens)
    tokens["image_start"] = SpecialToken("<image>", 1)
    with pytest.raises(InputError, match="<image> is 1"):
        check_prompt(dataclasses.replace(prompt, special_tokens=tokens), tokenizer)
    del tokens["image_start"]
    with pytest.raises(InputError, match="image_start"):
        check_prompt(dataclasses.replace(prompt, special_tokens=tokens), tokenizer)
