// The nodes behind the encoder, for one text: arrays have one row, or are constants.

const LIMITS = { int8: [-128, 127], uint8: [0, 255] };
const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);

const float32 = (values) => ({ type: "float32", values: Float32Array.from(values) });

/** To an integer, halves to the even one. */
function rounded(x) {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 ? floor + 1 : floor;
}

/** 1 - the error function, for x >= 0, to 1.5e-7: Abramowitz and Stegun, 7.1.26. */
function complement(x) {
  const t = 1 / (1 + 0.3275911 * x);
  const sum = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return sum * Math.exp(-x * x);
}

function gelu(x) {
  const tail = complement(Math.abs(x) / Math.SQRT2) / 2;
  return x * (x < 0 ? tail : 1 - tail);
}

function tanhGelu(x) {
  return 0.5 * x * (1 + Math.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x ** 3)));
}

/** The parameter of each value of x: one for all, or one for each index along an axis. */
function along(parameter, x, axis) {
  if (parameter.values.length === 1) return () => parameter.values[0];
  const columns = x.shape ? x.shape[x.shape.length - 1] : x.values.length;
  const byRow = x.shape && x.shape.length === 2 && axis === 0;
  return (i) => parameter.values[byRow ? Math.floor(i / columns) : i % columns];
}

function quantize([x, scale, zeroPoint], { axis = 1 }) {
  const [low, high] = LIMITS[zeroPoint.type];
  const [scales, zeros] = [along(scale, x, axis), along(zeroPoint, x, axis)];
  const values = Array.from(x.values, (value, i) =>
    Math.min(high, Math.max(low, rounded(Math.fround(value / scales(i))) + zeros(i))),
  );
  return { type: zeroPoint.type, shape: x.shape, values };
}

function dequantize([x, scale, zeroPoint], { axis = 1 }) {
  const [scales, zeros] = [along(scale, x, axis), zeroPoint ? along(zeroPoint, x, axis) : () => 0];
  const found = float32(Array.from(x.values, (value, i) => (value - zeros(i)) * scales(i)));
  return { ...found, shape: x.shape };
}

function multiply([x, weight, bias], { transB = 0 }) {
  const [first, second] = weight.shape;
  const [inputs, outputs] = transB ? [second, first] : [first, second];
  const sums = new Float64Array(outputs);
  for (let i = 0; i < inputs; i++) {
    for (let o = 0; o < outputs; o++) {
      sums[o] += x.values[i] * weight.values[transB ? o * inputs + i : i * outputs + o];
    }
  }
  return float32(sums.map((sum, o) => sum + (bias ? bias.values[o % bias.values.length] : 0)));
}

const elementwise = (f) => ([x]) => float32(Array.from(x.values, f));

const OPERATORS = {
  Add: ([a, b]) => {
    const [long, short] = a.values.length < b.values.length ? [b, a] : [a, b];
    return float32(Array.from(long.values, (x, i) => x + short.values[i % short.values.length]));
  },
  DequantizeLinear: dequantize,
  Gelu: ([x], { approximate }) => elementwise(approximate === "tanh" ? tanhGelu : gelu)([x]),
  Gemm: multiply,
  MatMul: multiply,
  QuantizeLinear: quantize,
  Relu: elementwise((x) => Math.max(x, 0)),
  Sum: (terms, attributes) => terms.reduce((a, b) => OPERATORS.Add([a, b], attributes)),
  Tanh: elementwise(Math.tanh),
};

/** From the first token's features to the logits. */
export class Head {
  #nodes;
  #constants;

  constructor(model) {
    const { nodes, input, output } = model.header.head;
    Object.assign(this, { input, output });
    this.#constants = {};
    this.#nodes = [];
    const computed = new Set([input, ...nodes.map((node) => node.output)]);
    for (const name of nodes.flatMap((node) => node.inputs)) {
      if (name && !computed.has(name)) this.#constants[name] = model.values(name);
    }
    // What depends on constants alone, as a weight's values from its integers, is computed once.
    for (const node of nodes) {
      if (node.inputs.every((name) => !name || name in this.#constants)) this.#run(node, this.#constants);
      else this.#nodes.push(node);
    }
  }

  #run(node, values) {
    const inputs = node.inputs.map((name) => values[name]);
    values[node.output] = OPERATORS[node.op](inputs, node);
  }

  /** The logits: Float32Array. */
  run(features) {
    const values = { ...this.#constants, [this.input]: float32(features) };
    for (const node of this.#nodes) this.#run(node, values);
    return values[this.output].values;
  }
}
