// node generate.mjs BUNDLE REQUEST.json: runs all graphs of an ONNX bundle and prints the token ids
// of the answer as JSON. The request holds what the host computes: token ids with placeholders,
// where the pictures' embeddings go, and the patches and positions of every group of views.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import ort from "onnxruntime-node";

const [bundle, requestFile] = process.argv.slice(2);
const request = JSON.parse(readFileSync(requestFile, "utf8"));
const manifest = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8"));
const path = (role) => join(bundle, manifest.graphs.find((g) => g.role === role).path);
const open = (role) => ort.InferenceSession.create(path(role));
const longs = (values, dims) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
const floats = (values, dims) => new ort.Tensor("float32", Float32Array.from(values), dims);

async function imageEmbeds(vision, resampler, group) {
  const features = [];
  for (const view of group.views) {
    const n = view.position_ids.length;
    const { image_features } = await vision.run({
      pixel_values: floats(view.pixel_values, [1, n, view.pixel_values.length / n]),
      position_ids: longs(view.position_ids, [1, n]),
    });
    features.push(image_features);
  }
  const total = features.reduce((sum, f) => sum + f.dims[1], 0);
  const joined = new Float32Array(total * features[0].dims[2]);
  let begin = 0;
  for (const f of features) {
    joined.set(f.data, begin);
    begin += f.data.length;
  }
  const { image_embeds } = await resampler.run({
    image_features: new ort.Tensor("float32", joined, [1, total, features[0].dims[2]]),
    row_ids: longs(group.row_ids, [total]),
    column_ids: longs(group.column_ids, [total]),
    temporal_ids: longs(group.temporal_ids, [total]),
  });
  return image_embeds.data;
}

const [embed, vision, resampler, decoder] = await Promise.all(
  ["embed_tokens", "vision_encoder", "resampler", "decoder"].map(open),
);
const ids = request.input_ids;
const { inputs_embeds } = await embed.run({ input_ids: longs(ids, [1, ids.length]) });
const size = inputs_embeds.dims[2];
for (const [n, group] of request.groups.entries()) {
  inputs_embeds.data.set(await imageEmbeds(vision, resampler, group), request.bounds[n][0] * size);
}

const { num_key_value_heads: heads, head_dim: dim, num_layers: layers } = manifest.architecture;
const { context_length: context, kv_cache: kind } = manifest.decoding;
const cache = {};
for (let n = 0; n < layers; n++) {
  for (const part of ["key", "value"]) {
    const length = heads * context * dim;
    const data = kind === "int8" ? new Int8Array(length) : new Float32Array(length);
    cache[`${n}.${part}`] = new ort.Tensor(kind, data, [1, heads, context, dim]);
  }
}

async function step(embeds, filled) {
  const feeds = {
    inputs_embeds: embeds,
    attention_mask: longs(new Array(filled).fill(1), [1, filled]),
    num_logits_to_keep: longs([1], [1]),
  };
  for (const [name, tensor] of Object.entries(cache)) feeds[`past_key_values.${name}`] = tensor;
  const outputs = await decoder.run(feeds);
  for (const name of Object.keys(cache)) cache[name] = outputs[`present.${name}`];
  const logits = outputs.logits.data;
  return logits.reduce((best, value, n) => (value > logits[best] ? n : best), 0);
}

const tokens = [];
let filled = ids.length;
let token = await step(inputs_embeds, filled);
while (tokens.length < request.max_new_tokens && !manifest.prompt.stop_token_ids.includes(token)) {
  tokens.push(token);
  const { inputs_embeds: next } = await embed.run({ input_ids: longs([token], [1, 1]) });
  token = await step(next, ++filled);
}
console.log(JSON.stringify(tokens));
