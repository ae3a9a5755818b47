"""Outputs of Optimum's models: optimum_outputs.py FOLDER CLASS OPTIONS INPUTS

CLASS: of optimum.onnxruntime, or of optimum.intel where its name starts with OV. OPTIONS: JSON, the
keyword arguments of from_pretrained. INPUTS: JSON, the texts, or pairs of texts. Prints the outputs
of each text by itself as JSON, by name. Runs in the environment of `make ecosystem-env`.
"""

import importlib
import json
import sys

from transformers import AutoTokenizer

folder, kind, options, inputs = sys.argv[1:]
module = "optimum.intel" if kind.startswith("OV") else "optimum.onnxruntime"
model = getattr(importlib.import_module(module), kind).from_pretrained(
    folder, **json.loads(options)
)
tokenizer = AutoTokenizer.from_pretrained(folder)
found = []
for text in json.loads(inputs):
    texts = [text] if isinstance(text, str) else text
    encoded = tokenizer(*texts, truncation=True, return_tensors="pt")
    found.append({name: value.tolist() for name, value in model(**encoded).items()})
print(json.dumps(found))
