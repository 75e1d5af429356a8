"""The chat templates that a checkpoint may have: the runtime renders their format in code.

`COMPACT` is our own text for models made here. It renders system, user and assistant messages as
the published template does, and leaves tools out.
"""

from __future__ import annotations

PUBLISHED_SHA256 = "56786063c90f9f67402d4d9af27f5c17f206467d577dc04d6dcfee2d57c8a2f0"

COMPACT = r"""
{%- set last = namespace(query=messages | length - 1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set last.query = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set text = message.content %}
    {%- set thought = '' %}
    {%- if message.role == 'assistant' and '</think>' in text %}
        {%- set parts = text.split('</think>') %}
        {%- set thought = parts[0].rstrip('\n').split('<think>')[-1].strip('\n') %}
        {%- set text = parts[-1].lstrip('\n') %}
    {%- endif %}
    {%- if message.role == 'assistant' and loop.index0 > last.query and (loop.last or thought) %}
        {%- set text = '<think>\n' ~ thought ~ '\n</think>\n\n' ~ text.lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ text ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is true %}
        {{- '<think>\n' }}
    {%- elif enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
