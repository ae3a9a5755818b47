// Answers of transformers.js: node transformers_js.mjs MODULE FOLDER TASK OPTIONS INPUTS
//
// MODULE: the installed package; OPTIONS, INPUTS: JSON, a list of the pipeline's arguments a call.
import { basename, dirname } from "node:path";
import { pathToFileURL } from "node:url";

const [module, folder, task, options, inputs] = process.argv.slice(2);
const { env, pipeline } = await import(pathToFileURL(module));
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);

async function answerer() {
  const answer = await pipeline(task, basename(folder), JSON.parse(options));
  if (task !== "feature-extraction") return answer;
  return async (text) => (await answer(text, { pooling: "mean", normalize: true })).tolist()[0];
}

const answer = await answerer();
const found = [];
for (const call of JSON.parse(inputs)) found.push(await answer(...call));
process.stdout.write(JSON.stringify(found));
