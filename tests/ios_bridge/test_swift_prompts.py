"""`minicpmv plan-prompt` against the published code's golden chats and the Python runtime."""

import dataclasses
import json
import random
import re

import pytest

from export.host.chat_format import TEXT_TOKENS
from mobile_runtime.bundle import Preprocessing
from mobile_runtime.chat.messages import collect_media, read_turns
from mobile_runtime.chat.prompt import MediaLayout, PromptOptions, encode_prompt
from mobile_runtime.chat.tokenizer import Tokenizer
from mobile_runtime.errors import InputError
from mobile_runtime.pictures.preprocess import plan_slices
from tests.mobile_runtime.chat.test_prompt import (
    GOLDEN_PROMPTS,
    HOSTILE,
    IMAGE,
    _golden_messages,
    _random_chat,
    _text,
    _user,
)
from tests.tampered_bundles import tamper


@pytest.fixture(scope="module")
def chat(published, published_tokenizer, preprocessing, make_prompt_bundle):
    """(bundle, Tokenizer, Prompt, Preprocessing) of the published checkpoint."""
    tokenizer, prompt = published
    return (
        make_prompt_bundle(published_tokenizer, prompt, preprocessing),
        tokenizer,
        prompt,
        preprocessing,
    )


def _line(messages, media=(), **options):
    layouts = [
        {"grids": [grid and list(grid) for grid in layout.grids], "temporal_ids": _ids(layout)}
        for layout in media
    ]
    return {"messages": messages, "media": layouts, **options}


def _ids(layout):
    return layout.temporal_ids and [list(group) for group in layout.temporal_ids]


def _expected(line, media, tokenizer, prompt, config):
    names = ("enable_thinking", "use_image_id", "temporal_ids")
    options = PromptOptions(**{name: line[name] for name in names if name in line})
    try:
        encoded = encode_prompt(
            read_turns(line["messages"]), media, tokenizer, prompt, config, options
        )
    except InputError as error:
        return {"error": str(error)}
    groups = [
        {"frames": list(g.frames), "view": g.view, "temporal_ids": list(g.temporal_ids)}
        for g in encoded.groups
    ]
    return {
        "input_ids": encoded.input_ids.tolist(),
        "image_bound": encoded.image_bound.tolist(),
        "groups": groups,
        "text": encoded.text,
    }


def test_golden_chats_have_the_published_ids(minicpmv_json, chat):
    bundle, _, _, config = chat
    lines = []
    for entry in GOLDEN_PROMPTS:
        messages = _golden_messages(entry)
        sizes = [media.source[:2] for media in collect_media(read_turns(messages))]
        slices = entry.get("max_slice_nums")
        media = [MediaLayout((plan_slices(*size, config, slices).grid,)) for size in sizes]
        names = ("enable_thinking", "use_image_id", "temporal_ids")
        options = {name: entry[name] for name in names if name in entry}
        lines.append(_line(messages, media, **options))
    found = minicpmv_json("plan-prompt", bundle, values=lines)
    assert len(found) == len(GOLDEN_PROMPTS) == 8
    for entry, plan in zip(GOLDEN_PROMPTS, found, strict=True):
        assert plan["input_ids"] == entry["input_ids"]
        assert plan["image_bound"] == entry["image_bound"]
        assert [g["temporal_ids"] for g in plan["groups"]] == entry["temporal_ids_used"]


def _random_layout(rng, kind):
    if kind == "image":
        return MediaLayout((rng.choice([None, (2, 1), (3, 2), (1, 2)]),))
    frames = rng.randint(1, 7)
    times, groups = list(range(frames)), []
    while times:
        size = rng.randint(1, 6)
        groups, times = [*groups, times[:size]], times[size:]
    return MediaLayout((rng.choice([None, None, (2, 1)]),) * frames, groups)


def _random_message(rng, hostile):
    parts = [_text("".join(rng.choices(hostile, k=rng.randint(0, 4)))) for _ in range(2)]
    for _ in range(rng.randint(0, 4)):
        kind = rng.choice(["image", "image", "video"])
        parts.insert(rng.randint(0, len(parts)), {"type": kind, kind: "x"})
    return _user(*parts)


def _random_conversation(rng):
    hostile = [
        *HOSTILE,
        " ",
        "\n",
        "\t",
        "\r\n",
        "\u3000",
        "\x1c",
        "e\u0301",
        "图",
        "word",
        "\n\u0301",
    ]
    if rng.random() < 0.5:
        return _random_chat(rng)
    messages = []
    for _ in range(rng.randint(1, 3)):
        messages.append(_random_message(rng, hostile))
        text = "".join(rng.choices(hostile, k=rng.randint(0, 6)))
        messages.append({"role": "assistant", "content": text})
    return messages[: rng.randint(1, len(messages))]


def test_random_conversations_are_encoded_as_in_python(minicpmv_json, chat):
    bundle, tokenizer, prompt, config = chat
    config = dataclasses.replace(config, num_queries=2)
    rng = random.Random(0)
    lines, expected = [], []
    for _ in range(3000):
        messages = _random_conversation(rng)
        media = [_random_layout(rng, m.kind) for m in collect_media(read_turns(messages))]
        options = {"enable_thinking": rng.choice([True, False, None])}
        options["use_image_id"] = rng.choice([True, False, None])
        if rng.random() < 0.3:
            count = sum(len(layout.grids) for layout in media)
            options["temporal_ids"] = [[n] for n in range(count)]
        lines.append(_line(messages, media, **options))
        expected.append(_expected(lines[-1], media, tokenizer, prompt, config))
    found = minicpmv_json("plan-prompt", bundle, "--num-queries", "2", values=lines)
    wrong = [
        (line, plan, wanted)
        for line, plan, wanted in zip(lines, found, expected, strict=True)
        if plan != wanted
    ]
    assert wrong == []
    assert sum("error" in plan for plan in found) < 300


ONE = MediaLayout((None,))
SLICED = MediaLayout(((2, 1),))
REFUSED = [
    _line([]),
    _line("Hi"),
    _line(["Hi"]),
    _line([{"role": "user"}]),
    _line([{"content": "Hi"}]),
    _line([{"role": "tool", "content": "Hi"}]),
    _line([{"role": "user", "content": 1}]),
    _line([{"role": "user", "content": None}]),
    _line([{"role": "user", "content": "Hi", "tool_calls": [], "name": "x"}]),
    _line([{"role": "user", "content": "Hi", "reasoning_content": 5}]),
    _line([{"role": "user", "content": ["Hi"]}]),
    _line([{"role": "user", "content": [{"type": "audio", "audio": "x"}]}]),
    _line([{"role": "user", "content": [{"type": "image", "text": "x"}]}]),
    _line([{"role": "user", "content": [{"type": "image"}]}]),
    _line([{"role": "user", "content": [{"type": "image", "image": 1, "url": "x"}]}]),
    _line([{"role": "user", "content": [{"type": "image", "image": 1, "max_pixels": 9}]}]),
    _line([{"role": "user", "content": [{"type": "video", "video": 1, "nframes": 9, "a": 1}]}]),
    _line([{"role": "user", "content": [{"type": "video", "video": 1, "fps": 0}]}]),
    _line([{"role": "user", "content": [{"type": "video", "video": 1, "packing": 0.5}]}]),
    _line([{"role": "user", "content": [{"type": "text", "text": 3}]}]),
    _line([{"role": "system", "content": [IMAGE]}], [ONE]),
    _line([_user(IMAGE)]),
    _line([_user(_text("a"))], [ONE]),
    _line([_user(IMAGE)], [ONE], temporal_ids=[[0, 1]]),
    _line([_user(IMAGE)], [ONE], temporal_ids=[[]]),
    _line([_user(IMAGE)], [ONE], temporal_ids=[[-2]]),
    _line([_user(IMAGE, IMAGE)], [ONE, SLICED], temporal_ids=[[0, 1]]),
    _line([_user(IMAGE)], [MediaLayout((None,) * 7, [list(range(7))])]),
]


def test_what_python_refuses_is_refused_with_its_sentence(minicpmv_json, chat):
    bundle, tokenizer, prompt, config = chat
    # A message that is no message is shown as each language writes it.
    shown = "A message needs a role and a content, not "
    plans = minicpmv_json("plan-prompt", bundle, values=REFUSED)
    for line, plan in zip(REFUSED, plans, strict=True):
        media = [
            MediaLayout(tuple(g and tuple(g) for g in layout["grids"]), layout["temporal_ids"])
            for layout in line["media"]
        ]
        wanted = _expected(line, media, tokenizer, prompt, config)
        assert set(wanted) == set(plan) == {"error"}
        # Swift draws what is transparent on white, and has no key for another background.
        wanted["error"] = re.sub(r",( and)? background\.$", ".", wanted["error"])
        if wanted["error"].startswith(shown):
            assert plan["error"].startswith(shown)
        else:
            assert plan == wanted


def test_places_in_a_picture_are_tokens_alike(minicpmv_json, chat):
    bundle, tokenizer, prompt, config = chat
    rng = random.Random(0)
    pieces = [
        *TEXT_TOKENS.values(),
        "book",
        " 10 20",
        " ",
        "<",
        "</ref",
        "e\u0301",
        "\u0301",
        "<image>",
    ]
    texts = ["".join(rng.choices(pieces, k=rng.randint(1, 12))) for _ in range(200)]
    lines = [_line([_user(_text(text))]) for text in [*texts, "Find <ref>book</ref>."]]
    plans = minicpmv_json("plan-prompt", bundle, values=lines)
    for line, plan in zip(lines, plans, strict=True):
        assert plan == _expected(line, [], tokenizer, prompt, config)
    assert {151671, 151672} < set(plans[-1]["input_ids"])


def test_an_exported_bundle_is_served_too(minicpmv_json, make_bundle):
    """An exported bundle as it is, with its own prompt format and constants."""
    bundle = make_bundle()
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    config = Preprocessing(**manifest["preprocessing"])
    (plan,) = minicpmv_json("plan-prompt", bundle, values=[_line([_user(IMAGE)], [ONE])])
    ((start, end),) = plan["image_bound"]
    tokens = manifest["prompt"]["special_tokens"]
    placeholder = tokens["image_placeholder"]["id"]
    assert plan["input_ids"][start:end] == [placeholder] * config.num_queries
    assert (
        Tokenizer.load(bundle / "tokenizer/tokenizer.json").decode(
            plan["input_ids"], skip_special=False
        )
        == plan["text"]
    )


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (["prompt", "special_tokens", "image_start", "id"], 1, "says that <image> is 1"),
        (["prompt", "special_tokens", "image_start", "content"], "<nope>", "no token '<nope>'"),
        (["prompt", "special_tokens"], {}, "no special token 'message_start'"),
    ],
)
def test_manifest_and_tokenizer_must_agree(
    place, value, text, minicpmv, make_prompt_bundle, published, published_tokenizer, preprocessing
):
    bundle = make_prompt_bundle(published_tokenizer, published[1], preprocessing)
    tamper(bundle, {"set": [place, value]})
    done = minicpmv("plan-prompt", bundle, check=False)
    assert done.returncode == 2 and text in done.stderr.decode()
