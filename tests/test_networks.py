"""networks/: each trained network still runs, and has the figures on the sample speech that it was shipped with."""

import codec2_model
import eband_out
import plumbing
import vq_search
import vq_vae_ratek_conv1d

import numpy as np
import pytest
from conftest import ROOT, figures, run_in

FIGURES = {  # SD in dB² of the first 1000 frames of the sample, a synthetic voice
    "vq_K14_1100": 5.90,
    "vq_K20_1100": 12.28,
    "vq_K20_550": 26.39,
    "bands_Wo": 20.36,
    "newamp1": 13.87,
}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """{K: (vectors, model file)} of the sample speech."""
    folder = tmp_path_factory.mktemp("features")
    wav = ROOT / "tests" / "data" / "sample_8k.wav"
    for options in (("--bands", "14.f32", "--modelout", "14.model"), ("--rateK", "--rateKout", "20.f32")):
        assert run_in(folder, "c2sim.py", wav, *options).returncode == 0
    assert run_in(folder, "c2sim.py", wav, "--modelout", "20.model").returncode == 0
    return {K: (folder / f"{K}.f32", folder / f"{K}.model") for K in (14, 20)}


@pytest.mark.parametrize("name", FIGURES)
def test_figures(name, features, capsys):
    network = ROOT / "networks" / f"{name}.keras"
    vectors, model = features[14 if "K14" in name or "bands" in name else 20]
    if name.startswith("vq"):
        script, command = vq_vae_ratek_conv1d, (vectors, "--nnin", network, "--sweeps", 1)
    else:
        script, command = eband_out, (network, vectors, model)
    args = script.parse_args([*map(str, command), "--nb_samples", "1000", "--noplots"])
    script.main(args, script.load(args))
    assert figures(capsys.readouterr().out)["file network SD"] == pytest.approx(FIGURES[name], rel=0.02)


def test_sizes_and_file_names():
    """Less than 2 MB each and 8 MB together; no names of files of the machine that they were trained on."""
    files = sorted((ROOT / "networks").glob("*.keras"))
    assert {file.stem for file in files} == set(FIGURES)
    assert max(file.stat().st_size for file in files) < 2e6
    for file in files:
        options = plumbing.read_options(file, {})
        assert not [value for value in options.values() if isinstance(value, str) and "/" in value]


def test_indices_stay(features):
    """Indices of the first second stand for the same vectors: decoded by hand from codebooks and network."""
    network = plumbing.load_network(ROOT / "networks" / "vq_K14_1100.keras")
    args = vq_vae_ratek_conv1d.parse_args([str(features[14][0]), "--nnin", f"{ROOT}/networks/vq_K14_1100.keras"])
    x = vq_vae_ratek_conv1d.load(args)["file"][:100]
    _, indices, x_hat = vq_search.code(network, x, 1, args)
    books = np.asarray(network.get_layer("quantizer").get_weights()[0])
    z = sum(book[index] for book, index in zip(books, indices.T, strict=True))
    np.testing.assert_allclose(vq_search.decode(network, z)[:100], x_hat, atol=1e-3)
    assert np.abs(x_hat).max() < codec2_model.DB_RANGE[1]


@pytest.mark.parametrize(
    ("K", "quantiser", "decoder"), [(14, "vq_K14_1100", "bands_Wo"), (20, "vq_K20_550", "newamp1")]
)
@pytest.mark.filterwarnings("error:The structure of `inputs`")
def test_search_for_harmonics(K, quantiser, decoder, features, tmp_path, capsys):
    """The command line: indices chosen for the harmonics give an SD of these that is a twentieth lower or more."""
    vectors, model = tmp_path / "x.f32", tmp_path / "x.model"
    codec2_model.write_rate_K(codec2_model.read_rate_K(features[K][0], K)[:200], vectors)
    codec2_model.write(*codec2_model.read(features[K][1], 200), model)
    folder, sd = ROOT / "networks", []
    for harmonics in ((), ("--harmonics", model, folder / f"{decoder}.keras")):
        command = (vectors, "--nnin", folder / f"{quantiser}.keras", "--testout", tmp_path / "y.f32", *harmonics)
        for script, words in (
            (vq_vae_ratek_conv1d, (*command, "--mbest", 8, "--sweeps", 1)),
            (eband_out, (folder / f"{decoder}.keras", tmp_path / "y.f32", model)),
        ):
            args = script.parse_args([*map(str, words), "--noplots"])
            script.main(args, script.load(args))
        sd.append(figures(capsys.readouterr().out)["last"])
    assert sd[1] < 0.95 * sd[0]
