"""vq_ber.py: numbers of codewords by hand and by cost; errors; a permutation and nothing else."""

import numpy as np
import pytest

import codec2_model
import vq_ber as script
from common import networks, search
from common.plumbing import FormatError
from conftest import call, figures, speech_like, write_quantiser

pytestmark = pytest.mark.usefixtures("eager")


def cost(codebook, codeword, use):
    """Expected squared error of one wrong bit, summed over numbers and bits."""
    total = 0
    for number in range(len(codebook)):
        for bit in range(len(codebook).bit_length() - 1):
            error = codebook[codeword[number]] - codebook[codeword[number ^ (1 << bit)]]
            total += use[codeword[number]] * np.sum(error**2)
    return total


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with an untrained quantiser n.keras, and 200 vectors x.f32."""
    folder = tmp_path_factory.mktemp("ber")
    write_quantiser(folder / "n.keras", M=64)
    codec2_model.write_rate_K(speech_like(200), folder / "x.f32")
    return folder


def test_four_codewords_on_a_line():
    """Numbers 00 01 11 10 differ in one bit: codewords 0 1 3 2 in this order cost 1 + 4 + 1 + 4,
    0 1 2 3 cost 12.
    """
    codebook, use = np.float32([[3], [1], [0], [2]]), np.full(4, 0.25)
    codeword = script.renumber(codebook, use)
    assert cost(codebook, codeword, use) == pytest.approx(2 * 10 * 0.25)


def test_no_single_swap_is_better():
    rng = np.random.default_rng(2)
    codebook, use = rng.normal(size=(16, 3)), rng.uniform(0.1, 1, 16)
    codeword = script.renumber(codebook, use)
    assert sorted(codeword) == list(range(16))
    best = cost(codebook, codeword, use)
    assert best < 0.8 * cost(codebook, np.arange(16), use)
    for a in range(16):
        for b in range(a):
            swapped = codeword.copy()
            swapped[[a, b]] = swapped[[b, a]]
            assert cost(codebook, swapped, use) >= best * (1 - 1e-4)


@pytest.fixture(scope="module")
def printed(files):
    """What the command prints that writes n2.keras and a picture."""
    options = ("--ber", 1, 10, "--plot_dir", files / "plots", "--nnout", files / "n2.keras")
    return figures(call(script, files / "n.keras", files / "x.f32", *options))


def test_figures(files, printed):
    without, lost = printed["without errors SD"], printed["5 % lost SD"]
    assert without != lost
    for name in ("at random", "as numbered", "renumbered"):
        assert without < printed[f"{name} SD at 1 %"] < printed[f"{name} SD at 10 %"]
    assert printed["renumbered SD at 10 %"] < 0.9 * printed["at random SD at 10 %"]
    assert printed["last"] == printed["renumbered SD at 1 %"]
    assert (files / "plots" / "vq_ber.png").exists()


def test_only_a_permutation(files, printed):
    """The renumbered network has the same codewords, and makes the same of the same speech."""
    old, new = (networks.load_quantiser(files / name) for name in ("n.keras", "n2.keras"))
    for one, other in zip(old.codebooks, new.codebooks, strict=True):
        assert (one != other).any()
        np.testing.assert_array_equal(one[np.lexsort(one.T)], other[np.lexsort(other.T)])
    assert old.options == new.options
    assert old.baseline.keys() == new.baseline.keys()
    assert old.fingerprint != new.fingerprint
    x, decoded = codec2_model.read_rate_K(files / "x.f32", 14), []
    for quantiser in (old, new):
        coder = search.coder_of(quantiser)
        decoded.append(search.receive(coder, search.send(coder, x), len(x)))
    assert np.mean(np.abs(decoded[0] - decoded[1]).max(axis=1) > 1e-3) < 0.02


def test_refusals(files, tmp_path):
    write_quantiser(tmp_path / "n.keras", M=15)
    with pytest.raises(FormatError, match=r"n\.keras: 15 codewords, expected a power of 2"):
        script.load(script.parse_args([str(tmp_path / "n.keras"), str(files / "x.f32")]))
