// The model in a thread of its own, so that typing never waits for it.

import { Classifier } from "./classifier.js";

const started = performance.now();
let classifier;

try {
  classifier = await Classifier.load();
  const { title, labels } = classifier;
  postMessage({ ready: { title, labels, milliseconds: performance.now() - started } });
} catch (error) {
  postMessage({ error: error.message });
}

onmessage = ({ data: text }) => {
  const begin = performance.now();
  try {
    const found = classifier.classify(text);
    postMessage({ found: { ...found, text, milliseconds: performance.now() - begin } });
  } catch (error) {
    postMessage({ error: error.message });
  }
};
