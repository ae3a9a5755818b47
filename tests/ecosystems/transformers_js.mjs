// Answers of transformers.js: node transformers_js.mjs MODULE FOLDER TASK OPTIONS INPUTS
//
// MODULE: the installed package; OPTIONS, INPUTS: JSON, a list of the pipeline's arguments a call.
import { basename, dirname } from "node:path";
import { pathToFileURL } from "node:url";

const [module, folder, task, options, inputs] = process.argv.slice(2);
const { AutoModel, AutoTokenizer, env, pipeline } = await import(pathToFileURL(module));
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);

async function answerer() {
  if (task !== "feature-extraction") return pipeline(task, basename(folder), JSON.parse(options));
  // The pipeline reads the features of tokens, and this graph gives those of texts.
  const tokenizer = await AutoTokenizer.from_pretrained(basename(folder));
  const model = await AutoModel.from_pretrained(basename(folder), JSON.parse(options));
  return async (text) => {
    const outputs = await model(tokenizer(text, { truncation: true }));
    return outputs.sentence_embedding.tolist()[0];
  };
}

const answer = await answerer();
const found = [];
for (const call of JSON.parse(inputs)) found.push(await answer(...call));
process.stdout.write(JSON.stringify(found));
