// All images: docker buildx bake. One: docker buildx bake serve-cpu. With a registry, and pushed:
//   REGISTRY=registry.example.org/team/ docker buildx bake --push
// Docker keeps images of several platforms where it has containerd's image store; else PLATFORMS=linux/amd64.
// `make images` builds the same images one by one, with Docker or podman, and knows the revision.

variable "REGISTRY" {
  default = "" // before each name, with its slash
}

variable "VERSION" {
  default = "0.1.0" // bundle/__init__.py's; a test compares
}

variable "REVISION" {
  default = "" // the commit; it is in every label, and in the manifest of every model that the image trains
}

variable "BASE" {
  default = "python:3.11-slim-bookworm" // Python 3.11 to 3.14 on Debian; with @sha256:... always the same (renovate.json)
}

variable "PLATFORMS" {
  default = "linux/amd64,linux/arm64" // of the images without CUDA; `linux/arm64` alone where a builder has one platform
}

variable "STORE" {
  default = "" // s3, gcs or azure: the client of an object store, in every image
}

group "default" {
  targets = ["train", "serve", "score"]
}

group "cpu" {
  targets = ["serve-cpu", "score-cpu"]
}

target "image" {
  context   = "."
  platforms = split(",", PLATFORMS)
  // What a registry keeps with the image: how BuildKit built it (SLSA provenance) and what is in it, Debian's packages
  // too (an SPDX bill). Without a registry there is nothing that keeps them, and Docker's own driver refuses.
  attest = REGISTRY == "" ? [] : ["type=provenance,mode=max", "type=sbom"]
  args = {
    BASE     = BASE
    VERSION  = VERSION
    REVISION = REVISION
    STORE    = STORE
  }
}

// It trains on a CPU where there is no GPU: PyTorch is one package for both.
target "train" {
  inherits   = ["image"]
  dockerfile = "Dockerfile.train"
  tags       = ["${REGISTRY}glyph-train:latest", "${REGISTRY}glyph-train:${VERSION}"]
}

// The batch scorer is the service's packages and one layer more.
target "program" {
  inherits   = ["image"]
  name       = "${program}-${device}"
  dockerfile = "Dockerfile.serve"
  target     = program
  platforms  = device == "cpu" ? split(",", PLATFORMS) : ["linux/amd64"]
  args       = { DEVICE = device }
  tags       = ["${REGISTRY}glyph-${program}:${device}", "${REGISTRY}glyph-${program}:${VERSION}-${device}"]
  matrix = {
    program = ["serve", "score"]
    device  = ["cpu", "cuda"]
  }
}

group "serve" {
  targets = ["serve-cpu", "serve-cuda"]
}

group "score" {
  targets = ["score-cpu", "score-cuda"]
}
