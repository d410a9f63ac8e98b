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
    "vq_K14_1100": 10.32,
    "vq_K20_1100": 23.39,
    "vq_K20_550": 45.63,
    "vq_K14_1100_low": 9.07,
    "vq_K20_1100_low": 24.08,
    "vq_K20_550_low": 42.25,
    "bands_Wo": 32.48,
    "newamp1": 17.12,
}
# Frames 0, 17, 30 and 47 [4][3] of values 0, 5 and 13 in dB that 12 vectors stand for, decoded by
# the network of the same name when it was an archive of another form; vector v has the index
# (601 v + 331 stage + 7) mod 2048
DECODED = {
    "vq_K14_1100": [
        [24.9623, 7.4664, 25.3777],
        [20.0839, 49.1501, 9.2765],
        [29.0982, 17.8028, 16.5508],
        [49.1514, 33.4216, 17.8914],
    ],
    "vq_K20_1100": [
        [14.4898, 9.7895, 10.2484],
        [26.3489, 31.6650, 7.3115],
        [16.2578, 17.9571, 10.8767],
        [23.4536, 16.0137, 9.0010],
    ],
    "vq_K20_550": [
        [22.1304, 16.0595, 6.1604],
        [41.7494, 37.9699, 13.0050],
        [32.5778, 0.8959, -6.3110],
        [11.8599, 30.9588, 30.5005],
    ],
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


@pytest.mark.parametrize("name", DECODED)
def test_decoded_vectors_stay(name):
    """Nothing in the archive but an encoder and a decoder of Keras' own layers, and arrays."""
    quantiser = networks.load_quantiser(ROOT / "networks" / f"{name}.keras")
    stages, M, _ = quantiser.codebooks.shape
    index = (601 * np.arange(12)[:, None] + 331 * np.arange(stages) + 7) % M
    z = sum(book[i] for book, i in zip(quantiser.codebooks, index.T, strict=True))
    decoded = quantiser.decoder.predict(z[None], verbose=0)[0]
    np.testing.assert_allclose(decoded[[0, 17, 30, 47]][:, [0, 5, 13]], DECODED[name], atol=1e-3)
    layers = [*quantiser.encoder.layers, *quantiser.decoder.layers]
    assert {type(layer).__module__.split(".")[0] for layer in layers} == {"keras"}


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
