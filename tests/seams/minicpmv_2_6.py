"""MiniCPM-V 2.6 in miniature, to see that a release can be registered from outside: Qwen2 (biases
on queries, keys and values, no norms of heads, head_dim not in config.json), a resampler that packs
no frames, chats without thinking."""

from export.graphs.bodies import SIGLIP_RESAMPLER_QWEN
from export.graphs.parameters import KEY_QUERY
from export.host.chat_format import IMAGE_TOKENS, MESSAGE_TOKENS, ChatRules
from export.models.config import ConfigRules
from export.models.residual import residual_stream
from export.models.tensors import tensor_shapes
from export.releases import DEFAULT_RELEASE
from export.releases.release import Release, ReleaseFacts

TITLE = "MiniCPM-V 2.6"
# Qwen2's template, as far as the runtime writes it: without tools and without thoughts.
TEMPLATE = r"""
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""

MINICPMV_2_6 = Release(
    model_type="minicpmv",
    version="2.6",
    title=TITLE,
    hub_id="openbmb/MiniCPM-V-2_6",
    facts=ReleaseFacts("minicpmv-2.6", "MiniCPM Model License", DEFAULT_RELEASE.facts.generation),
    config=ConfigRules(
        title=TITLE,
        qkv_bias=True,
        qk_norm=False,
        max_frames=1,
        supported={"sliding_window": (None, 131072)},
        names_head_dim=False,
    ),
    tensor_shapes=tensor_shapes,
    bodies=SIGLIP_RESAMPLER_QWEN,
    residual_stream=residual_stream,
    parts=DEFAULT_RELEASE.parts,
    kept=(KEY_QUERY,),
    calibrated=("decoder",),
    chat=ChatRules(
        title=TITLE,
        special_tokens={**MESSAGE_TOKENS, **IMAGE_TOKENS},
        stop_roles=("message_end", "end_of_text"),
        default_template=TEMPLATE,
        template_sha256=(),
    ),
    text_type="qwen2",
)
