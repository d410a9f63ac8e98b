"""networks/: each trained network still runs, and gives what it was shipped with."""

import numpy as np
import pytest
import soundfile

import c2sim
import eband_out
import vq_out
from common import networks, search
from conftest import ROOT, SAMPLE, call, figures, sound_file

FIGURES = {  # SD in dB² of the first 300 frames of the sample, a synthetic voice; vq_*: of 100
    "vq_K14_1100": 9.64,
    "vq_K20_1100": 22.05,
    "vq_K20_550": 40.45,
    "vq_K14_1100_low": 11.68,
    "vq_K20_1100_low": 23.18,
    "vq_K20_550_low": 43.33,
    "bands_Wo": 32.48,
    "newamp1": 17.12,
}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """{K: (vectors, model file)} of the first 3 s of the sample speech."""
    folder = tmp_path_factory.mktemp("features")
    wav, model = sound_file(folder / "x.wav", soundfile.read(SAMPLE, 24_000)[0]), folder / "x.model"
    vectors = {K: folder / f"{K}.f32" for K in (14, 20)}
    call(c2sim, wav, "--bands", vectors[14], "--modelout", model)
    call(c2sim, wav, "--rateK", "--rateKout", vectors[20])
    return {K: (vectors[K], model) for K in vectors}


@pytest.mark.parametrize("name", FIGURES)
def test_figures(name, features):
    network = ROOT / "networks" / f"{name}.keras"
    vectors, model = features[14 if "K14" in name or "bands" in name else 20]
    if name.startswith("vq"):
        printed = call(vq_out, network, vectors, "--noplots", "--nb_samples", 100)
    else:
        printed = call(eband_out, network, vectors, model, "--noplots")
    assert figures(printed)["last"] == pytest.approx(FIGURES[name], rel=0.02)


@pytest.mark.parametrize("name", [name for name in FIGURES if name.startswith("vq")])
def test_quantisers_are_layers_of_keras_and_arrays(name):
    quantiser = networks.load_quantiser(ROOT / "networks" / f"{name}.keras")
    layers = [*quantiser.encoder.layers, *quantiser.decoder.layers]
    assert {type(layer).__module__.split(".")[0] for layer in layers} == {"keras"}
    assert not np.array_equal(quantiser.expected, np.eye(len(quantiser.expected)))


@pytest.mark.parametrize(("name", "most"), [("vq_K14_1100", 360), ("vq_K14_1100_low", 120)])
def test_delay(name, most):
    """Of encoder, search and decoder, with the usual look-ahead."""
    coder = search.coder_of(networks.load_quantiser(ROOT / "networks" / f"{name}.keras"))
    assert search.delay_ms(coder, search.usual_lookahead_ms(coder)) <= most


def test_sizes_and_file_names():
    """Less than 2 MB each; no names of files of the machine that they were trained on."""
    files = sorted((ROOT / "networks").glob("*.keras"))
    assert {file.stem for file in files} >= set(FIGURES)
    for file in files:
        assert file.stat().st_size < 2e6
        options = networks.read_options(file, {})
        assert not [value for value in options.values() if isinstance(value, str) and "/" in value]
