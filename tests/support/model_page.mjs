// Runs the modules of a page under Node: node model_page.mjs FOLDER REQUESTS. The file of requests
// has {texts} or {ids}; prints, as JSON, {ids} of texts, or {logits} of both.
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [, , folder, file] = process.argv;
const load = (name) => import(pathToFileURL(`${folder}/${name}`));
const { Model, decompressed } = await load("model.js");
const { Tokenizer } = await load("tokenizer.js");
const request = JSON.parse(await readFile(file, "utf-8"));
const answer = {};
try {
  const bytes = new Uint8Array(await readFile(`${folder}/model.bin.gz`));
  const model = new Model(await decompressed(bytes));
  const { tokenizer: settings } = model.header;
  const tokenizer = new Tokenizer(settings, model.text(settings.vocabulary));
  answer.ids = request.ids ?? request.texts.map((text) => tokenizer.encode(text));
  if (!request.tokenizer_only) {
    const { Encoder } = await load("encoder.js");
    const { Head } = await load("head.js");
    const encoder = await Encoder.create(await readFile(`${folder}/sparsekit.wasm`), model);
    const head = new Head(model);
    answer.logits = answer.ids.map((ids) => Array.from(head.run(encoder.run(ids))));
  }
} catch (error) {
  answer.error = `${error.name}: ${error.message}`;
  answer.stack = error.stack;
}
console.log(JSON.stringify(answer));
