// The encoder: fills the structures of its C code in WebAssembly's memory, and calls it.

import { ModelError } from "./model.js";

const PLANES = 3;
const MOST_TABLES = 4;
// Of the structures in csrc/encoder: the fields that are float; the others are long or addresses.
const FLOATS = new Set(["epsilon", "high", "inverse", "low", "scale", "zero_point"]);
const QUANTIZERS = { query: "quantizer", key: "quantizer", probabilities: "quantizer", value: "quantizer" };
const PARTS = {
  attention: QUANTIZERS,
  embedding: { norm: "norm" },
  layer: {
    projection: "weight",
    attention_output: "weight",
    intermediate: "weight",
    output: "weight",
    input: "quantizer",
    context: "quantizer",
    normalized: "quantizer",
    activated: "quantizer",
    attention: "attention",
    attention_norm: "norm",
    output_norm: "norm",
  },
};
const STRUCTURES = ["quantizer", "weight", "attention", "norm", "layer", "encoder", "table", "embedding", "score_terms"];

/** The module's memory, and structures in it. */
class Memory {
  constructor(exports) {
    this.exports = exports;
    this.layouts = Object.fromEntries(STRUCTURES.map((name) => [name, this.#layout(name)]));
  }

  // Growing the memory makes a new buffer, so that no view can be kept.
  get #buffer() {
    return this.exports.memory.buffer;
  }

  #layout(name) {
    const view = new DataView(this.#buffer);
    const bytes = new Uint8Array(this.#buffer);
    const layout = {};
    for (let entry = this.exports[`${name}_layout`].value; ; entry += 8) {
      const text = view.getUint32(entry, true);
      if (!text) return layout;
      const field = new TextDecoder().decode(bytes.slice(text, bytes.indexOf(0, text)));
      layout[field || "size"] = view.getInt32(entry + 4, true);
    }
  }

  /** The address of new memory, with zeros. */
  allocate(bytes) {
    const address = this.exports.allocate(bytes);
    if (!address) throw new ModelError(`There is no memory for ${bytes} bytes more.`);
    new Uint8Array(this.#buffer, address, bytes).fill(0);
    return address;
  }

  /** The address of a copy of a typed array. */
  copy(array) {
    const address = this.allocate(array.byteLength);
    this.array(array.constructor, address, array.length).set(array);
    return address;
  }

  array(Kind, address, count) {
    return new Kind(this.#buffer, address, count);
  }

  /** Sets fields of a structure; those that are structures take objects. */
  set(structure, address, values) {
    const view = new DataView(this.#buffer);
    for (const [name, value] of Object.entries(values)) {
      const offset = this.layouts[structure][name];
      if (offset === undefined) throw new Error(`the structure ${structure} has no ${name}`);
      const part = PARTS[structure]?.[name];
      if (part) this.set(part, address + offset, value);
      else if (FLOATS.has(name)) view.setFloat32(address + offset, value, true);
      else view.setInt32(address + offset, value, true);
    }
    return address;
  }

  make(structure, values) {
    return this.set(structure, this.allocate(this.layouts[structure].size), values);
  }
}

/** The layers and embeddings of a model, packed for the kernels. */
export class Encoder {
  /** module: the bytes of sparsekit.wasm. */
  static async create(module, model) {
    const env = { emscripten_notify_memory_growth() {} };
    const { instance } = await WebAssembly.instantiate(module, { env });
    instance.exports._initialize();
    return new Encoder(instance.exports, model);
  }

  constructor(exports, model) {
    const { features, layers, embedding, tokenizer } = model.header;
    this.#model = model;
    this.#memory = new Memory(exports);
    this.features = features;
    this.longest = tokenizer.max_length;
    this.#values = 0;
    const { size } = this.#memory.layouts.layer;
    const array = this.#memory.allocate(layers.length * size);
    const made = layers.map((layer, i) => this.#layer(array + i * size, layer));
    this.#encoder = this.#memory.make("encoder", {
      layers: layers.length,
      features,
      attention_features: Math.max(0, ...made.map((each) => each.heads)),
      intermediate_features: Math.max(0, ...made.map((each) => each.neurons)),
      values: this.#values,
      layer: array,
    });
    this.#setEmbedding(embedding);
    this.#terms = this.#memory.make("score_terms", {
      masks: this.#memory.allocate(4 * this.longest),
    });
    this.#result = this.#memory.allocate(4 * features);
    this.#workspace = this.#memory.allocate(exports.workspace_bytes(this.#encoder, this.longest));
  }

  #model;
  #memory;
  #values;
  #encoder;
  #embedding;
  #tables;
  #terms;
  #result;
  #workspace;

  #floats(name, count) {
    return this.#memory.copy(this.#model.values(name, [count]).values);
  }

  #norm({ weight, bias, epsilon }) {
    const [first, second] = [weight, bias].map((name) => this.#floats(name, this.features));
    return { weight: first, bias: second, epsilon, centered: 1 };
  }

  // Packs a weight [rows, inputs] at an address; returns the rows, which are any multiple of four
  // where `rows` is not given.
  #weight(address, { weight, format, biases, scales, sums }, inputs, rows) {
    const found = this.#model.masked(weight);
    const [height, width] = found.shape;
    const expected = format === PLANES ? "int8" : "float32";
    const fits = (rows ?? height) === height && width === inputs && height % 4 === 0;
    if (!fits || found.type !== expected) {
      throw new ModelError(`The model's file is damaged: ${weight} is ${found.type} [${found.shape}].`);
    }
    const { exports } = this.#memory;
    this.#memory.set("weight", address, {
      rows: height,
      format,
      initial_sums: this.#floats(sums, height),
      scales: this.#floats(scales, height),
      biases: this.#floats(biases, height),
    });
    const [mask, nonzeros] = [found.mask, found.nonzeros].map((array) => this.#memory.copy(array));
    const count = exports.pack_weight(address, mask, nonzeros, width);
    exports.release(mask);
    exports.release(nonzeros);
    if (count < 0) throw new ModelError(`There is no memory for ${weight}.`);
    this.#values += count;
    return height;
  }

  // Fills the structure at `address`; returns its features of all heads, and its neurons.
  #layer(address, layer) {
    const { attention, projection, attention_output, intermediate, output } = layer;
    const at = (name) => address + this.#memory.layouts.layer[name];
    const heads = attention ? attention.heads * attention.features : 0;
    let neurons = 0;
    this.#memory.set("layer", address, {
      attention_norm: this.#norm(layer.attention_norm),
      output_norm: this.#norm(layer.output_norm),
      context: attention_output.quantizer,
      activated: output.quantizer,
      activation: layer.activation,
    });
    if (attention) {
      this.#memory.set("layer", address, { attention, input: projection.quantizer });
      this.#weight(at("projection"), projection, this.features, 3 * heads);
    }
    this.#weight(at("attention_output"), attention_output, heads, this.features);
    if (intermediate) {
      this.#memory.set("layer", address, { normalized: intermediate.quantizer });
      neurons = this.#weight(at("intermediate"), intermediate, this.features);
    }
    this.#weight(at("output"), output, neurons, this.features);
    return { heads, neurons };
  }

  #setEmbedding({ tables, norm }) {
    if (tables.length > MOST_TABLES) throw new ModelError(`The model has ${tables.length} tables.`);
    this.#embedding = this.#memory.make("embedding", { tables: tables.length, norm: this.#norm(norm) });
    const { table: first } = this.#memory.layouts.embedding;
    this.#tables = tables.map(({ rows, type, scale, zero_point, ids, first: start }, i) => {
      const found = this.#model.values(rows);
      const types = ["float32", "uint8", "int8"];
      if (found.shape[1] !== this.features || found.type !== types[type]) {
        throw new ModelError(`The model's file is damaged: ${rows} is ${found.type} [${found.shape}].`);
      }
      const address = this.#memory.allocate(8 * this.longest);
      this.#memory.set("table", this.#embedding + first + i * this.#memory.layouts.table.size, {
        type,
        scale,
        zero_point,
        rows: this.#memory.copy(found.values),
        ids: address,
      });
      return { ids, start, address, rows: found.shape[0] };
    });
  }

  /** The last layer's output for the first token of a text with these token ids: Float32Array. */
  run(ids) {
    if (!ids.length || ids.length > this.longest) {
      throw new RangeError(`a text of ${ids.length} tokens; the model takes 1 to ${this.longest}`);
    }
    for (const table of this.#tables) {
      const of = {
        input_ids: (i) => ids[i],
        token_type_ids: () => 0,
        positions: (i) => table.start + i,
      }[table.ids];
      const rows = Array.from(ids, (_, i) => of(i));
      const wrong = rows.find((row) => !(row >= 0 && row < table.rows));
      if (wrong !== undefined) throw new RangeError(`row ${wrong} of a table of ${table.rows} rows`);
      this.#memory.array(BigInt64Array, table.address, ids.length).set(rows.map(BigInt));
    }
    this.#memory.set("embedding", this.#embedding, { length: ids.length });
    this.#memory.set("score_terms", this.#terms, { length: ids.length, padded: ids.length });
    const { encode_text: encode } = this.#memory.exports;
    encode(this.#encoder, this.#embedding, ids.length, this.#terms, this.#result, this.#workspace);
    return this.#memory.array(Float32Array, this.#result, this.features).slice();
  }
}
