# A server of captions: docker build -t qvision . && docker run --rm -p 127.0.0.1:8000:8000 qvision
# Further options follow the name: docker run --rm -p 127.0.0.1:8000:8000 -v ./model:/model:ro qvision --model /model
FROM python:3.11-slim

# torch for processors alone (its +cpu sorts above the usual one, which brings some GB for NVIDIA cards)
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt /build/
RUN pip install --no-cache-dir -c /build/constraints.txt --extra-index-url "$TORCH_INDEX" torch

COPY pyproject.toml README.md LICENSE /build/
COPY qvision /build/qvision
RUN pip install --no-cache-dir -c /build/constraints.txt '/build/.[serve]' && rm -r /build

# what comes over the network is read by a user who owns nothing; nothing is downloaded at run time
RUN useradd --create-home captioner
USER captioner
WORKDIR /home/captioner
ENV HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"
ENTRYPOINT ["qvision", "serve", "--host", "0.0.0.0"]
