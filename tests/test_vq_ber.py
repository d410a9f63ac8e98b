"""vq_ber.py: numbering of codewords by hand and by cost; bit errors; only a permutation; the command line."""

import subprocess
import sys

import codec2_model
import plumbing
import vq_ber as script
import vq_search
import vq_vae_ratek_conv1d as coder

import numpy as np
import pytest
from conftest import ROOT, assert_refused, figures

K, M, STAGES = 14, 16, 2


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
    """A network whose codewords are random, vectors to code, and the args of the quantiser's script."""
    folder = tmp_path_factory.mktemp("ber")
    rng = np.random.default_rng(1)
    x = np.float32(40 + 10 * np.sin(np.cumsum(rng.normal(0, 0.2, (400, K)), axis=0)))
    codec2_model.write_rate_K(x, folder / "x.f32")
    args = coder.parse_args([f"{folder}/x.f32", "--num_embedding", f"{M}", "--eband_K", f"{K}"])
    coder.keras.utils.set_random_seed(1)
    network = coder.build_network(x.mean(axis=0), args)
    z_e = vq_search.code(network, x, 0, args)[0]
    network.get_layer("quantizer").codebooks.assign(coder.kmeans_codebooks(z_e, 3, args, rng))
    classical = coder.kmeans_codebooks(x, 3, args, rng)
    options = {**vars(args), "script": coder.NAME}
    plumbing.save_network(network, options, folder / "n.keras", classical=np.float16(classical))
    return folder, x, args


def test_four_codewords_on_a_line():
    """Numbers 00 01 11 10 differ in one bit: codewords 0 1 3 2 in this order cost 1 + 4 + 1 + 4, 0 1 2 3 cost 12."""
    codebook, use = np.float32([[3], [1], [0], [2]]), np.full(4, 0.25)
    codeword = script.renumber(codebook, use)
    assert cost(codebook, codeword, use) == pytest.approx(2 * 10 * 0.25)


def test_a_square_gets_the_numbers_of_its_sides():
    """Corners of a square: the two bits are the two coordinates, and no wrong bit crosses the diagonal."""
    codebook = np.float32([[0, 0], [1, 1], [0, 1], [1, 0]])
    codeword = script.renumber(codebook, np.full(4, 0.25))
    assert cost(codebook, codeword, np.full(4, 0.25)) == pytest.approx(2)  # 4 numbers, 2 bits, 0.25 · 1 each


def test_codewords_far_from_the_origin():
    """Their distances are small differences of large numbers; in float32 pairs swapped for ever: hence a process.

    vq_search, which imports Keras first there, leaves no lines of TensorFlow on stderr.
    """
    code = """
import numpy as np, vq_ber
codebook, use = np.float32(np.random.default_rng(0).normal(0, 1, (64, 8)) + 1e4), np.full(64, 1 / 64)
np.testing.assert_array_equal(vq_ber.renumber(codebook, use), vq_ber.renumber(np.float64(codebook) - 1e4, use))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


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


def test_flipped_bits():
    rng = np.random.default_rng(3)
    indices = rng.integers(0, 256, (20000, 2))
    np.testing.assert_array_equal(script.flip_bits(indices, 256, np.zeros(2), rng), indices)
    wrong = script.flip_bits(indices, 256, np.array([0, 10]), rng) ^ indices
    assert (wrong[:, 0] == 0).all()
    for bit in range(8):
        assert np.mean(wrong[:, 1] >> bit & 1) == pytest.approx(0.1, abs=0.01)
    assert wrong.max() < 256


def test_only_a_permutation(files):
    """The renumbered network decodes the renumbered indices to the very same frames."""
    folder, x, args = files
    network = plumbing.load_network(folder / "n.keras")
    quantizer = network.get_layer("quantizer")
    _, indices, before = vq_search.code(network, x, 1, args)
    renumbered = script.renumber_network(network, indices)
    assert (renumbered != indices).any()
    after = vq_search.decode(network, np.asarray(quantizer.decode(renumbered)))
    np.testing.assert_array_equal(after, before)
    np.testing.assert_allclose(vq_search.code(network, x, 1, args)[2], before, atol=1e-4)  # found again by the search


def test_command_line(files, tmp_path, capsys):
    folder, _, _ = files
    command = [f"{folder}/n.keras", f"{folder}/x.f32", "--ber", "0", "1", "10", "--plot_dir", f"{tmp_path}"]
    args = script.parse_args([*command, "--nnout", f"{tmp_path}/n2.keras"])
    script.main(args, script.load(args))
    stdout = capsys.readouterr().out
    values = figures(stdout)
    assert values["as numbered SD at 0 %"] == values["renumbered SD at 0 %"] == values["without bit errors SD"]
    assert values["without bit errors SD"] < values["renumbered SD at 1 %"] < values["renumbered SD at 10 %"]
    assert values["renumbered SD at 10 %"] < values["as numbered SD at 10 %"]
    assert float(stdout.splitlines()[-1]) == values["renumbered SD at 10 %"]
    assert (tmp_path / "vq_ber.png").exists()
    args = coder.parse_args([f"{folder}/x.f32", "--nnin", f"{tmp_path}/n2.keras", "--noplots"])
    coder.main(args, coder.load(args))
    assert figures(capsys.readouterr().out)["file network SD"] == pytest.approx(
        values["without bit errors SD"], abs=0.011
    )


def test_refusals(files, run):
    folder, _, _ = files
    args = script.parse_args([f"{folder}/n.keras", f"{folder}/x.f32", "--nnout", f"{folder}/n.keras"])
    with pytest.raises(plumbing.FormatError, match="an input, too"):
        script.load(args)
    assert_refused(run("vq_ber.py", folder / "x.f32", folder / "x.f32"), "x.f32", "network")
    assert_refused(run("vq_ber.py", folder / "n.keras", folder / "x.f32", "--ber", 60), "--ber", status=2)
