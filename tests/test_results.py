"""doc/results.py and doc/results_train.py: their figures by hand, and what they make of files and of Debian's c2enc."""

import shutil
import sys

import c2sim
import codec2_model

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "doc"))
import demo
import results
import results_train

needs_debian = pytest.mark.skipif(
    not (results.EXAMPLES.is_dir() and shutil.which("c2enc") and shutil.which("c2dec")),
    reason="Debian's codec2 and codec2-examples are not installed",
)


@pytest.fixture
def readme(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "README", tmp_path / "README.md")
    monkeypatch.setattr(results, "EXPERIMENTS", tmp_path / "README.md")
    monkeypatch.setattr(results, "PICTURES", tmp_path)
    marks = [f"<!-- made by {name} -->\nold\n<!-- end -->\n" for name in ("make results", "make results-train")]
    results.README.write_text("before\n" + "between\n".join(marks) + "after\n")
    return results.README


# ---------------------------------------------------------------- by hand


def test_figures():
    lines = (
        "epoch 3/4: loss 0.5, SD train 4.00\ntest classical VQ SD: 7.61 dB²\nalgorithmic delay: 12 frames, and\n4.46\n"
    )
    assert results.figures(lines) == {"test classical VQ SD": 7.61, "algorithmic delay": 12.0}


def test_table():
    assert results.table(("a", "b", "c"), (1100, None, 2.345), ("x", "", 3.0)) == (
        "| a | b | c |\n| --- | --- | --- |\n| 1100 | – | 2.35 |\n| x |  | 3.00 |\n"
    )


def test_700C_vectors_are_those_of_frames_3_7_11_with_lines_between():
    vectors = np.array([[0, 10], [4, 2]])
    expected = [[0, 0, 0, 0, 1, 2, 3, 4, 4], [10, 10, 10, 10, 8, 6, 4, 2, 2]]
    np.testing.assert_allclose(results.interpolate_700C(vectors, 9).T, expected)


def test_only_loud_frames_count_in_sd_and_variance():
    """Errors 2 and 1 in one frame: SD 2.5, variance 0.25.  Errors 3 and 3: SD 9, variance 0.  The others are quiet."""
    x = np.float32([[12, 14], [10, 10], [30, 30], [-150, -150]])
    x_hat = x - np.float32([[2, 1], [50, 0], [3, 3], [70, 80]])
    assert results.sd_and_variance(x, x_hat) == pytest.approx(((2.5 + 9) / 2, 0.25 / 2))


def test_sd_of_harmonics(tmp_path):
    """Harmonics 1 and 2 are 20 and 6.02 dB too low: SD (400 + 36.25) / 2; harmonic 3 is above 3600 Hz."""
    A, A_hat = np.zeros((2, 2, 161), np.float32)
    A[0, 1:4], A_hat[0, 1:4] = (100, 100, 100), (10, 50, 1)
    Wo, L = np.full(2, 2 * np.pi * 1300 / 8000), np.full(2, 3)
    codec2_model.write(Wo, L, A, A, L, tmp_path / "speech.model")
    codec2_model.write_rate_K(np.full((2, 14), [[30], [5]]), tmp_path / "K14.f32")
    sd = demo.harmonic_sd(tmp_path / "speech.model", tmp_path / "K14.f32", A_hat)
    assert sd == pytest.approx((20**2 + (20 * np.log10(2)) ** 2) / 2, rel=1e-3)


def test_gaussian_bound():
    """White vectors of variance 9: D = 9 · 2^(−2 R) for R bits a value, here 2 values every 10 ms."""
    x = np.random.default_rng(1).normal(0, 3, (60000, 2))
    sd = results_train.gaussian_bound(x, [100, 200, 400])
    np.testing.assert_allclose(sd, 9 * 2.0 ** (-2 * np.array([0.5, 1, 2])), rtol=0.03)


def test_gaussian_bound_knows_what_repeats():
    """Vectors that stay the same for 16 frames need a sixteenth of the bits."""
    x = np.random.default_rng(1).normal(0, 3, (6000, 1)).repeat(16, axis=0)[:, [0, 0]]
    shuffled = np.random.default_rng(2).permutation(x)
    assert results_train.gaussian_bound(x, [100])[0] < 0.3 * results_train.gaussian_bound(shuffled, [100])[0]


@pytest.mark.parametrize(("gain", "inside"), [(0.3, True), (-2, True), (0, False)])
def test_correlation_finds_a_recording_inside_another(gain, inside):
    random = np.random.default_rng(1)
    recording, snippet = random.normal(0, 1000, 40000), random.normal(0, 1000, 8000)
    recording[12345:20345] += 0 if not inside else gain * snippet - recording[12345:20345]
    found = results.largest_correlation(snippet, recording)
    assert found == pytest.approx(1, abs=1e-3) if inside else found < 0.1


# ---------------------------------------------------------------- README


def test_readme_changes_only_between_its_marks(readme):
    old = readme.read_text()
    results.write_page(readme, "make results-train", "new\n")
    assert readme.read_text() == old[::-1].replace("dlo", "wen", 1)[::-1]
    results.write_page(readme, "make results", "newer\n")
    assert "before\n<!-- made by make results -->\nnewer\n<!-- end -->\nbetween\n" in readme.read_text()
    readme.write_text("no mark\n")
    with pytest.raises(results.plumbing.FormatError, match="expected a line <!-- made by make results -->"):
        results.write_page(readme, "make results", "lost\n")


def test_marks_are_in_the_pages():
    for name, page in (("make results", ROOT / "README.md"), ("make results-train", ROOT / "doc" / "experiments.md")):
        assert page.read_text().count(f"<!-- made by {name} -->\n") == 1


def test_chain_table(tmp_path, monkeypatch):
    """Quantised vectors that are 1 dB off have SD 1; classical VQ is read from what the quantiser has printed."""
    monkeypatch.setattr(demo, "objective_quality", lambda speech, decoded: (3.0, len(decoded) / len(speech)))
    x = {K: np.full((5, K), 30, np.float32) for K in (14, 20)}
    printed = []
    for name, _, _ in results.VERSIONS:
        demo.write_wav(tmp_path / f"{name}.wav", np.zeros(50))
        if name in ("K14_1100", "K20_1100", "K20_550"):
            (tmp_path / f"{name}.npy").touch()
            codec2_model.write_rate_K(x[int(name[1:3])] + 1, tmp_path / f"{name}.f32")
            if name == "K14_1100":
                codec2_model.write_rate_K(x[14] + 2, tmp_path / "K14_1100_harmonics.f32")
            figures = f"bits: 44 per vector\nbit rate: {name[4:]} bit/s\nfile classical VQ SD: {name[1:3]}.5 dB²"
            printed.append(f"heading\nvq.py --nnin networks/vq_{name}.keras\n{figures}")
    (tmp_path / "figures.txt").write_text("\n\n".join(printed) + "\n\n")
    table = results.chain_table(tmp_path, np.zeros(100), x, {"K14_1100": 11.0}).splitlines()
    assert len(table) == 2 + len(results.VERSIONS) + 3
    assert "| 1100 | `vq_K14_1100.keras` | `bands_Wo.keras` | 1.00 | 11.00 | 3.00 | 0.50 |" in table
    assert "| 1100 | the same, `--harmonics` | `bands_Wo.keras` | 4.00 | – | 3.00 | 0.50 |" in table
    assert "| 550 | `vq_K20_550.keras` | `newamp1.keras` | 1.00 | – | 3.00 | 0.50 |" in table
    assert "| 1100 | classical VQ, K = 14, every 40 ms | – | 14.50 | – | – | – |" in table
    assert "| 550 | classical VQ, K = 20, every 80 ms | – | 20.50 | – | – | – |" in table


# ---------------------------------------------------------------- Debian's speech and c2enc


def test_missing_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "EXAMPLES", tmp_path / "none")
    with pytest.raises(SystemExit, match="apt-get install codec2 codec2-examples"):
        results.main(results.parse_args(["--speech", "speech.wav"]))


def test_an_empty_name_is_not_the_public_speech(monkeypatch):
    """It would replace the tables of the README."""
    monkeypatch.setattr(results, "check_packages", lambda: None)
    monkeypatch.setattr(results, "public_speech", None)
    with pytest.raises(FileNotFoundError):
        results.main(results.parse_args(["--speech", ""]))


@needs_debian
def test_a_test_recording_in_the_training_speech_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "SOUNDS", tmp_path)
    train, test = results.public_speech()
    assert (len(train) // results.FS, len(test) // results.FS) == (186, 30)
    monkeypatch.setattr(results, "TRAIN", (*results.TRAIN, "raw/hts1a.raw"))
    with pytest.raises(SystemExit, match="hts1a is inside a training recording"):
        results.public_speech()


@needs_debian
def test_700C_vectors_are_those_of_c2sim_and_heard_through_c2dec(tmp_path):
    """Record i is frame 4 i + 3; the shapes of 700C's own, given to c2dec, decode to the very same speech."""
    raw = results.EXAMPLES / "raw" / "hts1a.raw"
    shutil.copy(raw, tmp_path / "a.raw")
    c2sim.main(c2sim.parse_args([str(raw), "--rateK", "--rateKout", str(tmp_path / "K20.f32")]))
    x = codec2_model.read_rate_K(tmp_path / "K20.f32", 20)
    vectors, shapes = results.code_700C(tmp_path, "a.raw", len(x))
    sent = codec2_model.read_floats(tmp_path / "700C.f32", codec2_model.MLFEAT)[:, :21]
    np.testing.assert_allclose(sent[:, :1] + sent[:, 1:], x[3::4], atol=0.01)
    np.testing.assert_allclose(shapes.mean(axis=1), 0, atol=1e-3)
    np.testing.assert_allclose(vectors[3::4], sent[:, :1] + shapes, atol=1e-3)
    codec2_model.write_rate_K(shapes, tmp_path / "shapes.f32")
    demo.run(tmp_path, "c2dec", "700C", "700C.bit", "own.raw")
    demo.run(tmp_path, "c2dec", "700C", "700C.bit", "loaded.raw", "--loadratek", "shapes.f32")
    assert (tmp_path / "own.raw").read_bytes() == (tmp_path / "loaded.raw").read_bytes()


def test_700C_on_the_reference_speech(shared):
    """Codec 2's own files: SD 27.0 dB² with the mean as it is before it is quantised, variance 17.1 dB²."""
    x = codec2_model.read_rate_K(shared / "c2sim" / "test_rateK.f32", 20)
    sent = codec2_model.read_floats(shared / "c2enc" / "test_mlfeat.f32", codec2_model.MLFEAT)
    vectors = results.interpolate_700C(sent[:, :1] + sent[:, 21:41], len(x))
    assert results.sd_and_variance(x, vectors) == pytest.approx((27.03, 17.10), abs=0.01)


# ---------------------------------------------------------------- make results-train


def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch, readme):
    """A script that only prints: every command runs once, whoever starts again; then table and pictures are there."""
    started, stop_after = [], 20

    def script(folder, name, *options):
        if len(started) == stop_after:
            raise KeyboardInterrupt
        started.append((name, *options))
        if "--rateKout" in options:
            x = np.random.default_rng(1).normal(40, 10, (500, 20))
            codec2_model.write_rate_K(x, folder / options[options.index("--rateKout") + 1])
        if "--plot_dir" in options:
            (folder / "plots").mkdir()
            for ending in ("gif", "png"):
                (folder / "plots" / f"vq_vae_ratek_conv1d_training.{ending}").touch()
        seed = int(options[options.index("--seed") + 1]) if "--seed" in options else 0
        names = ("network", "interpolation", "conventional", "k-means", "classical VQ")
        lines = [f"test {name} {kind}: {seed + i}" for i, name in enumerate(names) for kind in ("SD", "variance")]
        return "\n".join([*lines, "steps: 10000", f"algorithmic delay: {len(started)} frames, and the search", "1.00"])

    monkeypatch.setattr(results, "check_packages", lambda: None)
    monkeypatch.setattr(results, "script", script)
    monkeypatch.setattr(results, "public_speech", lambda: (np.zeros(8000 * 600, np.int16), np.zeros(8000, np.int16)))
    monkeypatch.setattr(results, "code_700C", lambda folder, raw, n: (np.full((n, 20), 40), None))
    monkeypatch.setattr(results_train, "WORK", tmp_path / "work")
    args = results_train.parse_args(["--seeds", "1", "3"])
    with pytest.raises(KeyboardInterrupt):
        results_train.main(args)
    assert "| `newamp1_train` |" not in readme.read_text()
    stop_after = None
    results_train.main(args)
    assert len(started) == len(set(started)) == 6 + 8 * 2 + 10
    assert "| `newamp1_train` | 10000 | SD | 2.00 | 1.00 | 4.00 | conventional |" in readme.read_text()
    for picture in ("delay", "rate_distortion", "vq_vae_ratek_conv1d_training"):
        assert (tmp_path / f"{picture}.png").exists()
    assert results_train.bit_rate(4, 2) == pytest.approx(550)
    assert [results_train.bit_rate(*pair) for pair in results_train.DELAYS.items()] == pytest.approx([1100] * 4)
