"""Our compact template renders as the published one does."""

import random
from functools import cache

import jinja2
import pytest

from export.host.chat_template import COMPACT
from export.releases import DEFAULT_RELEASE

is_supported = DEFAULT_RELEASE.chat.supports

PIECES = [
    "",
    "a",
    "hello there",
    "\n",
    "\n\n",
    " ",
    "<think>",
    "</think>",
    "<think>\nwhy\n</think>\n\n",
    "line\nline",
    "{{ x }}",
    "(<image>./</image>)",
    "é漢",
]


@cache
def compiled(template):
    """As Hugging Face renders: blocks trimmed, nothing escaped."""
    return jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)


def render(template, **values):
    return compiled(template).render(**values)


def conversation(source, unique):
    """Messages in any order of roles after an optional leading system message."""
    messages = [{"role": "system", "content": text(source)}] if source.random() < 0.3 else []
    for n in range(source.randrange(1, 7)):
        role = source.choice(["user", "assistant", "assistant", "user", "system"])
        role = role if messages or role != "system" else "user"
        mark = f" {n}" if unique else ""
        messages.append({"role": role, "content": text(source) + mark})
    return messages


def text(source):
    return "".join(source.choices(PIECES, k=source.randrange(0, 4)))


def options(source):
    thinking = source.choice([{}, {"enable_thinking": True}, {"enable_thinking": False}])
    return thinking | {"add_generation_prompt": source.random() < 0.7}


def test_random_conversations_of_different_messages_render_alike(chat_template):
    source = random.Random(0)
    for _ in range(1500):
        values = {"messages": conversation(source, unique=True)} | options(source)
        assert render(COMPACT, **values) == render(chat_template, **values), values


def test_conversation_that_repeats_a_message_renders_alike(chat_template):
    source = random.Random(1)
    for _ in range(1500):
        values = {"messages": conversation(source, unique=False)} | options(source)
        assert render(COMPACT, **values) == render(chat_template, **values), values


def test_thoughts_before_the_last_question_are_left_out(chat_template):
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "<think>\nsecret\n</think>\n\nanswer"},
        {"role": "user", "content": "two"},
    ]
    expected = (
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\nanswer<|im_end|>\n"
        "<|im_start|>user\ntwo<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    values = {"messages": messages, "add_generation_prompt": True, "enable_thinking": False}
    assert render(COMPACT, **values) == expected
    assert render(chat_template, **values) == expected


def test_both_templates_are_supported_and_no_other(chat_template):
    assert is_supported(COMPACT)
    assert is_supported(chat_template)


def test_ends_of_lines_make_no_other_template(chat_template):
    for template in (chat_template, COMPACT):
        for same in (template.removesuffix("\n"), template.removesuffix("\n") + "\n"):
            assert is_supported(same)
            assert is_supported(same.replace("\n", "\r\n"))


@pytest.mark.parametrize("change", [" ", "\n\n", "{# #}"])
def test_changed_template_is_not_supported(chat_template, change):
    assert not is_supported(chat_template + change)
    assert not is_supported(COMPACT + change)
