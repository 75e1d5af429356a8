import pytest

from mobile_runtime.chat.messages import Media, collect_media, read_turns
from mobile_runtime.errors import InputError


def _user(*parts):
    return {"role": "user", "content": list(parts)}


def test_media_come_in_the_order_of_the_conversation():
    messages = [
        {"role": "system", "content": "Be brief."},
        _user({"type": "image", "image": "a.jpg"}, {"type": "text", "text": "What?"}),
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
        _user({"type": "video", "video": "b.mp4"}, {"type": "image", "image": 3}),
    ]
    expected = [Media("image", "a.jpg"), Media("video", "b.mp4"), Media("image", 3)]
    assert collect_media(read_turns(messages)) == expected


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ([], "must be a list"),
        ("Hi", "must be a list"),
        ({"role": "user", "content": "Hi"}, "must be a list"),
        (["Hi"], "a role and a content"),
        ([{"role": "user"}], "a role and a content"),
        ([{"role": "tool", "content": "1"}], "role 'tool'; the roles are system, user, assistant"),
        ([{"role": "assistant", "content": "", "tool_calls": []}], "tool_calls"),
        ([{"role": "user", "content": None}], "NoneType"),
        ([_user({"type": "image_url", "image_url": "x"})], "type 'image_url'"),
        ([_user({"type": "image", "file": "x"})], "has file; there may be one of image, path, url"),
        ([_user({"type": "image", "image": "x", "max_pixels": 9})], "has max_pixels; there may be"),
        ([_user({"type": "video", "video": "x", "fps": 1, "nframes": 2})], "has nframes;"),
        ([_user({"type": "video", "video": "x", "fps": 0})], "fps of a video is 0; give a whole"),
        ([_user({"type": "video", "video": "x", "packing": True})], "packing of a video is True"),
        ([_user({"type": "video", "video": "x", "max_frames": "9"})], "max_frames of a video is 9"),
        ([_user({"type": "image", "image": "x", "fps": 1})], "has fps; there may be one of"),
        ([_user({"type": "image", "image": "x", "url": "y"})], "has image, url; give one of"),
        ([_user({"type": "image"})], "has nothing else; give one of image, path, url"),
        ([_user({"type": ["image"], "image": "x"})], r"not one of type \['image'\]"),
        ([_user({"type": "image", "image": "x", "background": "x"})], "The background is 'x'"),
        ([_user({"type": "video", "video": "x", "background": 3})], "The background is '3'"),
        ([_user({"type": "text", "text": "x", "background": "red"})], "has background;"),
        (iter([]), "must be a list"),
        ([_user("Hi")], "type 'str'"),
        ([_user({"type": "text", "text": 5})], "not int"),
        ([{"role": "system", "content": [{"type": "image", "image": 1}]}], "role system"),
        ([{"role": "assistant", "content": "", "reasoning_content": 1}], "reasoning_content"),
    ],
)
def test_message_that_cannot_be_said_is_named(messages, match):
    with pytest.raises(InputError, match=match):
        collect_media(read_turns(messages))


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("key", ["path", "url", None])
def test_the_keys_of_transformers_name_a_source(kind, key):
    (turn,) = read_turns([_user({"type": kind, key or kind: "x"})])
    assert turn.parts == (Media(kind, "x"),)


def test_settings_of_a_video_are_kept():
    part = {"type": "video", "video": "x", "fps": 2, "max_frames": 9, "packing": 3}
    (turn,) = read_turns([_user(part)])
    assert turn.parts == (Media("video", "x", {"fps": 2, "max_frames": 9, "packing": 3}),)


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize(("text", "colour"), [("#0c8", (0, 204, 136)), ("none", None)])
def test_a_background_is_kept(kind, text, colour):
    (turn,) = read_turns([_user({"type": kind, kind: "x", "background": text})])
    assert turn.parts == (Media(kind, "x", background=colour),)
