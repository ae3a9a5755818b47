// The page: sends the text to the worker as it is typed, and shows the labels.

const input = document.getElementById("text");
const answers = document.getElementById("answers");
const status = document.getElementById("status");
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
// One text at a time: while the worker is busy, only the newest one waits.
let busy = true;
let waiting = null;

function ask() {
  const text = input.value;
  if (busy) {
    waiting = text;
    return;
  }
  waiting = null;
  if (!text.trim()) {
    answers.replaceChildren();
    status.textContent = "Type a text.";
    return;
  }
  busy = true;
  worker.postMessage(text);
}

function idle() {
  busy = false;
  if (waiting !== null) ask();
}

function bar({ label, score }) {
  const row = document.createElement("tr");
  const [name, chart, number] = ["th", "td", "td"].map((tag) => row.appendChild(document.createElement(tag)));
  const percent = `${(100 * score).toFixed(1)} %`;
  name.scope = "row";
  name.textContent = label;
  chart.className = "chart";
  chart.appendChild(document.createElement("div")).style.width = `${100 * score}%`;
  number.textContent = percent;
  return row;
}

worker.onmessage = ({ data: { ready, found, error } }) => {
  if (error) {
    answers.replaceChildren();
    status.textContent = error;
    status.className = "error";
    // A text that failed is done; a model that failed to load answers none.
    if (document.body.dataset.state === "ready") idle();
    return;
  }
  status.className = "";
  if (ready) {
    document.title = document.getElementById("title").textContent = ready.title;
    document.body.dataset.state = "ready";
    document.body.dataset.loadMilliseconds = ready.milliseconds;
    status.textContent = `Loaded in ${Math.round(ready.milliseconds)} ms. Type a text.`;
    if (input.value.trim()) waiting = input.value;
  }
  if (found) {
    answers.replaceChildren(...found.answers.map(bar));
    const milliseconds = found.milliseconds.toFixed(1);
    status.textContent = `${found.tokens} tokens in ${milliseconds} ms, on this device.`;
    document.body.dataset.classified = found.text;
  }
  idle();
};
worker.onerror = () => {
  status.textContent = "This browser cannot run the page's modules in a worker.";
  status.className = "error";
};

input.addEventListener("input", ask);
