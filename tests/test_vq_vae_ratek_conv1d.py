"""vq_vae_ratek_conv1d.py: quantiser, random filters, analysis by synthesis, sender and receiver; the command line."""

import numpy as np
import plumbing
import pytest
import vq_search

import codec2_model
import vq_vae_ratek_conv1d as script
from conftest import assert_refused, figures

keras = script.keras
SMALL = ("--num_embedding", "32", "--epochs", "2", "--embedding_dim", "8", "--noplots")


@pytest.fixture(scope="module", autouse=True)
def small_k_means():
    """k-means of 2000 instead of 60,000 vectors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "KMEANS", 2000)
        yield


def speech_like(n, K=14, seed=0):
    """Random vectors [n][K] in dB with about the level, shape and smoothness of speech."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 3, (n, K)), axis=0)
    return np.float32(40 + 15 * np.sin(walk / 15) - np.arange(K))


def small_network(*options):
    """A network that is not trained, and its args; codewords are random."""
    args = script.parse_args(["x.f32", *SMALL, "--eband_K", "14", *options])
    keras.utils.set_random_seed(1)
    network = script.build_network(np.full(args.eband_K, 35.0), args)
    for weights in network.trainable_weights:  # some are 0 before the training
        weights.assign_add(keras.random.normal(weights.shape, stddev=0.05))
    shape = network.get_layer("quantizer").codebooks.shape
    network.get_layer("quantizer").codebooks.assign(np.random.default_rng(2).normal(0, 0.5, shape))
    return network, args


# ---------------------------------------------------------------- quantiser


def quantizer_of(codebooks, **options):
    codebooks = np.float32(codebooks)
    stages, M, dim = codebooks.shape
    layer = script.VectorQuantizer(M, dim, stages, **options)
    layer.codebooks.assign(codebooks)
    return layer


def test_hand_worked_value():
    layer = quantizer_of([[[0, 0], [1, 0]]], m_best=1)
    x_q = layer(np.float32([[0.9, 0]]))
    np.testing.assert_array_equal(x_q, [[1, 0]])
    assert float(layer.losses[0]) == pytest.approx(0.00125)


@pytest.mark.parametrize(("N", "k"), [(8192, 4), (96, 12), (50, 60), (7, 3), (64, 1)])
def test_largest(N, k):
    scores = np.random.default_rng(N).normal(size=(20, N)).astype(np.float32)
    np.testing.assert_array_equal(vq_search.largest(scores, k), np.argsort(-scores, axis=1)[:, :k])


def test_greedy_search_misses_what_m_best_finds():
    """x = 0.6: greedy takes 1, then at best −0.1 is left; 0 and 0.6 is exact."""
    layer = quantizer_of([[[0], [1]], [[0.6], [-0.3]]])
    assert np.array(layer.search(np.float32([[0.6]]), 1)).tolist() == [[[1, 1]]]
    assert np.array(layer.search(np.float32([[0.6]]), 2)).tolist() == [[[0, 0]]]


def test_candidates_are_the_nearest_sums_in_order():
    rng = np.random.default_rng(0)
    books = rng.normal(size=(2, 8, 3)).astype(np.float32)
    x = rng.normal(size=(20, 3)).astype(np.float32)
    indices = np.array(quantizer_of(books).search(x, 8, 5))
    sums = (books[0][:, None] + books[1]).reshape(-1, 3)  # m_best = M: a full search
    order = np.argsort(np.sum((x[:, None] - sums) ** 2, axis=2), axis=1)[:, :5]
    np.testing.assert_array_equal(indices[..., 0] * 8 + indices[..., 1], order)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_m_best_is_never_worse_than_greedy(stages):
    rng = np.random.default_rng(1)
    layer = quantizer_of(rng.normal(size=(stages, 16, 4)) * 0.5 ** np.arange(stages)[:, None, None])
    x = rng.normal(size=(500, 4)).astype(np.float32)
    error = {
        m: np.mean((x - np.array(layer.decode(layer.search(x, m)[:, 0]))) ** 2) for m in (1, 16)
    }
    assert error[16] < error[1] or (stages == 1 and error[16] == error[1])


def test_straight_through():
    """The gradient of the output goes to the input unchanged; that of the commitment loss is 2 beta (x − x_q) / dim."""
    layer = quantizer_of([[[0.0, 0.0], [1.0, 0.0]]])
    inputs = keras.Input((2,))
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="identity"), layer]
    )
    model.compile(keras.optimizers.SGD(1.0), "mse")
    x, target = np.float32([[0.9, 0.0]]), np.float32([[0.0, 0.0]])
    before = model.layers[0].get_weights()[1]
    model.fit(x, target, verbose=0)
    through, commitment = (
        np.array([1.0, 0.0]),
        0.25 * np.array([-0.1, 0.0]),
    )  # 2 (x_q − target) / 2, and so on
    np.testing.assert_allclose(
        before - model.layers[0].get_weights()[1], through + commitment, atol=1e-6
    )
    assert inputs.shape == (None, 2)


def test_ema_moves_codewords_to_the_mean_of_their_vectors():
    layer = quantizer_of([[[0.0], [10.0]]], decay=0.9)
    x = np.float32([[1.0], [1.0], [9.0], [8.0]])
    for _ in range(60):
        layer(x, training=True)
    np.testing.assert_allclose(np.array(layer.codebooks)[0, :, 0], [1, 8.5], atol=0.05)


def test_unused_codewords_restart():
    layer = quantizer_of([[[0.0], [1000.0]]], decay=0.5)
    x = np.float32([[1.0], [3.0]])
    for _ in range(20):
        layer(x, training=True)
    np.testing.assert_allclose(np.sort(np.array(layer.codebooks)[0, :, 0]), [1, 3], atol=0.1)


# ---------------------------------------------------------------- sender and receiver


@pytest.mark.parametrize(("blocks", "delay"), [("0", 12), ("1", 18)])
def test_reach(blocks, delay):
    """Other frames do not move a vector, and other vectors do not move a frame; the farthest ones do.

    A residual block looks a vector ahead in the encoder, and with the layer before it two in the decoder.
    """
    network, args = small_network("--blocks", blocks)
    seen, changed = vq_search.reaches(network, args)
    assert seen[1] - changed[0] == delay  # frames
    x, z = speech_like(200), np.random.default_rng(3).normal(size=(100, 8)).astype(np.float32)
    z_e, x_hat = vq_search.code(network, x, 0, args)[0], vq_search.decode(network, z)
    for frame in range(94, 108):
        other = x.copy()
        other[frame] += 10
        moved = np.flatnonzero(
            np.abs(vq_search.code(network, other, 0, args)[0] - z_e).max(axis=1) > 1e-5
        )
        assert all(2 * v + seen[0] <= frame <= 2 * v + seen[1] for v in moved)
    other = z.copy()
    other[50] += 1
    moved = np.flatnonzero(np.abs(vq_search.decode(network, other) - x_hat).max(axis=1) > 1e-5)
    assert (moved[0], moved[-1]) == (100 + changed[0], 100 + changed[1])


@pytest.mark.parametrize("dec", [1, 2, 4, 8])
def test_analysis_by_synthesis_is_never_worse(dec):
    """In total, and without sweeps the same as the m-best search; the indices decode to the output."""
    network, args = small_network("--dec", str(dec))
    x = speech_like(203)
    sd = []
    for sweeps in (0, 1, 2, 3):
        _, indices, x_hat = vq_search.code(network, x, sweeps, args)
        assert indices.shape == (-(-203 // dec), 2)
        assert x_hat.shape == x.shape
        z_q = np.array(network.get_layer("quantizer").decode(indices))
        np.testing.assert_array_equal(vq_search.decode(network, z_q)[:203], x_hat)
        sd.append(np.mean((x - x_hat) ** 2))
    assert sd[1] < 0.999 * sd[0]
    assert sd[0] >= sd[1] * (1 - 1e-6) >= sd[2] * (1 - 2e-6) >= sd[3] * (1 - 3e-6)


def test_choose_by_hand():
    """Vectors that are their frame: each takes its nearest candidate; frames that do not count choose the first."""
    x = np.float32([[0.0], [5.0], [9.0], [7.0]])
    z = np.float32([[[1], [0]], [[4], [5]], [[9], [8]], [[1], [7]]])
    counted = np.array([True, True, True, False])
    chosen = vq_search.choose(z, lambda z: (x - z)[:, 0] ** 2 * counted, (0, 0), 1, 1)
    assert chosen.tolist() == [1, 1, 0, 0]


def test_choose_agrees_with_trying_everything():
    """Four vectors, overlapping decoder: after sweeps no change of one vector alone is better."""
    network, args = small_network()
    x = speech_like(8)
    z = np.random.default_rng(4).normal(size=(4, 3, 8)).astype(np.float32)
    _, reach = vq_search.reaches(network, args)
    chosen = vq_search.choose(
        z, lambda z: np.mean((x - vq_search.decode(network, z)) ** 2, axis=1), reach, 5, 2
    )

    def error(numbers):
        return np.sum((x - vq_search.decode(network, z[np.arange(4), numbers])) ** 2)

    for v in range(4):
        for candidate in range(3):
            other = chosen.copy()
            other[v] = candidate
            assert error(other) >= error(chosen) * (1 - 1e-6)


def harmonics_of(x):
    """A pair for vectors x [n][14]: random targets in 8 bins, some of them missing, and an untrained decoder."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((14,))
    decoder = keras.Model([inputs, keras.Input((1,))], keras.layers.Dense(8)(inputs))
    target = np.random.default_rng(6).normal(0, 10, (len(x), 8)).astype(np.float16)
    target[::2, 3] = np.nan
    target[7] = np.nan  # silence
    return {
        "vectors": x,
        "target": target,
        "Wo": np.full(len(x), 0.1, np.float32),
        "decoder": decoder,
    }


def test_harmonic_error():
    """The mean over the harmonics that there are; 0 for a frame without any."""
    x = speech_like(20)
    pair = harmonics_of(x)
    error = pair["target"] - np.array(pair["decoder"]([x, pair["Wo"][:, None]]))
    expected = [np.nanmean(error[f] ** 2) if f != 7 else 0 for f in range(20)]
    np.testing.assert_allclose(vq_search.harmonic_error(x, pair), expected, rtol=1e-4)


def test_sparse_error_by_hand():
    """Frames with errors 2 and 1, and 3, and none at all."""
    nan = np.nan
    target = np.float32([[[3, nan, 5], [nan, 0, nan], [nan, nan, nan]]])
    estimate = np.float32([[[1, 7, 4], [9, 3, 9], [1, 2, 3]]])
    np.testing.assert_allclose(vq_search.sparse_error(target, estimate), [[2.5, 9, 0]])


def test_refined_vectors_make_better_harmonics():
    """Before they are quantised; the network and the decoder stay as they are."""
    network, args = small_network()
    x = speech_like(201)
    pair = harmonics_of(x)
    before = [np.array(w) for w in (*network.get_weights(), *pair["decoder"].get_weights())]
    z_e = vq_search.code(network, x, 0, args)[0]
    z = vq_search.refine(z_e, network, pair)
    sd = [
        vq_search.harmonic_error(vq_search.decode(network, vectors)[:201], pair).mean()
        for vectors in (z_e, z)
    ]
    assert sd[1] < 0.98 * sd[0]
    for weights, now in zip(
        before, (*network.get_weights(), *pair["decoder"].get_weights()), strict=True
    ):
        np.testing.assert_array_equal(weights, now)


def test_decoder_that_does_not_fit(tmp_path):
    """Its options may tell what they like: vectors of 20 values, or spectra of 9 bins, are not those of the pair."""
    pair = harmonics_of(speech_like(20))
    for sizes in ((20, 8), (14, 9)):
        network = keras.Sequential([keras.Input(sizes[:1]), keras.layers.Dense(sizes[1])])
        plumbing.save_network(network, {}, tmp_path / "n.keras")
        with pytest.raises(plumbing.FormatError, match=r"n\.keras.*options"):
            vq_search.load_decoder(tmp_path / "n.keras", pair)


def test_search_for_harmonics():
    """It lowers the error of the harmonics, with every sweep, for a larger error of the vectors."""
    network, args = small_network()
    x = speech_like(200)
    pair = harmonics_of(x)
    of_vectors = vq_search.code(network, x, 2, args)[2]
    of_harmonics = [vq_search.code(network, x, sweeps, args, pair)[2] for sweeps in (1, 2)]
    sd = [vq_search.harmonic_error(x_hat, pair).mean() for x_hat in (of_vectors, *of_harmonics)]
    assert sd[0] > 1.001 * sd[1] >= sd[2] * (1 - 1e-6)
    assert np.mean((x - of_harmonics[1]) ** 2) > np.mean((x - of_vectors) ** 2)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_short_files(n):
    network, args = small_network("--dec", "4")
    _, indices, x_hat = vq_search.code(network, speech_like(n), 2, args)
    assert indices.shape == (-(-n // 4), 2)
    assert x_hat.shape == (n, 14)
    assert np.isfinite(x_hat).all()


def test_silence_does_not_choose():
    """Frames at −150 dB are coded, but do not change what is chosen for the speech far from them."""
    network, args = small_network()
    x = np.concatenate([speech_like(100), np.full((100, 14), -150, np.float32)])
    counted = codec2_model.is_counted(x, args.lower)
    assert counted.sum() == 100
    _, indices, x_hat = vq_search.code(network, x, 2, args)
    assert np.isfinite(x_hat).all()
    far = vq_search.code(network, x[:100], 2, args)[1]
    np.testing.assert_array_equal(indices[:30], far[:30])


def test_classical_interpolation():
    """Frames that are not sent lie on straight lines; those after the last repeat it."""
    args = script.parse_args(
        ["x.f32", *SMALL, "--eband_K", "14", "--vq_stages", "1", "--num_embedding", "16"]
    )
    codebook = np.repeat(np.arange(16, dtype=np.float32)[:, None], 14, axis=1) * 10
    x = np.repeat(np.float32([0, 99, 20, 99, 80, 99])[:, None], 14, axis=1)
    x_hat = vq_search.code_classically(quantizer_of(codebook[None]), x, 0, args)
    np.testing.assert_allclose(x_hat[:, 3], [0, 10, 20, 50, 80, 80])


def test_classical_search_is_never_worse():
    args = script.parse_args(["x.f32", *SMALL, "--eband_K", "14"])
    quantizer = quantizer_of(
        script.kmeans_codebooks(speech_like(500), 5, args, np.random.default_rng(1))
    )
    x = speech_like(300, seed=1)
    plain, refined = (
        np.mean((x - vq_search.code_classically(quantizer, x, sweeps, args)) ** 2)
        for sweeps in (0, 2)
    )
    assert refined < plain


# ---------------------------------------------------------------- random filters


def test_filter_statistics():
    """Gain and smooth response as the constants say, the same for all frames of a chunk; so are cutoffs."""
    x = np.full((20000, 2, 14), 60, np.float32)
    response = script.random_filter(x, 0.3, np.random.default_rng(1)) - 60
    np.testing.assert_array_equal(response[:, 0], response[:, 1])
    response = response[:, 0]
    middle = response[:, 5:9]  # 1 to 1.6 kHz: no cutoff reaches there
    assert np.abs(middle.mean()) < 0.1
    np.testing.assert_allclose(middle.var(), script.GAIN_DB**2 / 3 + script.FILTER_DB**2, rtol=0.15)
    steep = response[:, 0] < middle.mean(axis=1) - 25
    assert 0.03 < steep.mean() < 0.3


def test_filter_floor():
    x = np.full((100, 2, 20), -150, np.float32)
    assert (script.random_filter(x, 0.3, np.random.default_rng(1)) == vq_search.FLOOR_DB).all()


def test_speech_that_is_nowhere_dense():
    """Every tenth frame is loud, so that no chunk has half of them."""
    x = np.where(np.arange(1000)[:, None] % 10 == 5, 50, np.zeros((1000, 14), np.float32))
    _, args = small_network()
    chunks, weights = script.random_chunks(x, 20, args, np.random.default_rng(1))
    assert chunks.shape == (20, script.CHUNK, 14)
    np.testing.assert_array_equal(weights.sum(axis=1), 4)  # the most that 32 frames can have


# ---------------------------------------------------------------- training and the command line


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """Folder with what a short training on real vectors and digital silence writes; args, and what it prints."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("trained")
    bands = codec2_model.read_rate_K(sample[0], 14)
    silence = np.full((301, 14), -150, np.float32)
    bands = np.concatenate([bands[:700], silence, bands[700:]])
    bands = bands[
        : len(bands) - 1 + len(bands) % 2
    ]  # an odd number: the last vector stands for one frame
    codec2_model.write_rate_K(bands, folder / "bands.f32")
    names = {name: f"{folder}/n.{name}" for name in ("keras", "f32", "npy")}
    files = (
        "--nnout",
        names["keras"],
        "--testout",
        names["f32"],
        "--indexout",
        names["npy"],
        "--vqout",
        f"{folder}/n",
    )
    options = (*SMALL[:-1], "--plot_dir", f"{folder}/plots", "--test", f"{folder}/bands.f32")
    args = script.parse_args([f"{folder}/bands.f32", "--nb_samples", "2001", *options, *files])
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        script.main(args, script.load(args))
    return folder, stdout.getvalue()


def test_figures(trained):
    folder, stdout = trained
    values = figures(stdout)
    assert (values["bits"], values["bit rate"]) == (10, 500)  # two stages of 5 bits every 20 ms
    assert (values["epochs"], values["steps"]) == (2, 4)  # 1801 frames, 1024 a step
    assert values["algorithmic delay"] == 12
    assert float(stdout.splitlines()[-1]) == values["test network SD"]
    x = codec2_model.read_rate_K(folder / "bands.f32", 14)
    x_hat = codec2_model.read_rate_K(folder / "n.f32", 14)
    counted = x.mean(axis=1) > 10
    assert x.shape == x_hat.shape
    assert values["test frames"] == counted.sum() == len(x) - 301
    error = (x - x_hat)[counted]
    assert values["test network SD"] == pytest.approx(np.mean(error**2), abs=0.006)
    assert values["test network variance"] == pytest.approx(
        np.mean(np.var(error, axis=1)), abs=0.006
    )
    indices = np.load(folder / "n.npy")
    assert (indices.shape, indices.dtype) == ((-(-len(x) // 2), 2), np.int32)
    for stage in (0, 1):
        share = 100 * len(np.unique(indices[:, stage])) / 32
        assert values[f"test codewords of stage {stage + 1} in use"] == pytest.approx(
            share, abs=0.06
        )
    assert values["test network SD"] < 0.6 * np.mean((x - x[counted].mean(axis=0))[counted] ** 2)
    assert values["test classical VQ SD"] < 0.6 * np.mean(
        (x - x[counted].mean(axis=0))[counted] ** 2
    )


def test_plots(trained):
    folder, _ = trained
    names = {"training.gif", "training.png", "sd.png", "frames_1.png"}
    assert {path.name for path in (folder / "plots").iterdir()} == {
        f"vq_vae_ratek_conv1d_{name}" for name in names
    }


def test_receiver(trained, run, tmp_path):
    """Indices and network give the sender's output, byte for byte, with another number of threads."""
    folder, _ = trained
    command = (
        "--nnin",
        folder / "n.keras",
        "--indexin",
        folder / "n.npy",
        "--testout",
        "received.f32",
    )
    result = run(
        "vq_vae_ratek_conv1d.py",
        *command,
        env={"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "received.f32").read_bytes() == (folder / "n.f32").read_bytes()


def test_sender_without_training(trained, tmp_path, capsys):
    """K, dec, stages and M come from the network; the codebooks in the files are those of the network."""
    folder, stdout = trained
    files = (
        "--testout",
        f"{tmp_path}/again.f32",
        "--indexout",
        f"{tmp_path}/again.npy",
        "--vqout",
        f"{tmp_path}/n",
    )
    args = script.parse_args(
        [f"{folder}/bands.f32", "--nnin", f"{folder}/n.keras", "--noplots", *files]
    )
    script.main(args, script.load(args))
    assert (tmp_path / "again.f32").read_bytes() == (folder / "n.f32").read_bytes()
    assert (tmp_path / "again.npy").read_bytes() == (folder / "n.npy").read_bytes()
    assert figures(capsys.readouterr().out)["file network SD"] == figures(stdout)["test network SD"]
    books = [codec2_model.read_floats(tmp_path / f"n_{stage}.f32", 8) for stage in (1, 2)]
    network = plumbing.load_network(folder / "n.keras")
    np.testing.assert_array_equal(books, network.get_layer("quantizer").codebooks)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("stages", "seeds"), [(1, "1"), (3, "112")])
def test_other_stages_and_vectors(stages, seeds, tmp_path, capsys):
    """K = 20, any number of stages, one epoch; the same seed gives the same bits, another seed others."""
    codec2_model.write_rate_K(speech_like(400, 20), tmp_path / "x.f32")
    networks = []
    for seed in seeds:
        files = ("--nnout", f"{tmp_path}/n.keras", "--vqout", f"{tmp_path}/n", "--seed", seed)
        blocks = ("--blocks", "1") if stages == 1 else ()
        options = (
            "--eband_K",
            "20",
            "--vq_stages",
            str(stages),
            *SMALL,
            *blocks,
            "--epochs",
            "1",
            "--sweeps",
            "1",
        )
        args = script.parse_args([f"{tmp_path}/x.f32", *options, *files])
        script.main(args, script.load(args))
        networks.append([(tmp_path / f"n_{stage + 1}.f32").read_bytes() for stage in range(stages)])
    assert [network == networks[0] for network in networks] == [seed == "1" for seed in seeds]
    assert not (tmp_path / f"n_{stages + 1}.f32").exists()
    assert figures(capsys.readouterr().out)["bit rate"] == 250 * stages


@pytest.mark.parametrize(
    "lie",
    [{"dec": 4}, {"vq_stages": 1}, {"num_embedding": 16}, {"embedding_dim": 4}, {"eband_K": 20}],
)
def test_network_that_is_not_what_its_options_tell(lie, tmp_path):
    network, args = small_network()
    plumbing.save_network(network, {}, tmp_path / "n.keras")
    vq_search.load_network(tmp_path / "n.keras", args)
    vars(args).update(lie)
    with pytest.raises(plumbing.FormatError, match=r"n\.keras: its layers"):
        vq_search.load_network(tmp_path / "n.keras", args)


def test_refusals(trained, run, tmp_path):
    folder, _ = trained
    net, bands = folder / "n.keras", folder / "bands.f32"
    np.save(tmp_path / "alone.npy", np.zeros((4, 2), np.int32))  # no number of frames
    codec2_model.write_indices(np.full((4, 2), 32), 8, tmp_path / "large.npy")
    codec2_model.write_indices(np.zeros((4, 2)), 9, tmp_path / "long.npy")
    codec2_model.write_rate_K(np.full((200, 14), -150), tmp_path / "silent.f32")
    out = ("--testout", tmp_path / "out.f32")
    for name in ("alone", "large", "long"):
        args = script.parse_args(
            list(map(str, ("--nnin", net, "--indexin", tmp_path / f"{name}.npy", *out)))
        )
        with pytest.raises(plumbing.FormatError, match=f"{name}.npy"):
            script.load(args)
    for arguments, words in (
        ((tmp_path / "silent.f32",), "silent.f32.*10 dB"),
        ((bands, "--nnin", net, "--eband_K", "20"), "eband_K 14"),
        ((bands, "--num_embedding", "2048", "--nb_samples", "1000"), "bands.f32.*4096"),
        ((bands, "--nnin", net, "--testout", bands), "an input, too"),
    ):
        args = script.parse_args(list(map(str, arguments)))
        with pytest.raises(plumbing.FormatError, match=words):
            script.load(args)
    assert_refused(run("vq_vae_ratek_conv1d.py", "--nnin", net), "FEATURES", status=2)
    assert not (tmp_path / "out.f32").exists()
