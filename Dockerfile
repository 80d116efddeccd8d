# Runtime and service with OpenVINO, for CPUs: docker build -t mfnet . && docker run --rm -v "$PWD:/data" mfnet demo -o maps
FROM python:3.12-slim

# rasterio's wheels need it, and slim images lack it
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/*

COPY . /src
RUN pip install --no-cache-dir "/src[openvino,serve]" && rm -rf /src

RUN useradd --create-home mfnet
USER mfnet
WORKDIR /data
ENTRYPOINT ["mfnet-run"]
CMD ["--help"]
