# magnet on a CPU, as a user without rights.
#
#   docker build -t magnet .
#   docker run --rm -v "$PWD:/work" -u "$(id -u):$(id -g)" magnet gen "lofi piano" -o out.wav
#
# TORCH_INDEX is pip's index of torch builds without CUDA, which README's section on installing names:
# without it, pip on Linux brings CUDA's gigabytes.
FROM python:3.12-slim
ARG TORCH_INDEX=""
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY completions completions
COPY magnet_cli magnet_cli
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} . \
    && rm -rf /source
# Models stay in a volume; the user of `-u` may write there, whoever it is.
ENV HF_HOME=/models \
    HOME=/tmp
RUN mkdir -m 1777 /models && useradd --uid 1000 magnet
VOLUME /models
USER 1000
WORKDIR /work
ENTRYPOINT ["magnet"]
CMD ["--help"]
