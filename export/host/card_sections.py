"""Sections of a bundle's card about its target: how to run the packages or graphs."""

COREML_SECTION = """
## Compute units

The decoder, head and resampler are shaped for the Neural Engine. Published tests of SigLIP towers
in float16 there disagree with each other: load the vision encoder on the GPU unless your own
measurement on the device says otherwise.
"""

ONNX_SECTION = """
## Running the graphs

- `vision_encoder`: the patches of one view, (1, patches, 3 · 14²) with red, green and blue planes
  one after the other, and their rows of the position table.
- `resampler`: the features of all views of a group side by side, and each patch's row, column and
  time (tenths of a second; −1 for a picture).
- `decoder_model_merged`: embeddings, a mask of ones as long as all positions so far, and the cache.
  Make one buffer of the context's length for each key and value and bind it to `past_key_values`
  and `present` alike: nothing is copied then. Run prompts in pieces of the prefill's length;
  `num_logits_to_keep` is 1 for the last position and 0 for all.
- `*_exact.onnx` has the same weights, with activations and cache in float32: it is what is compared
  with PyTorch.
- `model.onnx` is the text model alone, token ids to logits, on the same data, in the names that
  optimum gives its inputs and outputs; onnxruntime-genai finds it by `genai_config.json`.
"""
