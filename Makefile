# make demo                sample speech to quantised speech: trains, quantises, makes wav files to listen to, in demo/
# make demo SPEECH=my.wav  the same for your own speech, a minute or more
# make results             the tables and pictures of the README, from speech in Debian's codec2-examples
# make bench               speed, start-up time and memory, in demo/bench.txt
# make test lint clean

PYTHON ?= python3
SPEECH ?= tests/data/sample_8k.wav
EPOCHS ?= 60
VQ_EPOCHS ?= 150

# two stages of 256 codewords every 20 ms, 800 bit/s: the sample is too short for larger ones
VQ = vq_vae_ratek_conv1d.py --num_embedding 256 --epochs $(VQ_EPOCHS)

VENV := .venv
PY := $(VENV)/bin/python
SHELL := /bin/bash -o pipefail

.PHONY: demo results bench test lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo
	mkdir -p demo
	name="$(SPEECH)"; cp "$$name" "demo/original.$${name##*.}"
	# K = 20 vectors: conventional decoder, unquantised and quantised
	$(PY) c2sim.py "$(SPEECH)" --rateK --rateKout demo/K20.f32 -o demo/K20.wav
	$(PY) $(VQ) demo/K20.f32 --eband_K 20 --nnout demo/vq_K20.keras --vqout demo/vq_K20 \
		--testout demo/K20_vq.f32 --plot_dir demo/K20 | tee demo/figures.txt
	$(PY) c2sim.py "$(SPEECH)" --rateK --rateKin demo/K20_vq.f32 -o demo/K20_quantised.wav
	# K = 14 band energies: decoded by a network, unquantised and quantised
	$(PY) c2sim.py "$(SPEECH)" --bands demo/speech.f32 --modelout demo/speech.model
	$(PY) c2sim.py "$(SPEECH)" --bands demo/train.f32 --bands_lower 10 --modelout demo/train.model
	$(PY) eband_train.py --Wo demo/train.f32 demo/train.model --epochs $(EPOCHS) \
		--nnout demo/network.keras --plot_dir demo | tee -a demo/figures.txt
	$(PY) $(VQ) demo/train.f32 --nnout demo/vq_K14.keras --vqout demo/vq_K14 --plot_dir demo | tee -a demo/figures.txt
	$(PY) $(VQ) demo/speech.f32 --nnin demo/vq_K14.keras --testout demo/K14_vq.f32 --noplots
	$(PY) eband_out.py demo/network.keras demo/speech.f32 demo/speech.model \
		--modelout demo/K14.model --noplots | tee -a demo/figures.txt
	$(PY) eband_out.py demo/network.keras demo/K14_vq.f32 demo/speech.model \
		--modelout demo/K14_quantised.model --plot_dir demo | tee -a demo/figures.txt
	$(PY) c2sim.py --modelin demo/K14.model -o demo/K14.wav
	$(PY) c2sim.py --modelin demo/K14_quantised.model -o demo/K14_quantised.wav
	@ls demo/*.wav demo/*.png demo/*.gif demo/*/*.png demo/figures.txt

bench: $(VENV)/demo
	$(PY) tests/bench.py demo/bench.txt

results: $(VENV)/demo
	$(PY) doc/results.py

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
