# Every verb a user needs. `make demo` runs the main job, `make test` the tests.
PYTHON ?= python3
PROFILE ?= llama2-7b-80k
VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DAGSTER_HOME := $(CURDIR)/.dagster
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo lint test test-fast ui setup profile check packed plan metrics preview approve accept pictures clean help

help:            ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(READY)  ## make .venv with the pinned versions

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,fast,eval,deploy]'
	touch $(READY)

demo: $(READY)   ## the whole graph on the sample, through Dagster, and a table of results
	python -m orchestration.demo

lint: $(READY)   ## lint and types
	ruff check .
	ruff format --check .
	mypy

test: lint       ## lint, types, tests
	pytest --numprocesses 3 --dist worksteal

test-fast: lint  ## the same without servers, browser and long trainings: for daily work
	pytest --numprocesses 2 --dist worksteal -m 'not slow'

ui: $(READY)     ## Dagster on http://127.0.0.1:3000, kept up until Ctrl-C
	python -m orchestration.ui

profile: $(READY) ## put profiles/NAME.yaml in place as params.yaml: make profile NAME=sample
	python -m orchestration.profile $(NAME)
	python -m evaluation.preflight

check: $(READY)  ## check all of params.yaml before anything runs
	python -m evaluation.preflight

packed: $(if $(NAME),profile,check) ## make the packed rows of params.yaml as it is, or of a profile: make packed NAME=own-data
	python -m orchestration.repro data_report
	@echo data/data_report/report.html

plan: $(READY)   ## what a training costs, before it starts: make plan PROFILE=llama2-7b-80k ARGS="--gpu H100"
	python -m training.plan $(PROFILE) $(ARGS)

metrics: $(READY) ## the numbers of every stage that one compares, as tables of 100 columns
	python -m orchestration.metrics

preview: $(READY) ## what would run now, why, and what it costs; runs nothing
	python -m orchestration.preview

approve: $(READY) ## let sensor and schedule start what is beyond NEEDLEWORK_BUDGET: make approve [ITEM=checkpoint@global]
	python -m orchestration.approve $(ITEM)

accept: $(READY) ## declare that a change of code alters nothing that was made by it: make accept ITEM="checkpoint base_checkpoint"
	python -m orchestration.accept $(ITEM)

pictures: $(READY) ## every picture of README and docs, made anew
	python -m benchmarks.pictures

clean:           ## remove what was made here (the DVC cache stays)
	rm -rf data metrics .dagster .training
