"""MiniCPM-V 4.5: SigLIP2-400M vision tower, 3D resampler, Qwen3-8B decoder."""

from __future__ import annotations

from export.graphs.bodies import SIGLIP_RESAMPLER_QWEN
from export.graphs.parameters import KEY_QUERY
from export.host.chat_format import SPECIAL_TOKENS, TEXT_TOKENS, ChatRules
from export.host.chat_template import COMPACT, PUBLISHED_SHA256
from export.models.config import ConfigRules
from export.models.residual import residual_stream
from export.models.tensors import tensor_shapes
from export.releases.release import Release, ReleaseFacts
from mobile_runtime.bundle import Generation, SamplingDefaults

_TITLE = "MiniCPM-V 4.5"

# generation_config.json is never used by the published chat(). With thinking, chat() sets only the
# temperature, and Hugging Face's own default top_k of 50 applies.
_GENERATION = Generation(
    answer=SamplingDefaults(temperature=0.7, top_k=100, top_p=0.8, repetition_penalty=1.03),
    thinking=SamplingDefaults(temperature=0.7, top_k=50, top_p=1.0, repetition_penalty=1.0),
    max_new_tokens=2048,
)

MINICPMV_4_5 = Release(
    model_type="minicpmv",
    version="4.5",
    title=_TITLE,
    hub_id="openbmb/MiniCPM-V-4_5",
    facts=ReleaseFacts(
        name="minicpmv-4.5",
        license="MiniCPM Model License "
        "(https://github.com/OpenBMB/MiniCPM/blob/main/MiniCPM%20Model%20License.md)",
        generation=_GENERATION,
    ),
    config=ConfigRules(
        title=_TITLE,
        qkv_bias=False,
        qk_norm=True,
        max_frames=6,
        supported={"attention_bias": (False,)},
    ),
    tensor_shapes=tensor_shapes,
    bodies=SIGLIP_RESAMPLER_QWEN,
    residual_stream=residual_stream,
    parts={
        "vision_encoder": "vpm.*",
        "resampler": "resampler.*",
        "decoder": "llm.model.layers.*",
        "lm_head": "llm.lm_head.*",
        "embed_tokens": "llm.model.embed_tokens.*",
    },
    kept=(KEY_QUERY,),
    calibrated=("decoder", "lm_head"),
    chat=ChatRules(
        title=_TITLE,
        special_tokens=SPECIAL_TOKENS,
        stop_roles=("message_end", "end_of_text"),
        default_template=COMPACT,
        template_sha256=(PUBLISHED_SHA256,),
        text_tokens=TEXT_TOKENS,
    ),
    text_type="qwen3",
)
