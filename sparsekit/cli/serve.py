"""`sparsekit serve`: answer texts over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from sparsekit.cli.allow import Allow, import_allowed


def serve(
    runs: Annotated[
        list[str],
        typer.Argument(help="Run or deployment folders; NAME=FOLDER gives a model its name."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every address.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    runtime: Annotated[
        str, typer.Option(help="onnxruntime, openvino, deepsparse or sparse.")
    ] = "onnxruntime",
    threads: Annotated[
        int | None, typer.Option(help="Threads of each model. [default: every core]")
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Largest number of texts in a batch.")] = 32,
    max_wait_ms: Annotated[
        float, typer.Option(help="Milliseconds that a text waits for others to form a batch.")
    ] = 1.0,
    max_queue: Annotated[
        int,
        typer.Option(help="Largest number of waiting texts; more are answered with status 503."),
    ] = 4096,
    max_texts: Annotated[int, typer.Option(help="Largest number of texts in a request.")] = 1024,
    max_characters: Annotated[
        int, typer.Option(help="Largest number of characters in a text.")
    ] = 100_000,
    max_bytes: Annotated[int, typer.Option(help="Largest number of bytes in a request.")] = 8
    * 2**20,
    allow: Allow = None,
) -> None:
    """Answer texts over HTTP with the exported models of runs, until SIGTERM or Ctrl-C.

    Speaks the dialects of Text Embeddings Inference, the Open Inference Protocol 2 and DeepSparse
    Server; `/openapi.json` describes them, `/metrics` is for Prometheus. Needs the extra `serve`.
    """
    from sparsekit.runtime.base import check_threads
    from sparsekit.runtime.choice import runtime_named
    from sparsekit.serving.app import application
    from sparsekit.serving.limits import Limits
    from sparsekit.serving.metrics import Metrics
    from sparsekit.serving.models import load, named_folders
    from sparsekit.serving.server import address, bound_socket, listen, run
    from sparsekit.system import cores

    limits = Limits(
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_queue=max_queue,
        max_texts=max_texts,
        max_characters=max_characters,
        max_bytes=max_bytes,
    )
    count = cores() if threads is None else threads
    check_threads(count, "--threads")
    import_allowed(allow)
    kind, folders = runtime_named(runtime), named_folders(runs)
    # Before the models are loaded, so that a port in use is reported at once.
    with bound_socket(host, port) as bound:
        metrics = Metrics()
        models = load(folders, kind, count, limits, metrics)
        listen(bound)
        url = address(host, bound.getsockname()[1])
        typer.echo(f"{', '.join(model.name for model in models)}: {url}", err=True)
        run(application(models, metrics), bound)
