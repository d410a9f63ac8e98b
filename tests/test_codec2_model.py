"""Model records, rate K files, indices: nothing is lost, nothing bad is let through."""

import numpy as np
import pytest

import codec2_model
from codec2_model import RECORD
from common import spectra
from common.plumbing import FormatError
from conftest import call, records

PNG = b"\x89PNG\r\n\x1a\n"


def test_record_is_1300_bytes_in_the_order_of_codec2(tmp_path):
    frames = np.zeros(2, RECORD)
    frames[1] = (0.5, 6, np.arange(161), -np.arange(161), 1)
    words = np.frombuffer(frames.tobytes(), "<f4").reshape(2, 325)
    assert RECORD.itemsize == 1300
    assert words[1, 0] == 0.5
    assert words[1, 1:2].view("<i4") == 6
    np.testing.assert_array_equal(words[1, 2:163], np.arange(161))
    np.testing.assert_array_equal(words[1, 163:324], -np.arange(161))
    assert words[1, 324:].view("<i4") == 1


def test_write_gives_back_the_bytes_that_were_read(tmp_path, monkeypatch):
    """Entry 0, entries above L and flags hold random bits here, NaN and infinity among them."""
    rng = np.random.default_rng(1)
    frames = np.frombuffer(rng.bytes(500 * RECORD.itemsize), RECORD).copy()
    frames["Wo"] = rng.uniform(0, np.pi, 500)
    frames["L"] = rng.integers(0, 161, 500)
    harmonic = spectra.harmonic_mask(frames["L"])
    frames["A"][harmonic] = rng.uniform(0, 30000, harmonic.sum())
    frames["A"][5, 1:] = frames["Wo"][6] = frames["L"][6] = 0  # silence
    source, copy = tmp_path / "source.model", tmp_path / "copy.model"
    frames["phi"][harmonic] = rng.uniform(-30, 30, harmonic.sum())
    source.write_bytes(frames.tobytes())
    monkeypatch.setattr(codec2_model, "AT_ONCE", 7)  # 500 is not a multiple of it
    Wo, L, A, phi, voiced = codec2_model.read(source)
    codec2_model.write(Wo, L, A, phi, voiced, copy)
    assert copy.read_bytes() == source.read_bytes()
    np.testing.assert_array_equal(codec2_model.read(source, 9)[1], L[:9])
    np.testing.assert_array_equal(codec2_model.read_frames(source, [9, 3])["L"], L[[9, 3]])


def changed(frame, name, value, m=...):
    """Three frames, one of them changed in one value."""
    frames = records(3)
    frames[name][frame, m] = value
    return frames


def test_write_refuses_what_read_would_refuse(tmp_path):
    (tmp_path / "x.model").write_text("a good file")
    frames = changed(1, "phi", np.inf, m=3)
    with pytest.raises(FormatError, match=r"x\.model: frame 1: phi"):
        codec2_model.write(*(frames[name] for name in RECORD.names), tmp_path / "x.model")
    assert (tmp_path / "x.model").read_text() == "a good file"


BAD_MODELS = {
    "empty": (b"", "empty, expected 1300 byte model records"),
    "truncated": (records(2).tobytes()[:-1], "2599 bytes"),
    "text": ((b"Some text, as long as three model records are.\n" * 83)[:3900], "not a model file"),
    "L 161": (changed(2, "L", 161), "frame 2: L = 161"),
    "Wo NaN": (changed(1, "Wo", np.nan), "frame 1: Wo = nan"),
    "A NaN": (changed(1, "A", np.nan, m=1), "frame 1: A[1] = nan"),
    "A negative": (changed(2, "A", -1, m=20), "frame 2: A[20] = -1"),
    "A loud": (changed(0, "A", 1.1e6, m=1), "frame 0: A[1] = 1.1e+06, expected 0 to 1e+06"),
    "phi NaN": (changed(1, "phi", np.nan, m=39), "frame 1: phi[39] = nan, expected a finite phase"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_model_is_refused(tmp_path, monkeypatch, kind):
    content, what = BAD_MODELS[kind]
    monkeypatch.setattr(codec2_model, "AT_ONCE", 2)  # frame 2 is in the second block
    filename = tmp_path / "bad.model"
    filename.write_bytes(bytes(content))
    with pytest.raises(FormatError) as error:
        codec2_model.read(filename)
    assert str(error.value).startswith(f"{filename}: ")
    assert what in str(error.value)


def test_rate_K_round_trip(tmp_path):
    vectors = np.random.default_rng(2).normal(30, 10, (50, 20)).astype("<f4")
    in_column_order = vectors.astype(np.float64).T.copy().T
    filename = tmp_path / "x.f32"
    codec2_model.write_rate_K(in_column_order, filename)
    assert filename.read_bytes() == vectors.tobytes()
    np.testing.assert_array_equal(codec2_model.read_floats(filename, 20), vectors)
    np.testing.assert_array_equal(codec2_model.read_rate_K(filename, 20), vectors)
    first = codec2_model.read_rate_K(filename, 20, max_nb_samples=3)
    np.testing.assert_array_equal(first, vectors[:3])
    filename.write_bytes(filename.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"x\.f32: 3999 bytes .*vectors of 20 floats"):
        codec2_model.read_rate_K(filename, 20)


@pytest.mark.parametrize("value", [np.nan, np.inf, 161, -201])
def test_vectors_that_cannot_be_speech_are_refused(tmp_path, value):
    vectors = np.full((20, 14), 40, "<f4")
    vectors[17, 3] = value
    vectors.tofile(tmp_path / "x.f32")
    with pytest.raises(FormatError, match=r"x\.f32: (vector 17 is not finite|.* is not speech)"):
        codec2_model.read_rate_K(tmp_path / "x.f32", 14)
    if not np.isfinite(value):
        (tmp_path / "x.f32").write_text("a good file")
        with pytest.raises(FormatError, match=r"x\.f32: not written"):
            codec2_model.write_rate_K(vectors, tmp_path / "x.f32")
        assert (tmp_path / "x.f32").read_text() == "a good file"


MLFEAT_RECORD = np.r_[30, np.arange(20) - 9.5, np.zeros(20), np.full(160, 7)].astype("<f4")


def test_newamp1_files_of_both_kinds(tmp_path):
    (tmp_path / "x.f32").write_bytes(MLFEAT_RECORD.tobytes() * 3)
    vectors, A = codec2_model.read_newamp1(tmp_path / "x.f32", 3)
    np.testing.assert_array_equal(vectors, np.tile(np.arange(20) + 20.5, (3, 1)))
    np.testing.assert_array_equal(A, np.full((3, 160), 7))
    codec2_model.write_rate_K(vectors, tmp_path / "K.f32")
    again, none = codec2_model.read_newamp1(tmp_path / "K.f32", 3)
    np.testing.assert_array_equal(again, vectors)
    assert none is None
    for name, n in (("x.f32", 2), ("x.f32", 4), ("K.f32", 1)):
        with pytest.raises(FormatError, match=f"{name}: .* expected 20 or 201"):
            codec2_model.read_newamp1(tmp_path / name, n)


def test_load_pair(tmp_path):
    frames = records(5, A=100.0)
    frames["L"][4] = 0
    frames.tofile(tmp_path / "x.model")
    vectors = np.zeros((5, 14), np.float32)
    vectors[2] = -200
    data = codec2_model.load_pair("x.f32", tmp_path / "x.model", vectors, 128, 4000)
    assert data["vectors"][:, 3].tolist() == [0, 0, -60, 0, 0]
    np.testing.assert_array_equal(data["L"], [39, 39, 39, 39, 0])
    assert np.isfinite(data["target"]).sum(axis=1).tolist() == [39, 39, 39, 39, 0]
    assert np.nanmax(data["target"]) == 40
    assert data["number"].tolist() == [0, 1, 2, 3, 4]
    for count in (4, 6):
        with pytest.raises(FormatError, match=rf"^x\.f32: {count} frames, but .*x\.model has 5"):
            codec2_model.load_pair("x.f32", tmp_path / "x.model", np.zeros((count, 14)), 128, 4000)


def test_indices_round_trip(tmp_path):
    """−1 stands for a vector that was lost."""
    indices = np.random.default_rng(1).integers(0, 16, (4, 2))
    indices[2] = -1
    codec2_model.write_indices(indices, 7, 0xFEEDBEEF, tmp_path / "x.npy")
    again, nb_frames, network = codec2_model.read_indices(tmp_path / "x.npy", 16, 2, 2)
    np.testing.assert_array_equal(again, indices)
    assert (nb_frames, network) == (7, 0xFEEDBEEF)
    assert np.load(tmp_path / "x.npy").dtype == np.int32
    codec2_model.read_indices(tmp_path / "x.npy", 16, 3, 2)  # the first two of three stages
    for M, stages, dec in ((indices.max(), 2, 2), (16, 1, 2), (16, 2, 1), (16, 2, 4)):
        with pytest.raises(FormatError, match=r"x\.npy: not indices of this network"):
            codec2_model.read_indices(tmp_path / "x.npy", M, stages, dec)


GOOD_INDICES = np.zeros((4, 2), np.int32)
BAD_INDICES = {
    "negative": GOOD_INDICES - 2,
    "float": GOOD_INDICES.astype(np.float32),
    "flat": GOOD_INDICES[0],
    "pickle": np.array([[{}, 1]] * 4, object),
}


@pytest.mark.parametrize("kind", BAD_INDICES)
def test_bad_indices_are_refused(tmp_path, kind):
    with open(tmp_path / "x.npy", "wb") as file:
        for array in (BAD_INDICES[kind], 4, np.uint32(7)):
            np.save(file, array)
    with pytest.raises(FormatError, match=r"x\.npy: "):
        codec2_model.read_indices(tmp_path / "x.npy", 16, 2, 1)


def test_prints_and_plots_what_is_in_a_file(tmp_path):
    """One harmonic, a sine of peak 100, in 50 voiced frames of 100 Hz and 150 of 200 Hz."""
    unvoiced = records(150, Wo=np.pi / 20, L=19, A=0.0, voiced=0)
    frames = np.concatenate([records(50, A=0.0), unvoiced])
    frames["A"][:, 1] = 50
    frames.tofile(tmp_path / "x.model")
    printed = call(codec2_model, tmp_path / "x.model", "--plot_dir", tmp_path, "--frame", 199)
    assert printed.splitlines() == [
        "frames: 200",
        "length: 2.00 s",
        "F0: 100.0 to 200.0 Hz",
        "harmonics: 19 to 39",
        "voiced: 25.0 %",
        "level: 37.0 dB re 1 LSB rms",  # 10 log10(100²/2)
        f"plot: {tmp_path / 'codec2_model.png'}",
    ]
    assert (tmp_path / "codec2_model.png").read_bytes().startswith(PNG)
    options = ("--noplots", "--frame_ms", 40, "--Fs", 16000)
    printed = call(codec2_model, tmp_path / "x.model", *options)
    assert "length: 8.00 s\nF0: 200.0 to 400.0 Hz\n" in printed
