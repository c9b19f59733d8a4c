PYTHON ?= python

.PHONY: check lint types test test-all

check: lint types test  ## what CI runs

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

test:  ## the fast set
	$(PYTHON) -m pytest -n 2 --dist worksteal

test-all:  ## the fast set and the slow one
	$(PYTHON) -m pytest -m ""
