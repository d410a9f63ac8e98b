"""vq_out.py: sender and receiver, to the last bit; figures, delay, codebooks; what it warns of."""

import numpy as np
import pytest

import codec2_model
import vq_out as script
from common import networks
from common.plumbing import FormatError
from conftest import call, figures, speech_like, write_quantiser

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with a quantiser n.keras, and 201 vectors x.f32, of which the last 50 are silent."""
    folder = tmp_path_factory.mktemp("vq_out")
    write_quantiser(folder / "n.keras")
    x = speech_like(201)
    x[151:] = -150
    codec2_model.write_rate_K(x, folder / "x.f32")
    return folder


@pytest.fixture(scope="module")
def sent(files):
    """{name: value} that the sender prints; its outputs are in the folder."""
    outputs = ("--indexout", files / "x.npy", "--testout", files / "y.f32")
    return figures(call(script, files / "n.keras", files / "x.f32", *outputs, "--noplots"))


@pytest.mark.parametrize("dec", [1, 4])
def test_receiver_gives_the_bytes_of_the_sender(dec, tmp_path):
    """Files of any length, however short; vectors lack frames at the end."""
    write_quantiser(tmp_path / "n.keras", dec=dec)
    for n in (1, 4, 30):
        codec2_model.write_rate_K(speech_like(n), tmp_path / "x.f32")
        outputs = ("--indexout", tmp_path / "x.npy", "--testout", tmp_path / "y.f32")
        call(script, tmp_path / "n.keras", tmp_path / "x.f32", *outputs, "--noplots")
        received = ("--indexin", tmp_path / "x.npy", "--testout", tmp_path / "z.f32")
        assert figures(call(script, tmp_path / "n.keras", *received))["frames"] == n
        assert (tmp_path / "z.f32").read_bytes() == (tmp_path / "y.f32").read_bytes()
        assert np.load(tmp_path / "x.npy").shape == (-(-n // dec), 2)


def test_indices_stand_for_sums_of_codewords(files, sent):
    quantiser = networks.load_quantiser(files / "n.keras")
    indices = np.load(files / "x.npy")
    z = sum(book[index] for book, index in zip(quantiser.codebooks, indices.T, strict=True))
    decoded = quantiser.decoder.predict(z[None], verbose=0)[0]
    found = codec2_model.read_rate_K(files / "y.f32", 14)
    np.testing.assert_allclose(found[4:-4], decoded[4 : len(found) - 4], atol=1e-3)


def test_lost_vectors(files, sent, tmp_path):
    """A vector that was lost lies between its neighbours; frames far from it do not change."""
    indices, n, network = codec2_model.read_indices(files / "x.npy", 16, 2, 2)
    quantiser = networks.load_quantiser(files / "n.keras")
    z = sum(book[index] for book, index in zip(quantiser.codebooks, indices.T, strict=True))
    between = (z[:-2] + z[2:]) / 2
    lost = 1 + np.argmax(np.abs(between - z[1:-1])[10:-30].sum(axis=1)) + 10
    indices[lost] = -1
    codec2_model.write_indices(indices, n, network, tmp_path / "x.npy")
    received = ("--indexin", tmp_path / "x.npy", "--testout", tmp_path / "z.f32")
    assert figures(call(script, files / "n.keras", *received))["lost vectors"] == 1.0
    z[lost] = between[lost - 1]
    decoded = quantiser.decoder.predict(z[None], verbose=0)[0]
    before = codec2_model.read_rate_K(files / "y.f32", 14)
    after = codec2_model.read_rate_K(tmp_path / "z.f32", 14)
    frames = slice(2 * lost - 4, 2 * lost + 6)
    np.testing.assert_allclose(after[frames], decoded[frames], atol=1e-3)
    changed = np.flatnonzero(np.abs(before - after).max(axis=1) > 1e-4)
    assert 2 * lost - 2 <= changed[0] <= changed[-1] <= 2 * lost + 3


def test_indices_of_another_network_are_refused(files, sent, tmp_path):
    """One of the same sizes, by its fingerprint."""
    quantiser = networks.load_quantiser(files / "n.keras")
    parts = quantiser.encoder, quantiser.decoder, quantiser.codebooks + 1, None
    networks.save_quantiser(*parts, quantiser.options, tmp_path / "n.keras")
    options = ("--indexin", files / "x.npy", "--testout", tmp_path / "z.f32")
    with pytest.raises(FormatError, match=r"x\.npy: indices of another network"):
        call(script, tmp_path / "n.keras", *options)


def test_figures(files, sent):
    x, y = (codec2_model.read_rate_K(files / name, 14) for name in ("x.f32", "y.f32"))
    error = (x - y)[:151]
    sd = np.mean(error**2, axis=1)
    assert sent["file network SD"] == pytest.approx(sd.mean(), abs=0.006)
    assert sent["file network variance"] == pytest.approx(error.var(axis=1).mean(), abs=0.006)
    assert sent["network rms error of a frame"] == pytest.approx(np.sqrt(sd).mean(), abs=0.006)
    assert sent["network frames above 4 dB"] == pytest.approx(100 * np.mean(sd > 16), abs=0.006)
    assert sent["file frames"] == 151
    assert float(sent["last"]) == sent["file network SD"]
    assert sent["bits"] == 8
    assert sent["bit rate"] == 400


def test_delay(files, sent):
    """Three frames for smoothing, two per vector: an input changes outputs 30 ms earlier.

    40 ms of search, 20 ms of analysis; the baseline has the same delay, of which 10 ms are its own.
    """
    assert sent["delay of encoder and decoder"] == 30
    assert sent["delay of the search"] == 40
    assert sent["algorithmic delay"] == sent["algorithmic delay of the classical VQ"] == 90
    options = ("--lookahead", 0, "--mbest", 4, "--noplots")
    values = figures(call(script, files / "n.keras", files / "x.f32", *options))
    assert values["algorithmic delay"] == 50


def test_warnings(files, tmp_path, capsys):
    """K = 20 vectors that are taken for K = 14 change from frame to frame as speech does not."""
    codec2_model.write_rate_K(speech_like(140, 20), tmp_path / "x.f32")
    call(script, files / "n.keras", tmp_path / "x.f32", "--noplots")
    assert "another K" in capsys.readouterr().err
    codec2_model.write_rate_K(speech_like(100) - 22, tmp_path / "x.f32")
    call(script, files / "n.keras", tmp_path / "x.f32", "--noplots")
    assert "amplify it by" in capsys.readouterr().err


def test_gain_stages_codebooks_and_pictures(files, tmp_path):
    """Of a file of log10(energy), as c2sim wrote it before 2020."""
    x = codec2_model.read_rate_K(files / "x.f32", 14)[:40]
    codec2_model.write_rate_K(x / 10, tmp_path / "log10.f32")
    codec2_model.write_rate_K(x, tmp_path / "dB.f32")
    outputs = (
        "--testout",
        tmp_path / "y.f32",
        "--vqout",
        tmp_path / "book",
        "--plot_dir",
        tmp_path,
    )
    options = ("--gain", 1, "--stages", 1, "--frame", 10, *outputs)
    values = figures(call(script, files / "n.keras", tmp_path / "log10.f32", *options))
    assert values["bits"] == 4
    again = ("--stages", 1, "--testout", tmp_path / "z.f32", "--noplots")
    call(script, files / "n.keras", tmp_path / "dB.f32", *again)
    y, z = (codec2_model.read_rate_K(tmp_path / name, 14) for name in ("y.f32", "z.f32"))
    np.testing.assert_allclose(y, z, atol=1e-3)
    latent = codec2_model.read_floats(tmp_path / "book_latent_2.f32", 16)
    quantiser = networks.load_quantiser(files / "n.keras")
    np.testing.assert_array_equal(latent, quantiser.codebooks[1])
    names = {path.name for path in tmp_path.iterdir()}
    assert {"vq_out_sd.png", "vq_out_frames_1.png"} <= names
