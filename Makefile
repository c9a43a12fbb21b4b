# `make run` is all that is needed; the rest is for those who change the code.

PYTHON := .venv/bin/python
# Some checks load the settings, which refuse to go without a key.
CHECK := env HANDRAIL_SECRET_KEY=only-for-checks PYTHONDONTWRITEBYTECODE=1 $(PYTHON)

.PHONY: help setup run demo test chaos check bench format lock screenshots clean

help:
	@echo "make run          set up and start everything at http://localhost:8000 (HANDRAIL_PORT, HANDRAIL_HOME)"
	@echo "make demo         the same with a simulated fleet of agents"
	@echo "make test         every test, on real servers that are thrown away (ARGS='-k word', one by one: ARGS='-n 0')"
	@echo "make chaos        200 real agents stopped, killed and cut off; reports while 120 parts are killed at random"
	@echo "make check        format, lint, types, import contracts, migrations and docs in step"
	@echo "make bench        our own measurements, on servers that are thrown away (ARGS=watch_tick for one)"
	@echo "make format       put the code into its one format"
	@echo "make lock         write requirements.lock again from pyproject.toml"
	@echo "make screenshots  pictures of every page into screenshots/"
	@echo "make clean        remove caches; the state in .handrail stays"

setup:
	@sh launcher/setup

run: setup
	@exec $(PYTHON) manage.py up

demo: setup
	@exec $(PYTHON) manage.py up --demo

test: setup
	@$(PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

chaos: setup
	@env HANDRAIL_CHAOS_AGENTS=200 HANDRAIL_CHAOS_KILLS=120 $(PYTHON) -m pytest tests/chaos $(ARGS)

check: setup
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	find templates -name '*.html' -print0 | xargs -0 -r .venv/bin/djade --check --target-version 5.2
	$(CHECK) -m mypy
	$(CHECK) -m mypy --config-file sdk/pyproject.toml
	env HANDRAIL_SECRET_KEY=only-for-checks .venv/bin/lint-imports
	cd sdk/src && ../../.venv/bin/lint-imports --config ../pyproject.toml
	$(PYTHON) -m launcher.throwaway -- env HANDRAIL_DB_ROLE=owner $(PYTHON) manage.py makemigrations --check --dry-run
	if [ -f docs/check.py ]; then $(CHECK) -m docs.check; fi

bench: setup
	@$(PYTHON) -m bench $(ARGS)

format: setup
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .
	find templates -name '*.html' -print0 | xargs -0 -r .venv/bin/djade --target-version 5.2

lock: setup
	$(PYTHON) -m pip install --quiet --disable-pip-version-check uv
	$(PYTHON) -m uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --quiet --output-file requirements.lock

screenshots: setup
	@$(PYTHON) -m docs.screenshots

clean:
	rm -rf .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache staticfiles
	find . -name __pycache__ -not -path './.venv/*' -not -path './node_modules/*' -prune -exec rm -rf {} +
