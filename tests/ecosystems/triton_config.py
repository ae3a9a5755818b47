"""A Triton config as JSON: triton_config.py CONFIG.PBTXT

Parses it with the messages that Triton's own client is built with, which refuse unknown fields and
wrong types. Runs in the environment of `make ecosystem-env`.
"""

import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

print(json_format.MessageToJson(text_format.Parse(Path(sys.argv[1]).read_text(), ModelConfig())))
