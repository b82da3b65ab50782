# Two images: `docker build --target cpu .` and `docker build --target gpu .`
# Every version is pinned: here, and in docker/constraints.txt.

FROM python:3.11.13-slim-bookworm AS wheel
COPY . /source
RUN pip install --no-cache-dir build==1.6.1 && python -m build --wheel --outdir /wheels /source

FROM python:3.11.13-slim-bookworm AS base
# Where torch comes from. The default takes PyPI's, which also runs on a GPU; for a smaller CPU
# image name the index of PyTorch's CPU builds.
ARG TORCH_INDEX=""
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/venv/bin:$PATH \
    HOME=/data HF_HOME=/data/models RAG_OWL_DATA=/data
RUN python -m venv /venv
COPY docker/constraints.txt /tmp/constraints.txt
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c /tmp/constraints.txt torch
# Nobody in particular, without a shell; /data belongs to it.
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin owl \
    && mkdir /data && chown owl /data
COPY --from=wheel /wheels /wheels

FROM base AS gpu
# faiss-gpu and faiss-cpu ship the same module: the second one takes the first one's place.
RUN pip install -c /tmp/constraints.txt "$(echo /wheels/*.whl)[postgres,s3,milvus,redis,otel]" \
    && pip install -c /tmp/constraints.txt accelerate==1.15.0 bitsandbytes==0.50.2 \
    && pip uninstall --yes faiss-cpu && pip install --no-deps faiss-gpu==1.15.1 \
    && rm -r /wheels /tmp/constraints.txt
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER owl
WORKDIR /data
VOLUME /data
EXPOSE 8000
ENTRYPOINT ["rag-owl"]
CMD ["--help"]

FROM base AS cpu
RUN pip install -c /tmp/constraints.txt faiss-cpu==1.15.1 \
        "$(echo /wheels/*.whl)[postgres,s3,milvus,redis,otel]" \
    && rm -r /wheels /tmp/constraints.txt
USER owl
WORKDIR /data
VOLUME /data
EXPOSE 8000
ENTRYPOINT ["rag-owl"]
CMD ["--help"]
