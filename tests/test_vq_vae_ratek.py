"""vq_vae_ratek.py: it starts from k-means; its archive; figures; refusals."""

import numpy as np
import pytest

import codec2_model
import vq_vae_ratek as script
from common import networks, search
from conftest import call, figures, shorten, speech_like

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    shorten(monkeypatch, script)
    monkeypatch.setattr(script, "MEASURED", 60)
    monkeypatch.setattr(script, "PROGRESS", 50)  # no whole vectors of 3 frames


def train(folder, *options):
    """Figures of a short training on speech-like vectors; the network is n.keras in `folder`."""
    codec2_model.write_rate_K(speech_like(601), folder / "x.f32")
    usual = ("--num_embedding", 16, "--epochs", 2, "--nnout", folder / "n.keras", "--noplots")
    return figures(call(script, folder / "x.f32", *usual, *options))


@pytest.mark.parametrize(("dec", "dim", "overlap"), [(1, 14, False), (3, 10, True)])
def test_the_archive_is_what_was_measured(dec, dim, overlap, tmp_path):
    """Decoded by hand: each index is one codeword, which the decoder makes dec frames of."""
    options = ("--dec", dec, "--embedding_dim", dim, *["--overlap"] * overlap)
    values = train(tmp_path, *options)
    assert values["bits"] == 4
    assert values["bit rate"] == pytest.approx(400 / dec, rel=1e-4)
    assert values["delay of encoder and decoder"] == 10 * (dec - 1)
    assert values["epochs"] == values["steps"] == values["trained"] == 2
    assert float(values["last"]) == values["held-out network SD"]

    quantiser = networks.load_quantiser(tmp_path / "n.keras")
    assert quantiser.codebooks.shape == (1, 16, dim)
    assert quantiser.options["steps"] == 2
    held = speech_like(601)[541:]
    coder = search.coder_of(quantiser)
    indices = search.send(coder, held, lookahead_ms=0)
    decoded = quantiser.decoder.predict(quantiser.codebooks[0][indices[:, 0]][None], verbose=0)[0]
    sd = np.mean((held - decoded[: len(held)]) ** 2)
    assert values["held-out network SD"] == pytest.approx(sd, abs=0.006)
    used = 100 * len(np.unique(indices)) / 16
    assert values["held-out codewords of stage 1 in use"] == pytest.approx(used, abs=0.06)


def test_start_is_k_means(tmp_path, monkeypatch):
    """Before it learns, and with as many values as the frames have, it does what k-means does."""
    monkeypatch.setattr(script, "LEARNING_RATE", 1e-12)
    values = train(tmp_path, "--dec", 2)
    for part in ("train", "held-out"):
        kmeans = values[f"{part} k-means SD"]
        assert values[f"{part} network SD"] == pytest.approx(kmeans, rel=0.005)
