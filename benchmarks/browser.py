"""A page of `sparsekit web` beside onnxruntime-web on the same model: bytes, load time, latency.

    npm install --prefix build/browser onnxruntime-web
    python benchmarks/browser.py RUN --onnxruntime-web build/browser
    python benchmarks/browser.py RUN --onnxruntime-web build/browser --rounds 1 --runs 2  # a trial

Headless Chromium loads both from a server on loopback, in turns and without its cache. Both run on
one thread, and their logits are compared. Loading ends with the first logits; a tokenizer is part
of ours alone. A deployment of random weights measures as well as a trained one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.system import cpu_name
from sparsekit.web.write import write_page

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from browser import Page, browse  # noqa: E402
from static_server import serve  # noqa: E402

LENGTHS = (16, 32, 128)
# The smallest of its files that compute on the CPU.
PEER = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
BLANK = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">'
OURS = """
const { Classifier } = await import("/ours/classifier.js");
const model = await Classifier.load();
const run = async (ids) => model.head.run(model.encoder.run(ids));
"""
THEIRS = """
const ort = await import("/theirs/ort.wasm.min.mjs");
ort.env.wasm.wasmPaths = "/theirs/";
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create("/theirs/model.onnx");
const tensor = (values) =>
  new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
const run = async (ids) => {
  const inputs = {
    input_ids: tensor(ids),
    attention_mask: tensor(ids.map(() => 1)),
    token_type_ids: tensor(ids.map(() => 0)),
  };
  const feeds = Object.fromEntries(session.inputNames.map((name) => [name, inputs[name]]));
  return (await session.run(feeds))[session.outputNames[0]].data;
};
"""
TIMED = """(async () => {{
const texts = {texts};
const started = performance.now();
{load}
await run(texts[0]);
const loaded = performance.now() - started;
const results = [];
for (const ids of texts) {{
  const times = [];
  let logits;
  for (let i = 0; i < {runs} + 1; i++) {{
    const begin = performance.now();
    logits = await run(ids);
    times.push(performance.now() - begin);
  }}
  results.push({{ milliseconds: times.slice(1), logits: Array.from(logits) }});
}}
return {{ loaded, results }};
}})()"""
COMPRESSED = """
const { brotliCompressSync, gzipSync, constants } = require("zlib");
const params = { [constants.BROTLI_PARAM_QUALITY]: 9 };
const sizes = process.argv.slice(1).map((file) => {
  const data = require("fs").readFileSync(file);
  const packed = [brotliCompressSync(data, { params }), gzipSync(data, { level: 9 })];
  // What is compressed already is sent as it is.
  return [data.length, ...packed.map(({ length }) => Math.min(length, data.length))];
});
console.log(JSON.stringify(sizes));
"""


def sizes(files: list[Path]) -> dict[str, int]:
    """The bytes of files together: as they are, with brotli and with gzip, both at level 9."""
    command = ["node", "-e", COMPRESSED, *map(str, files)]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    totals = [sum(column) for column in zip(*json.loads(result.stdout), strict=True)]
    return dict(zip(("plain", "brotli", "gzip"), totals, strict=True))


def measure(tab: Page, url: str, load: str, texts: list[list[int]], runs: int) -> dict[str, Any]:
    """Load time in ms, and of each text the times in ms and the logits, on a page of its own."""
    tab.open(url)
    tab.call("Network.setCacheDisabled", cacheDisabled=True)
    found: dict[str, Any] = tab.evaluate(
        TIMED.format(texts=json.dumps(texts), load=load, runs=runs)
    )
    return found


def prepare(folder: Path, deployment: Path, peer: Path) -> dict[str, dict[str, int]]:
    """Write both to `folder`; returns their sizes."""
    write_page(deployment, folder / "ours", "Benchmark")
    (folder / "theirs").mkdir()
    dist = peer / "node_modules" / "onnxruntime-web" / "dist"
    for name in PEER:
        shutil.copy(dist / name, folder / "theirs" / name)
    for name in ("model.onnx", "tokenizer.json"):
        shutil.copy(deployment / name, folder / "theirs" / name)
    (folder / "index.html").write_text(BLANK)
    return {name: sizes(sorted((folder / name).iterdir())) for name in ("ours", "theirs")}


def check_logits(model: Path, texts: list[list[int]], measured: dict[str, Any]) -> float:
    """The largest difference of both to runtime=sparse."""
    runtime, largest = SparseRuntime(model, 1), 0.0
    for i, ids in enumerate(texts):
        row = np.array([ids])
        inputs = {"input_ids": row, "attention_mask": row * 0 + 1, "token_type_ids": row * 0}
        expected = runtime.run(inputs)[0]
        for each in measured.values():
            difference = np.abs(expected - each["results"][i]["logits"]).max()
            largest = max(largest, float(difference))
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run folder, or its deployment folder")
    parser.add_argument("--onnxruntime-web", type=Path, required=True, help="see above")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=20, help="of each length, in a round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    inner = options.run / "deployment"
    deployment = inner if inner.is_dir() else options.run
    settings = json.loads((deployment / "tokenizer.json").read_text())
    random = np.random.default_rng(0)
    known = len(settings["model"]["vocab"])
    texts = [random.integers(known // 2, known, length).tolist() for length in LENGTHS]
    rounds = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "site"
        folder.mkdir()
        bytes_ = prepare(folder, deployment, options.onnxruntime_web)
        with serve(folder) as served, browse(Path(temporary) / "profile") as tab:
            for _ in range(options.rounds):
                rounds.append(
                    {
                        name: measure(tab, served.url, load, texts, options.runs)
                        for name, load in (("ours", OURS), ("theirs", THEIRS))
                    }
                )
    report: dict[str, Any] = {
        "cpu": cpu_name(),
        "bytes": bytes_,
        "largest_difference": check_logits(deployment / "model.onnx", texts, rounds[-1]),
    }
    for name in ("ours", "theirs"):
        report[name] = {"load_ms": statistics.median(each[name]["loaded"] for each in rounds)}
        for i, length in enumerate(LENGTHS):
            times = [t for each in rounds for t in each[name]["results"][i]["milliseconds"]]
            report[name][f"{length}_tokens_ms"] = statistics.median(times)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{report['cpu']}; logits differ by {report['largest_difference']:.1e} at most")
    rows = [(f"{kind} MB", *(bytes_[n][kind] / 1e6 for n in bytes_)) for kind in bytes_["ours"]]
    rows += [(key, report["ours"][key], report["theirs"][key]) for key in report["ours"]]
    print(f"{'':16}{'sparsekit web':>16}{'onnxruntime-web':>18}{'ratio':>8}")
    for name, ours, theirs in rows:
        print(f"{name:16}{ours:16.2f}{theirs:18.2f}{theirs / ours:8.2f}")


if __name__ == "__main__":
    main()
