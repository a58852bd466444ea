# `make run` and `make test` do all on a fresh machine; `make help` lists the rest.
# Settings: make run PORT=9000 HOST='*' MODELS=/srv/models FIT="--epochs 5 --dropout 0.3"

HOST ?= 127.0.0.1
PORT ?= 8080
MODELS ?= models
NAME ?= mnist
FIT ?=
# A run that was interrupted goes on, unless FIT has --restart.
RESUME = $(if $(filter --restart --resume --no-resume,$(FIT)),,--resume)
TEST ?=
IMAGES ?= train serve-cpu score-cpu
DOCKER ?= docker
REGISTRY ?=
STORE ?=
PUSH ?=
OVERLAY ?= cpu
KUBECTL ?= kubectl
BASE ?= python:3.11-slim-bookworm
BUILD_NETWORK ?= default
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' bundle/__init__.py)
REVISION = $(shell git describe --always --abbrev=40 --dirty=+changes --exclude='*' 2>/dev/null)
VENV ?= .venv
CLIENTS ?= $(VENV)-clients
LINTERS ?= $(VENV)-linters
PYTHON ?=
# More than two cores have: tests of services and systems wait most of the time. Unit tests do not.
JOBS ?= 4
# Tests of one file run one after the other, in one process: they share what its fixtures start.
PARALLEL = --dist loadfile --no-loadscope-reorder --maxprocesses 8 --numprocesses
PIP_INSTALL := -m pip install $(if $(CI),--quiet) --disable-pip-version-check --require-hashes
# $(call install,ENVIRONMENT,LOCK) makes a virtual environment and installs a lock into it: by uv, which is in the lock of
# development and needs half of pip's time; by pip where uv finds no index, since pip may know mirrors that uv does not.
UV = $(VENV)/bin/uv
install = test -x $1/bin/pip || $(VENV)/bin/python -m venv $1; \
  test -x $(UV) || { sed -n '/^uv==/,/\# via/p' lock/development.txt >$(VENV)/uv.txt \
    && $(VENV)/bin/python $(PIP_INSTALL) --quiet -r $(VENV)/uv.txt; }; \
  $(UV) pip install $(if $(CI),--quiet) --compile-bytecode --require-hashes --python $1/bin/python -r $2 \
    || $1/bin/python $(PIP_INSTALL) -r $2

.PHONY: help run train serve check static unit test clients linters chromium proxies libtiff lock clean images sbom test-images train-job deploy score-job registry
.DELETE_ON_ERROR:

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/installed ## train once, then serve on HOST:PORT
	@GLYPH_HOST='$(HOST)' GLYPH_PORT=$(PORT) $(VENV)/bin/python -m serving --check-address
	@$(VENV)/bin/python -m bundle list $(MODELS)/$(NAME) >/dev/null 2>&1 \
	  || $(VENV)/bin/python -m training fit --models $(MODELS) --name $(NAME) $(RESUME) $(FIT)
	@GLYPH_HOST='$(HOST)' GLYPH_PORT=$(PORT) GLYPH_MODEL=$(MODELS)/$(NAME) exec $(VENV)/bin/python -m serving

train: $(VENV)/installed ## train and publish the next version
	$(VENV)/bin/python -m training fit --models $(MODELS) --name $(NAME) $(RESUME) $(FIT)

serve: $(VENV)/installed ## serve what is published, training nothing
	@GLYPH_HOST='$(HOST)' GLYPH_PORT=$(PORT) GLYPH_MODEL=$(MODELS)/$(NAME) exec $(VENV)/bin/python -m serving

# macOS has Make 3.81, which lets what runs at once print at once.
OUTPUT_SYNC = $(if $(filter output-sync,$(.FEATURES)),--output-sync)

# Without its cache every process of the tests compiles what it imports.
check test: export PYTHONDONTWRITEBYTECODE =

check: $(VENV)/installed-development ## lint, check types and which module imports which, run the unit tests
	@$(MAKE) --no-print-directory --jobs $(OUTPUT_SYNC) static unit

static: $(VENV)/installed-development
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-cache --no-logo
	$(VENV)/bin/mypy

unit: $(VENV)/installed-development
	$(VENV)/bin/pytest -m unit $(PARALLEL) logical

test: libtiff check $(CLIENTS)/installed $(LINTERS)/installed chromium proxies ## check, run every other test, or TEST=tests/...
	@set -ex; export CLIENTS_PYTHON=$(CLIENTS)/bin/python CHECKOV=$(LINTERS)/bin/checkov; \
	if [ -n "$(TEST)" ]; then $(VENV)/bin/pytest $(TEST); \
	else $(VENV)/bin/pytest -m 'service or system' $(PARALLEL) $(JOBS); fi

clients: $(CLIENTS)/installed ## the Open Inference Protocol's clients, which the tests ask by

linters: $(LINTERS)/installed ## checkov, by whose rules the tests read the manifests

chromium: ## the browser that the page is tested in, from Debian's packages where this is Debian and we are root
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing Chromium, to test the page in" \
	    && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium >/dev/null; } \
	  || echo "without Chromium the tests of the page are skipped; on Debian: apt-get install chromium"

# Where systemd runs, these packages start services, for which nobody who runs tests has asked.
proxies: ## nginx and HAProxy, which the tests put in front of the service, likewise, and where no systemd would start them
	@PATH="$$PATH:/usr/sbin"; { command -v nginx && command -v haproxy; } >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && [ ! -d /run/systemd/system ] && command -v apt-get >/dev/null \
	    && echo "installing nginx and HAProxy, to test the service behind" && apt-get update -qq \
	    && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends nginx haproxy >/dev/null; } \
	  || echo "without nginx and HAProxy the tests behind them are skipped; on Debian: apt-get install nginx haproxy"

libtiff: ## libtiff's own tools, by which the tests read TIFF files a second time, likewise
	@command -v tiffcp >/dev/null && command -v tiff2rgba >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing libtiff's tools, to test TIFF files" \
	    && apt-get update -qq \
	    && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends libtiff-tools >/dev/null; } \
	  || echo "without libtiff's tools a test of TIFF files is skipped; on Debian: apt-get install libtiff-tools"

images: ## build IMAGES="train serve-cuda score-cuda"; REGISTRY=host/team/ PUSH=1 pushes them; STORE=s3, gcs, azure; DOCKER=podman
	@set -e; for image in $(IMAGES); do \
	  program=$${image%-*} device=$${image#*-} file=Dockerfile.serve; \
	  version=$(VERSION)-$$device; \
	  if [ "$$image" = train ]; then device=latest version=$(VERSION) file=Dockerfile.train; fi; \
	  name=$(REGISTRY)glyph-$$program:$$device numbered=$(REGISTRY)glyph-$$program:$$version; \
	  $(DOCKER) build $(if $(filter %podman,$(DOCKER)),--format docker) --network $(BUILD_NETWORK) --file $$file \
	    --target $$program --build-arg DEVICE=$$device --build-arg BASE=$(BASE) --build-arg REVISION=$(REVISION) \
	    --build-arg VERSION=$(VERSION) --build-arg STORE=$(STORE) --tag $$name --tag $$numbered .; \
	  $(if $(PUSH),$(DOCKER) push $$name; $(DOCKER) push $$numbered;) \
	done

sbom: $(VENV)/installed-development ## write what IMAGES install to sbom/*.cdx.json, bills of material by CycloneDX
	$(VENV)/bin/python -m lock.sbom sbom $(or $(word 2,$(subst :, ,$(subst -, ,$(BASE)))),3.11) $(IMAGES)

test-images: $(VENV)/installed-development ## the tests of the images, with PyTorch and CUDA in them: 25 GB of disk
	TEST_IMAGES=all $(VENV)/bin/pytest tests/containers

train-job: registry ## train on a cluster: OVERLAY=cpu, gpu, local, object-store; REGISTRY=host/team/ is where the images are
	$(KUBECTL) apply -k k8s/overlays/$(OVERLAY)/common
	$(KUBECTL) delete job glyph-train --namespace glyph --ignore-not-found
	$(KUBECTL) apply -k k8s/overlays/$(OVERLAY)/train

deploy: registry ## serve on a cluster, and wait until it answers
	$(KUBECTL) apply -k k8s/overlays/$(OVERLAY)/common
	$(KUBECTL) apply -k k8s/overlays/$(OVERLAY)/serve
	$(KUBECTL) rollout status deployment/glyph --namespace glyph --timeout 15m

# The shares end as Complete or as Failed (exit code 3: some images could not be read); merging says which it was.
score-job: registry ## score what is in input/ on the volume or in the bucket, then put the shares together
	$(KUBECTL) apply -k k8s/overlays/$(OVERLAY)/common
	$(KUBECTL) delete job glyph-score glyph-score-merge --namespace glyph --ignore-not-found
	$(KUBECTL) apply -k k8s/overlays/$(OVERLAY)/score
	@until $(KUBECTL) get job glyph-score --namespace glyph \
	  -o jsonpath='{.status.conditions[?(@.status=="True")].type}' | grep -qwE 'Complete|Failed'; do sleep 5; done
	$(KUBECTL) patch job glyph-score-merge --namespace glyph --patch '{"spec": {"suspend": false}}'
	$(KUBECTL) wait job glyph-score-merge --namespace glyph --for condition=complete --timeout 1h

registry:
	@$(if $(REGISTRY),for file in k8s/overlays/*/images/kustomization.yaml; do \
	  sed -E 's#newName: .*(glyph-[a-z]+)$$#newName: $(REGISTRY)\1#' "$$file" >"$$file.new" && mv "$$file.new" "$$file"; done,:)

lock: $(VENV)/installed-development ## write the locks anew from pyproject.toml
	lock/compile.sh $(VENV)/bin/uv

clean: ## remove the environments with their Python, and the engine that tests of images brought; data and models stay
	rm -rf $(VENV) $(VENV)-python $(CLIENTS) $(LINTERS)
	tests/containers/engine.sh clean

# pip is the last that comes into an environment.
$(VENV)/bin/pip:
	@python=$$(lock/python.sh $(VENV)-python $(PYTHON)) && "$$python" -m venv $(VENV)

$(VENV)/installed: lock/run.txt | $(VENV)/bin/pip
	@echo "installing the locked packages into $(VENV) (PyTorch's CUDA libraries are most of it)"
	@$(call install,$(VENV),lock/run.txt)
	@touch $@

$(VENV)/installed-development: lock/development.txt | $(VENV)/bin/pip
	@echo "installing the locked packages into $(VENV) (PyTorch's CUDA libraries are most of it)"
	@$(call install,$(VENV),lock/development.txt)
	@touch $(VENV)/installed $@

# They hold old versions of what the service uses.
$(CLIENTS)/installed: lock/clients.txt | $(VENV)/bin/pip
	@echo "installing Triton's and KServe's clients into $(CLIENTS)"
	@$(call install,$(CLIENTS),lock/clients.txt)
	@touch $@

$(LINTERS)/installed: lock/linters.txt | $(VENV)/bin/pip
	@echo "installing checkov into $(LINTERS)"
	@$(call install,$(LINTERS),lock/linters.txt)
	@touch $@
