# `make` alone says what there is. Every target sets up what it needs, through spark-submit.sh.
.DEFAULT_GOAL := help
.PHONY: help setup test test-session test-rest soak check format clean distclean

python := $(or $(SAMESTYLE_PYTHON),.venv/bin/python)

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## install what jobs and tests need
	@./spark-submit.sh setup

test: setup ## all tests, with small counts: two processes, each printed when it ends
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-session test-rest

# All tests that share one Spark session.
test-session:
	$(python) -m pytest -m "not soak and not gpu" tests/spark tests/jobs

# Those that need no JVM, or start their own processes.
test-rest:
	$(python) -m pytest -m "not soak and not gpu" tests/core tests/shipping

soak: setup ## the long tests: full counts of faults, nights and fuzzing
	$(python) -m pytest -m soak -s tests

check: setup ## lint, format, types
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	bash -n spark-submit.sh conf/setup.sh .ci/run

format: setup ## rewrite the code in the project's format
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

clean: ## remove what tools and runs left, but not the set-up, nor data/
	rm -rf .cache/code .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	rm -rf spark-warehouse metastore_db derby.log
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## remove the set-up as well
	rm -rf .venv .cache
