"""Defaults of the published chat() that no file of the checkpoint holds."""

from __future__ import annotations

from mobile_runtime.bundle import Generation, SamplingDefaults

NAME = "minicpmv-4.5"
LICENSE = "MiniCPM Model License (https://github.com/OpenBMB/MiniCPM/blob/main/MiniCPM%20Model%20License.md)"

# generation_config.json is never used by chat(). With thinking, chat() sets the temperature alone
# and Hugging Face's own default top_k of 50 applies.
GENERATION = Generation(
    answer=SamplingDefaults(temperature=0.7, top_k=100, top_p=0.8, repetition_penalty=1.03),
    thinking=SamplingDefaults(temperature=0.7, top_k=50, top_p=1.0, repetition_penalty=1.0),
    max_new_tokens=2048,
)
