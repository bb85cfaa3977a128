# Everything sets itself up: `make test` and `make demo` work on a fresh clone with Python 3.10 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What some system lacks is taken away by tests/elsewhere/sitecustomize.py, which Python imports first of all.
ELSEWHERE := PYTHONPATH=$(CURDIR)/tests/elsewhere
# One that merges, one that does with branches, one that never does; none: all twelve.
PEFT_ADAPTERS ?= add add-3-fixed variance-3-learned
OLD_CLIENT := $(CURDIR)/build/old-client
# The site's own environment: what builds pages and looks at them, and nothing of torch.
DOCS := build/docs-venv
TOOLS := build/tools-venv
# What draws the page of `si-hub app` and runs the notebook, beside all that $(VENV) has.
APP := build/app-venv
export OMP_NUM_THREADS := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help demo hub test test-hub test-quantised test-platform test-platform-short test-slow test-peft test-comfyui fuzz lint types wheel-test bench
.PHONY: test-sequences test-requests test-ways bench-distill house tables world clean docs chromium app-test claim claim-full

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,report,distill]'
	touch $(READY)

demo: $(READY)  ## convert a kohya LoRA, load it, draw the difference: demo/
	TRANSFORMERS_VERBOSITY=error $(BIN)/python -m examples.miniature.demo --out demo

hub: $(READY)  ## start a Hub of your own in build/hub, to try push and pull on
	$(BIN)/python -m tests.hub.loopback --folder build/hub --port 8420 --files-port 8421

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

test: lint types  ## linters, types, the test suite, and once against the built wheel
	$(BIN)/python -m pytest -q -n 2
	$(MAKE) --no-print-directory test-platform-short test-hub wheel-test

$(OLD_CLIENT)/.ready: $(READY) tests/hub/old-client.txt
	rm -rf $(OLD_CLIENT)
	$(BIN)/python -m pip install --quiet --no-deps --target $(OLD_CLIENT) --requirement tests/hub/old-client.txt
	touch $@

test-hub: $(OLD_CLIENT)/.ready  ## the Hub's tests, and README, with the oldest huggingface_hub that is supported
	PYTHONPATH=$(OLD_CLIENT) SI_HUB_TEST_CLIENT=1.32 $(BIN)/python -m pytest -q -n 2 tests/hub tests/test_readme.py -k 'not demo'

test-quantised: $(READY)  ## adapters on quantised bases, with the packages that quantise
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/quantised --requirement tests/pipelines/quantised.txt
	PYTHONPATH=build/quantised $(BIN)/python -m pytest -q tests/pipelines/test_quantised.py

test-platform: $(READY)  ## all rooms that handle files, and parts of the others, as on a system that is not POSIX, with cp1252 for texts
	$(ELSEWHERE) $(BIN)/python -m pytest -q -n 2 tests/test_*.py tests/storage tests/format tests/golden tests/report tests/hub \
		tests/work tests/attacks $$(sed 's/ *\#.*//' tests/elsewhere/tests.txt)

test-platform-short: $(READY)  ## some of them
	$(ELSEWHERE) $(BIN)/python -m pytest -q -n 2 $$(sed 's/ *\#.*//' tests/elsewhere/tests.txt)

test-slow: $(READY)  ## full-size models and many-times checks
	$(BIN)/python -m pytest -q -n 2 -m slow

fuzz: $(READY)  ## a million changed files given to every reader, against the safetensors library and FORMAT.md's rules
	$(BIN)/python -m tests.fuzz

tables: $(READY)  ## the tables of docs/CONVERT.md, from the families and base models
	$(BIN)/python -m tests.tables

test-sequences: $(READY)  ## 10,000 random sequences of calls of a pipeline on a UNet, and as many on a transformer (SEQUENCES=)
	SEQUENCES=$(or $(SEQUENCES),10000) $(BIN)/python -m pytest tests/pipelines/test_sequences.py -n 2 -q

test-requests: $(READY)  ## 200 random requests from each of eight threads to one base, each picture against its own (REQUESTS=)
	REQUESTS=$(or $(REQUESTS),200) $(BIN)/python -m pytest tests/pipelines/test_threads.py -m slow -n 2 -q

test-ways: $(READY)  ## distill killed, resumed and in two processes, by every way a model is held; every fault of a push, once and for good
	EVERY_WAY=1 $(BIN)/python -m pytest -q -n 2 -m slow tests/distill/methods tests/hub/push/test_faults.py \
		-k "killed_at or two_processes or every_fault"

test-peft: $(READY)  ## PEFT's own tests on StyleInjectConfig (PEFT_ADAPTERS= for every kind of adapter)
	$(BIN)/python -m tests.peft_suite $(PEFT_ADAPTERS)

test-comfyui: $(READY)  ## examples/comfyui on ComfyUI's own models and model patchers
	$(BIN)/python -m tests.comfyui_suite

$(DOCS)/.ready: website/requirements.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --no-deps --requirement website/requirements.txt
	touch $@

chromium:  # installed where it is missing and this is root on Debian or Ubuntu; else said what to install
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get \
		>/dev/null && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver; } \
		|| { echo 'install chromium and chromedriver (Debian: apt-get install chromium chromium-driver)' >&2; exit 1; }

$(APP)/.ready: $(READY) tests/app/requirements.txt
	rm -rf $(APP)
	$(BIN)/python -m venv $(APP)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		"$$($(APP)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth"
	$(APP)/bin/python -m pip install --quiet --no-deps --requirement tests/app/requirements.txt
	touch $@

app-test: $(APP)/.ready chromium  ## the page of `si-hub app` in headless Chromium, and the notebook of examples/
	$(APP)/bin/python -m pytest -q tests/app/test_page.py tests/examples/test_tour.py

docs: $(READY) $(DOCS)/.ready chromium  ## the site in build/site, strictly, and every page of it in headless Chromium
	$(BIN)/python -m website.commands build/commands.md
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet
	$(DOCS)/bin/python -m website.browser build/site build/shots

$(TOOLS)/.ready: website/tools.txt
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --requirement website/tools.txt
	touch $@

package: $(TOOLS)/.ready  ## sdist and wheel in build/package, and what judges them, the workflows and the citation
	rm -rf build/package
	$(TOOLS)/bin/python -m build --outdir build/package . >build/package.log 2>&1 || { cat build/package.log; exit 1; }
	$(TOOLS)/bin/twine check --strict build/package/*
	$(TOOLS)/bin/check-wheel-contents build/package/*.whl
	$(TOOLS)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(TOOLS)/bin/cffconvert --validate --infile CITATION.cff

matrix: $(READY)  ## README from wheel and clone, by the oldest and the newest Python here, libraries old and new; a table
	$(BIN)/python -m tests.matrix

house: $(READY)  ## modules by room, their lines, the longest functions
	$(BIN)/python -m tests.house

wheel-test: $(READY)  ## build the wheel and test it from an empty directory
	BIN=$(CURDIR)/$(BIN) sh tests/wheel.sh

bench: $(READY)  ## speed and memory against the peers
	$(BIN)/python benchmarks/convert.py
	$(BIN)/python benchmarks/load.py
	$(BIN)/python benchmarks/operator.py
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.rows
	$(BIN)/python benchmarks/distill_speed.py --sizes sd15 --peer-minutes 2

bench-distill: $(READY)  ## distilled adapters against LyCORIS's and kohya's extractions: quality on the miniature, speed
	$(BIN)/python -m benchmarks.distill_quality
	$(BIN)/python -m benchmarks.distill_teachers
	$(BIN)/python -m benchmarks.distill_speed

claim: $(READY)  ## whether StyleInject beats a LoRA of its size: docs/CLAIM.md, its tables, plots and pictures
	$(BIN)/python -m benchmarks.claim

claim-full: $(READY)  ## the same with every transform, number of branches and router, in build/claim-full
	mkdir -p build/claim-full
	$(BIN)/python -m benchmarks.claim --full --work build/claim --docs build/claim-full

world: $(READY)  ## build the miniature again from seeds, in build/miniature; resumable
	$(BIN)/python -m examples.miniature.world

clean:  ## remove what the targets made
	rm -rf $(VENV) build dist demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
