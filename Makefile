# `make search` and `make test` set up .venv if necessary; a second call installs nothing.
PYTHON ?= python3
BIN := .venv/bin
LOWEST := .venv-lowest
READY := .venv/.ready
unexport PYTHONDONTWRITEBYTECODE  # otherwise each process compiles its imports again

.PHONY: search test test-lowest notebook notebook-run screenshot bench chaos chaos-slurm setup check constraints clean

search: setup            ## find the best VAE among 50 trials on the embedded MNIST
	$(BIN)/python search.py --num-samples 50

test: check              ## run ruff, mypy --strict and all tests; slow tests mostly wait, so three run in parallel on two cores
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-lowest: setup       ## run all tests with the oldest versions that pyproject.toml allows; CI does not run this
	mkdir -p build
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --extra dev --no-annotate --no-header --no-emit-index-url --upgrade pyproject.toml --output-file build/lowest.txt
	$(BIN)/python -m venv $(LOWEST)
	$(BIN)/uv pip sync --quiet --build-constraint constraints.txt --python $(LOWEST)/bin/python build/lowest.txt
	$(BIN)/uv pip install --quiet --build-constraint constraints.txt --python $(LOWEST)/bin/python --no-deps --editable .
	PATH=$(CURDIR)/$(LOWEST)/bin:$$PATH $(LOWEST)/bin/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

notebook: setup          ## open the notebook in JupyterLab, on 127.0.0.1 only, protected by its token
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[jupyterlab]'
	$(BIN)/jupyter lab --ip 127.0.0.1 analysis/search_analysis.ipynb

notebook-run: setup      ## run the notebook on STUDY=results/NAME and save its outputs
	$(BIN)/python analysis/run.py $(STUDY)

chaos: setup             ## kill -9 a search 30 times at random moments, and audit its record
	$(BIN)/python -m tests.system.chaos --kills 30

chaos-slurm: setup       ## disturb a search on a real Slurm 20 times: kills, requeues, pauses, cancels, lost nodes
	$(BIN)/python -m tests.system.chaos_slurm --rounds 20

bench: setup             ## measure all speeds again, compared with the usual alternatives (about 40 minutes)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	for name in train compiled start memory scale images image_memory; do $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/train.py --model conv
	$(BIN)/python benchmarks/search.py --same-size --short
	$(BIN)/python benchmarks/search.py --same-size --peers optuna+ours
	$(BIN)/python benchmarks/harness.py

screenshot: setup        ## save the top of a report as the README's picture: make screenshot STUDY=results/NAME
	$(BIN)/python -m tests.browser $(STUDY) docs/images/report.png

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks

setup: $(READY)          ## create .venv with the pinned dependencies and this package

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "vae_tune needs Python 3.11 or newer, but %s is %s: make PYTHON=python3.x" % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=26'  # Python's own pip takes a third longer
	PYTHONWARNINGS=ignore PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	@$(BIN)/python -c 'import vae_tune.tasks.search, vae_tune.cluster.trainable, vae_tune.views.report.page'  # compiles the modules that a search imports, an eighth of all
	@touch $@

constraints: setup       ## pin the newest compatible versions of all packages
	$(BIN)/uv pip compile --quiet --universal --upgrade --all-extras --no-annotate --no-header --no-emit-index-url pyproject.toml --output-file constraints.txt

clean:                   ## remove environments and caches, never results
	rm -rf .venv $(LOWEST) .mypy_cache .pytest_cache .ruff_cache build *.egg-info
