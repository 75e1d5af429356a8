"""Bundles as transformers has its models: `from_pretrained`, `generate`, a processor, a pipeline.

Needs the extra `transformers`. Pictures, prompts and the model are the session's own; choosing the
tokens, streaming and stopping are transformers'.
"""

from mobile_runtime.transformers_api.model import BundleConfig, MiniCPMVForMobile
from mobile_runtime.transformers_api.processor import MiniCPMVProcessor

__all__ = ["BundleConfig", "MiniCPMVForMobile", "MiniCPMVProcessor"]
