// A model, loaded from the folder of the page.

import { Encoder } from "./encoder.js";
import { Head } from "./head.js";
import { Model, ModelError, decompressed } from "./model.js";
import { Tokenizer } from "./tokenizer.js";

// A module of one function that adds two vectors.
const SIMD = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 123, 123, 1, 123, 3, 2, 1, 0, 10, 11, 1, 9, 0, 32, 0,
  32, 1, 253, 174, 1, 11,
];

async function fetched(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new ModelError(`The server has no ${name} beside this page (${response.status}).`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Labels texts. */
export class Classifier {
  /** Fetches the model and the kernels. */
  static async load() {
    if (!WebAssembly.validate(new Uint8Array(SIMD))) {
      throw new ModelError("This browser has no SIMD in WebAssembly; every current version has.");
    }
    const [bytes, module] = await Promise.all([fetched("model.bin.gz"), fetched("sparsekit.wasm")]);
    const model = new Model(await decompressed(bytes));
    return new Classifier(model, await Encoder.create(module, model));
  }

  constructor(model, encoder) {
    const { title, labels, tokenizer } = model.header;
    this.title = title;
    this.labels = labels;
    this.tokenizer = new Tokenizer(tokenizer, model.text(tokenizer.vocabulary));
    this.encoder = encoder;
    this.head = new Head(model);
  }

  /** The logits of a text: Float32Array. */
  logits(text) {
    return this.head.run(this.encoder.run(this.tokenizer.encode(text)));
  }

  /** `{label, score}` of each label, the best first, and the number of tokens. */
  classify(text) {
    const ids = this.tokenizer.encode(text);
    const logits = this.head.run(this.encoder.run(ids));
    const largest = Math.max(...logits);
    const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
    const sum = powers.reduce((a, b) => a + b);
    const answers = this.labels.map((label, i) => ({ label, score: powers[i] / sum }));
    return { answers: answers.sort((a, b) => b.score - a.score), tokens: ids.length };
  }
}
