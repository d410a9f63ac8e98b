# make demo                sample speech to features, a trained network, and speech again, in demo/
# make demo SPEECH=my.wav  the same for your own speech
# make demo DEC=3          a vector every third frame only, as a decoder at a low bit rate gets them
# make bench               speed, start-up time and memory, in demo/bench.txt
# make test lint clean

PYTHON ?= python3
SPEECH ?= tests/data/sample_8k.wav
EPOCHS ?= 60

# the network: every frame by default, or a vector every DEC frames
NAME := network$(if $(DEC),_dec$(DEC))
TRAIN := $(if $(DEC),ebanddec_train.py --dec $(DEC),eband_train.py --Wo)

VENV := .venv
PY := $(VENV)/bin/python
SHELL := /bin/bash -o pipefail

.PHONY: demo bench test lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo
	mkdir -p demo
	name="$(SPEECH)"; cp "$$name" "demo/original.$${name##*.}"
	$(PY) c2sim.py "$(SPEECH)" --rateK -o demo/conventional.wav
	$(PY) c2sim.py "$(SPEECH)" --bands demo/speech.f32 --modelout demo/speech.model
	$(PY) c2sim.py "$(SPEECH)" --bands demo/train.f32 --bands_lower 10 --modelout demo/train.model
	$(PY) $(TRAIN) demo/train.f32 demo/train.model --epochs $(EPOCHS) \
		--nnout demo/$(NAME).keras --plot_dir demo | tee demo/figures.txt
	$(PY) eband_out.py demo/$(NAME).keras demo/speech.f32 demo/speech.model \
		--modelout demo/$(NAME).model --plot_dir demo | tee -a demo/figures.txt
	$(PY) c2sim.py --modelin demo/$(NAME).model -o demo/$(NAME).wav
	@ls demo/*.wav demo/*.png demo/figures.txt

bench: $(VENV)/demo
	mkdir -p demo
	$(PY) tests/bench.py | tee demo/bench.txt

test: $(VENV)/tests
	$(PY) -m pytest -q tests

lint: $(VENV)/tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf demo $(VENV)

# stamps: made anew when the requirements change
$(VENV)/demo: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/tests: tests/requirements.txt $(VENV)/demo
	$(PY) -m pip install --quiet -r tests/requirements.txt
	touch $@
