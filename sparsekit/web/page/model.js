// Reads the file of a model; sparsekit/web/packed.py describes its format.

const MAGIC = "sparsekit model\0";
const VERSION = 1;
const GZIP = [0x1f, 0x8b];
const ARRAYS = {
  float32: Float32Array,
  int32: Int32Array,
  int64: BigInt64Array,
  int8: Int8Array,
  uint8: Uint8Array,
};

/** What is wrong with a file; the message says what to do. */
export class ModelError extends Error {}

const damaged = (what) =>
  new ModelError(`The model's file is damaged: ${what}. Write the page again with sparsekit web.`);

/** The bytes themselves, or decompressed: some servers decompress a .gz file on the way. */
export async function decompressed(bytes) {
  if (!GZIP.every((value, i) => bytes[i] === value)) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  try {
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw damaged("it cannot be decompressed");
  }
}

/** The header and the tensors of a model's file. */
export class Model {
  #data;
  #tensors;

  /** Takes a Uint8Array that begins where its buffer does. */
  constructor(bytes) {
    const decoder = new TextDecoder();
    if (decoder.decode(bytes.subarray(0, MAGIC.length)) !== MAGIC) {
      throw damaged("it does not begin as one");
    }
    if (bytes.length < MAGIC.length + 8) throw damaged("it ends within its header");
    const [version, size] = new Uint32Array(bytes.buffer, MAGIC.length, 2);
    if (version !== VERSION) {
      throw new ModelError(
        `The model's file has version ${version}, this page reads ${VERSION}. Write both with the ` +
          "same version of sparsekit web.",
      );
    }
    const start = MAGIC.length + 8;
    if (start + size > bytes.length) throw damaged("it ends within its header");
    try {
      this.header = JSON.parse(decoder.decode(bytes.subarray(start, start + size)));
    } catch {
      throw damaged("its header is not JSON");
    }
    this.#data = bytes.subarray(start + size);
    this.#tensors = this.header.tensors;
  }

  #entry(name) {
    const entry = this.#tensors[name];
    if (!entry) throw damaged(`it has no ${name}`);
    if (!(entry.offset % 8 === 0 && entry.offset >= 0 && entry.bytes >= 0)) {
      throw damaged(`the place of ${name} is wrong`);
    }
    if (entry.offset + entry.bytes > this.#data.length) throw damaged(`it ends within ${name}`);
    return entry;
  }

  #bytes(entry, first, count) {
    return this.#data.subarray(entry.offset + first, entry.offset + first + count);
  }

  /** A text. */
  text(name) {
    const entry = this.#entry(name);
    return new TextDecoder("utf-8", { fatal: true }).decode(this.#bytes(entry, 0, entry.bytes));
  }

  /**
   * The nonzero values of a tensor, and its mask: a bit for each value, the lowest of a byte first.
   * The shape has to be `shape` where that is given.
   */
  masked(name, shape) {
    const entry = this.#entry(name);
    const Kind = ARRAYS[entry.type];
    const count = entry.shape.reduce((product, size) => product * size, 1);
    if (shape && String(entry.shape) !== String(shape)) {
      throw damaged(`${name} has the shape [${entry.shape}], not [${shape}]`);
    }
    const maskBytes = Math.ceil(count / 8);
    const width = Kind.BYTES_PER_ELEMENT;
    if (entry.coding === "mask") {
      const mask = this.#bytes(entry, entry.bytes - maskBytes, maskBytes);
      const nonzeros = this.#array(Kind, entry, (entry.bytes - maskBytes) / width, name);
      let set = 0;
      for (let i = 0; i < count; i++) set += (mask[i >> 3] >> (i & 7)) & 1;
      if (set !== nonzeros.length) throw damaged(`${name} has ${nonzeros.length} values of ${set}`);
      return { type: entry.type, shape: entry.shape, mask, nonzeros };
    }
    if (entry.bytes !== count * width) throw damaged(`${name} has ${entry.bytes} bytes`);
    const values = this.#array(Kind, entry, count, name);
    const mask = new Uint8Array(maskBytes).fill(255);
    return { type: entry.type, shape: entry.shape, mask, nonzeros: values };
  }

  #array(Kind, entry, count, name) {
    if (!Number.isInteger(count) || count < 0) throw damaged(`${name} has a part of a value`);
    return new Kind(this.#data.buffer, this.#data.byteOffset + entry.offset, count);
  }

  /** A tensor with its zeros, as an array of its type. */
  values(name, shape) {
    const { type, shape: found, mask, nonzeros } = this.masked(name, shape);
    const count = found.reduce((product, size) => product * size, 1);
    if (nonzeros.length === count) return { type, shape: found, values: nonzeros };
    const values = new ARRAYS[type](count);
    for (let i = 0, k = 0; i < count; i++) {
      if ((mask[i >> 3] >> (i & 7)) & 1) values[i] = nonzeros[k++];
    }
    return { type, shape: found, values };
  }
}
