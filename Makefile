# make demo                speech through the codec and its parts, and a page: demo/index.html
# make demo SPEECH=my.wav  the same for the first minute of your own speech
# make results             what the codec and the networks reach: tables of the README and doc/
# make results-train       what default trainings reach: table and film in doc/; takes hours
# make bench               speed, start-up time and memory, in results/bench.txt
# make test lint clean

PYTHON ?= python3

# the name as it was typed: neither make nor a shell may find commands in it
override export SPEECH := $(value SPEECH)

VENV := .venv
PY := $(VENV)/bin/python
SHELL := /bin/bash -o pipefail

.PHONY: demo results results-train bench test lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/pesq
	@$(PY) doc/demo.py

bench: $(VENV)/demo
	mkdir -p results
	$(PY) tests/bench.py | tee results/bench.txt

results: $(VENV)/tests $(VENV)/pesq
	$(PY) doc/results.py

results-train: $(VENV)/tests $(VENV)/pesq
	$(PY) doc/results_train.py

test: $(VENV)/tests $(VENV)/pesq
	$(PY) -m pytest -q -n 2 --dist loadfile tests

lint: $(VENV)/tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf demo .demo_* results $(VENV) .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# stamps: made anew when the requirements change
$(VENV)/demo: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
	    "Python 3.11 to 3.13 is needed, this is %d.%d: make PYTHON=python3.13, for example" % v)'
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/tests: tests/requirements.txt $(VENV)/demo
	$(PY) -m pip install --quiet -r tests/requirements.txt
	touch $@

# PESQ is compiled; all but its figures goes without
$(VENV)/pesq: $(VENV)/demo
	@$(PY) -m pip install --quiet pystoi~=0.4.1
	@$(PY) -m pip install --quiet pesq~=0.0.4 2>$@.log || \
	    echo "no PESQ without a C compiler: apt install gcc python3-dev, rm $@"
	@touch $@
