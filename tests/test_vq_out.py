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


# ---------------------------------------------------------------- sender and receiver


@pytest.mark.parametrize("dec", [1, 4])
def test_receiver_gives_the_bytes_of_the_sender(dec, tmp_path):
    """Files of any length, however short; vectors lack frames at the end."""
    write_quantiser(tmp_path / "n.keras", dec=dec)
    for n in (1, 3, 4, 30):
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
    before, after = (
        codec2_model.read_rate_K(name, 14) for name in (files / "y.f32", tmp_path / "z.f32")
    )
    frames = slice(2 * lost - 4, 2 * lost + 6)
    np.testing.assert_allclose(after[frames], decoded[frames], atol=1e-3)
    changed = np.flatnonzero(np.abs(before - after).max(axis=1) > 1e-4)
    assert 2 * lost - 2 <= changed[0] <= changed[-1] <= 2 * lost + 3


def test_fewer_stages(files, tmp_path):
    outputs = ("--indexout", tmp_path / "x.npy", "--testout", tmp_path / "y.f32")
    options = ("--stages", 1, *outputs, "--noplots")
    assert figures(call(script, files / "n.keras", files / "x.f32", *options))["bits"] == 4
    assert np.load(tmp_path / "x.npy").shape == (101, 1)
    call(
        script, files / "n.keras", "--indexin", tmp_path / "x.npy", "--testout", tmp_path / "z.f32"
    )
    assert (tmp_path / "z.f32").read_bytes() == (tmp_path / "y.f32").read_bytes()


def test_indices_of_another_network_are_refused(files, sent, tmp_path):
    """One of the same sizes, by its fingerprint; a network of other sizes, at once."""
    options = ("--indexin", str(files / "x.npy"), "--testout", str(tmp_path / "z.f32"))
    quantiser = networks.load_quantiser(files / "n.keras")
    others = {"n.keras": quantiser.codebooks + 1, "stages.keras": quantiser.codebooks[:1]}
    for name, codebooks in others.items():
        sizes = {"vq_stages": len(codebooks)}
        parts = quantiser.encoder, quantiser.decoder, codebooks, None
        networks.save_quantiser(*parts, quantiser.options | sizes, tmp_path / name)
    with pytest.raises(FormatError, match=r"x\.npy: indices of another network"):
        call(script, tmp_path / "n.keras", *options)
    with pytest.raises(FormatError, match=r"x\.npy: not indices of this network"):
        script.load(script.parse_args([str(tmp_path / "stages.keras"), *options]))


# ---------------------------------------------------------------- figures


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

    80 ms of search, 20 ms of analysis; the baseline has the same delay, of which 10 ms are its own.
    """
    assert sent["delay of encoder and decoder"] == 30
    assert sent["delay of the search"] == 80
    assert sent["algorithmic delay"] == sent["algorithmic delay of the classical VQ"] == 130
    options = ("--lookahead", 0, "--mbest", 4, "--noplots")
    values = figures(call(script, files / "n.keras", files / "x.f32", *options))
    assert values["algorithmic delay"] == 50
    assert values["file network SD"] > sent["file network SD"]


def test_gain(files, tmp_path):
    """A file of log10(energy), as c2sim wrote it before 2020; the output is in dB all the same."""
    x = codec2_model.read_rate_K(files / "x.f32", 14)[:60]
    found = []
    for gain, divided in ((10, x), (1, x / 10)):
        codec2_model.write_rate_K(divided, tmp_path / "x.f32")
        options = ("--gain", gain, "--testout", tmp_path / "y.f32", "--noplots")
        call(script, files / "n.keras", tmp_path / "x.f32", *options)
        found.append(codec2_model.read_rate_K(tmp_path / "y.f32", 14))
    np.testing.assert_allclose(*found, atol=1e-3)


def test_codebooks(files, tmp_path):
    options = ("--nb_samples", 40, "--vqout", tmp_path / "book", "--noplots")
    printed = call(script, files / "n.keras", files / "x.f32", *options)
    assert "latent hold values of the encoder" in printed
    names = [f"book_{kind}_{i}.f32" for kind in ("classical", "latent") for i in (1, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    quantiser = networks.load_quantiser(files / "n.keras")
    latent = codec2_model.read_floats(tmp_path / "book_latent_2.f32", 16)
    np.testing.assert_array_equal(latent, quantiser.codebooks[1])
    classical = codec2_model.read_floats(tmp_path / "book_classical_1.f32", 14)
    np.testing.assert_array_equal(classical, np.float32(quantiser.baseline["kmeans"])[0])


def test_all_outputs_or_none(files, tmp_path, monkeypatch):
    """A disk that is full when the second file is written: the first one is not changed either."""

    def full(vectors, filename):
        raise OSError(28, "No space left on device")

    (tmp_path / "x.npy").write_bytes(b"old")
    monkeypatch.setattr(codec2_model, "write_rate_K", full)
    outputs = ("--indexout", tmp_path / "x.npy", "--testout", tmp_path / "y.f32")
    with pytest.raises(OSError, match="No space left") as error:
        call(script, files / "n.keras", files / "x.f32", *outputs, "--noplots")
    assert error.value.filename == str(tmp_path / "y.f32")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
    assert (tmp_path / "x.npy").read_bytes() == b"old"


def test_pictures(files, tmp_path):
    options = ("--nb_samples", 110, "--frame", 10, "--plot_dir", tmp_path)
    call(script, files / "n.keras", files / "x.f32", *options)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"vq_out_sd.png", "vq_out_frames_1.png", "vq_out_frames_4.png"} <= names


# ---------------------------------------------------------------- warnings and refusals


def test_another_kind_of_vectors(files, tmp_path, capsys):
    """K = 20 vectors that are taken for K = 14 change from frame to frame as speech does not."""
    codec2_model.write_rate_K(speech_like(140, 20), tmp_path / "x.f32")
    call(script, files / "n.keras", tmp_path / "x.f32", "--noplots")
    assert "another K" in capsys.readouterr().err
    call(script, files / "n.keras", files / "x.f32", "--noplots")
    assert "warning" not in capsys.readouterr().err


def test_quiet_speech(files, tmp_path, capsys):
    codec2_model.write_rate_K(speech_like(100) - 22, tmp_path / "x.f32")
    call(script, files / "n.keras", tmp_path / "x.f32", "--noplots")
    assert "amplify it by" in capsys.readouterr().err


def test_an_old_network_is_refused(files):
    import keras

    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    networks.save(network, {"script": "vq_vae_ratek", "dec": 2}, files / "old.keras")
    with pytest.raises(FormatError, match=r"old\.keras: no quantiser, or an old network"):
        script.load(script.parse_args([str(files / "old.keras"), str(files / "x.f32")]))
