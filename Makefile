# `make` alone says what there is. Every target sets up what it needs, through spark-submit.sh.
.DEFAULT_GOAL := help
.PHONY: help setup test test-core test-shipping test-inputs test-nights browser soak check format clean distclean

python := $(or $(SAMESTYLE_PYTHON),.venv/bin/python)

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## install what jobs and tests need
	@./spark-submit.sh setup

# Jobs on small data wait more than they compute: side by side, the parts take half the time.
test: setup browser ## the tests, with small counts; four parts side by side, each printed when it ends
	@$(MAKE) --no-print-directory -j4 --output-sync=target test-core test-shipping test-inputs test-nights

# As root with apt. Elsewhere the tests that drive it are skipped, and say so.
browser:
	@test -x /usr/bin/chromium || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
	{ echo "installing Chromium for the tests of the web application" && apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends chromium >/dev/null; }

pytest := $(python) -m pytest -m "not soak and not gpu" --durations=15
# Tests of jobs that begin with nothing. All others go on from one finished night, which each process makes once.
inputs := $(addprefix tests/jobs/test_,bad_input.py examples.py hostile_night.py train.py)

test-core: # no JVM
	$(pytest) tests/core

test-shipping: # real processes of their own
	$(pytest) tests/shipping

test-inputs: # one Spark session, no night
	$(pytest) tests/spark $(inputs)

test-nights: # another one, and the night that it begins with
	$(pytest) tests/jobs $(addprefix --ignore=,$(inputs))

soak: setup ## the long tests: full counts of faults, nights and fuzzing, further variants
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
