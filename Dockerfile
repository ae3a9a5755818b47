# A server of deployments: no torch, no compiler, no root. Build the wheel first, since it brings the
# kernels of runtime=sparse; docs/how-to/serve.md has the commands.
FROM python:3.12-slim
WORKDIR /srv
COPY constraints.txt dist/*.whl ./
RUN pip install --no-cache-dir --constraint constraints.txt "$(ls sparsekit-*.whl)[serve]"
# Of no account: nothing is written but the caches below /tmp.
USER 10001
ENV HOME=/tmp
EXPOSE 8000
ENTRYPOINT ["sparsekit", "serve", "--host", "0.0.0.0"]
CMD ["/model"]
