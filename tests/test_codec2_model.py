"""Model records and rate K files: nothing is lost, nothing bad is let through, and the numbers of the docstrings."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, assert_refused

import codec2_model
from codec2_model import RECORD, FormatError

PNG = b"\x89PNG\r\n\x1a\n"


def records(count, Wo=np.pi / 40, L=39, A=100.0, voiced=1):
    """Frames alike: 100 Hz, all harmonics of the same amplitude."""
    frames = np.zeros(count, RECORD)
    frames["Wo"], frames["L"], frames["A"][:, 1 : L + 1], frames["voiced"] = Wo, L, A, voiced
    return frames


def changed(frame, name, value, *, m=...):
    """Three frames, one of them changed in one value."""
    frames = records(3)
    frames[name][frame, m] = value
    return frames


# ---------------------------------------------------------------- model records


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
    """Entry 0, entries above L, phases and flags hold random bits here, NaN and infinity among them."""
    rng = np.random.default_rng(1)
    frames = np.frombuffer(rng.bytes(500 * RECORD.itemsize), RECORD).copy()
    frames["Wo"] = rng.uniform(0, np.pi, 500)
    frames["L"] = rng.integers(0, 161, 500)
    harmonic = codec2_model.harmonic_mask(frames["L"])
    frames["A"][harmonic] = rng.uniform(0, 30000, harmonic.sum())
    source, copy = tmp_path / "source.model", tmp_path / "copy.model"
    source.write_bytes(frames.tobytes())
    monkeypatch.setattr(codec2_model, "CHUNK", 7)  # 500 is not a multiple of it
    Wo, L, A, phi, voiced = codec2_model.read(source)
    codec2_model.check(source, Wo, L, A)
    codec2_model.write(Wo, L, A, phi, voiced, copy)
    assert copy.read_bytes() == source.read_bytes()


def test_write_takes_plain_arrays_and_bool(tmp_path):
    frames = records(3, voiced=1)
    codec2_model.write([np.pi / 40] * 3, [39] * 3, frames["A"], frames["phi"], np.full(3, True), tmp_path / "x.model")
    assert (tmp_path / "x.model").read_bytes() == frames.tobytes()


def test_write_refuses_fields_of_different_length(tmp_path):
    fields = [records(3)[name] for name in RECORD.names]
    fields[1] = fields[1][:2]
    with pytest.raises(ValueError, match="L 2"):
        codec2_model.write(*fields, tmp_path / "x.model")
    assert not list(tmp_path.iterdir())


def test_read_maps_a_file_of_any_length(tmp_path):
    """A sparse file of 1.3 GB, of which 256 records may be looked at (0.3 MB), and one is used."""
    filename = tmp_path / "long.model"
    frame = records(1, A=7.0)
    with open(filename, "wb") as file:
        file.truncate(1_000_000 * RECORD.itemsize)
        file.seek(765_432 * RECORD.itemsize)
        file.write(frame.tobytes())
    tracemalloc.start()
    fields = codec2_model.read(filename)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6
    for name, values in zip(RECORD.names, fields, strict=True):
        assert isinstance(values, np.memmap)
        assert len(values) == 1_000_000
        np.testing.assert_array_equal(values[765_432], frame[name][0])


@pytest.mark.parametrize(("most", "count"), [(None, 5), (2, 2), (5, 5), (9, 5)])
def test_max_nb_samples_keeps_the_first_frames(tmp_path, most, count):
    frames = records(5)
    frames["voiced"] = np.arange(5)
    (tmp_path / "x.model").write_bytes(frames.tobytes())
    *_, voiced = codec2_model.read(tmp_path / "x.model", most)
    np.testing.assert_array_equal(voiced, np.arange(5)[:count])


def test_silence_and_leftovers_are_fine(tmp_path):
    frames = records(4)
    frames["A"][:, :1] = frames["A"][:, 40:] = [[np.nan], [np.inf], [-1], [1e38]]
    frames["A"][1, 1:40] = 0
    frames["Wo"][2], frames["L"][2] = 0, 0
    frames["Wo"][3] = np.pi
    (tmp_path / "x.model").write_bytes(frames.tobytes())
    Wo, L, A, _, _ = codec2_model.read(tmp_path / "x.model")
    codec2_model.check("x.model", Wo, L, A)


BAD_MODELS = {
    "empty": (b"", "empty"),
    "truncated": (records(2).tobytes()[:-1], "2599 bytes"),
    "text": ((b"Some text, as long as three model records are.\n" * 83)[:3900], "not a model file"),
    "wav": ((ROOT / "tests/data/sample_8k.wav").read_bytes()[: 1300 * 20], "not a model file"),
    "L -1": (changed(1, "L", -1), "frame 1: L = -1"),
    "L 161": (changed(2, "L", 161), "frame 2: L = 161"),
    "Wo -0.1": (changed(0, "Wo", -0.1), "frame 0: Wo = -0.1"),
    "Wo NaN": (changed(1, "Wo", np.nan), "frame 1: Wo = nan"),
    "Wo 3.2": (changed(2, "Wo", 3.2), "frame 2: Wo = 3.2"),
    "A NaN": (changed(1, "A", np.nan, m=1), "frame 1: A[1] = nan"),
    "A inf": (changed(1, "A", np.inf, m=39), "frame 1: A[39] = inf"),
    "A negative": (changed(2, "A", -1, m=20), "frame 2: A[20] = -1"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_model_is_refused(tmp_path, run, kind):
    content, what = BAD_MODELS[kind]
    filename = tmp_path / "bad.model"
    filename.write_bytes(bytes(content))
    with pytest.raises(FormatError) as error:
        codec2_model.read(filename)
    assert str(error.value).startswith(f"{filename}: ")
    assert what in str(error.value)
    result = run("codec2_model.py", "bad.model", "--noplots")
    assert_refused(result, "bad.model: ", what)
    assert result.stdout == ""


def test_missing_file_and_folder_are_refused(tmp_path, run):
    with pytest.raises(FileNotFoundError):
        codec2_model.read(tmp_path / "none.model")
    assert_refused(run("codec2_model.py", "none.model", "--noplots"), "none.model: ", "No such file")
    with pytest.raises(FormatError, match="not a regular file"):
        codec2_model.read(tmp_path)
    assert_refused(run("codec2_model.py", tmp_path, "--noplots"), f"{tmp_path}: ", "not a regular file")


def test_check_sees_the_records_that_read_skips(tmp_path, run):
    frames = records(10 * codec2_model.SPOT_CHECKS)
    frames["A"][5, 3] = np.nan  # between the first two that read() looks at
    (tmp_path / "x.model").write_bytes(frames.tobytes())
    Wo, L, A, _, _ = codec2_model.read(tmp_path / "x.model")
    with pytest.raises(FormatError, match=r"^x\.model: frame 5: A\[3\] = nan"):
        codec2_model.check("x.model", Wo, L, A)
    assert_refused(run("codec2_model.py", "x.model", "--noplots"), "x.model: frame 5: A[3] = nan")


def test_phases_are_checked_too(tmp_path):
    frames = records(5)
    frames["phi"][:, 40:] = np.nan  # leftovers
    frames["phi"][3, 39] = -1e30  # a number
    codec2_model.check("x.model", *(frames[name] for name in ("Wo", "L", "A", "phi")))
    frames["phi"][3, 39] = np.inf
    with pytest.raises(FormatError, match=r"^x\.model: frame 3: phi\[39\] = inf"):
        codec2_model.check("x.model", *(frames[name] for name in ("Wo", "L", "A", "phi")))


# ---------------------------------------------------------------- rate K vectors


def test_rate_K_round_trip(tmp_path):
    vectors = np.random.default_rng(2).normal(30, 10, (50, 20)).astype("<f4")
    codec2_model.write_rate_K(vectors.astype(np.float64).T.copy().T, tmp_path / "x.f32")  # in column order
    assert (tmp_path / "x.f32").read_bytes() == vectors.tobytes()
    copy = codec2_model.read_rate_K(tmp_path / "x.f32", 20)
    codec2_model.check_rate_K("x.f32", copy)
    assert isinstance(copy, np.memmap)
    np.testing.assert_array_equal(copy, vectors)
    np.testing.assert_array_equal(codec2_model.read_rate_K(tmp_path / "x.f32", 20, 3), vectors[:3])


@pytest.mark.parametrize(("size", "what"), [(0, "empty"), (79, "79 bytes"), (14 * 4 * 3, "vectors of 20 floats")])
def test_rate_K_file_of_the_wrong_size_is_refused(tmp_path, size, what):
    (tmp_path / "x.f32").write_bytes(bytes(size))
    with pytest.raises(FormatError, match=what) as error:
        codec2_model.read_rate_K(tmp_path / "x.f32", 20)
    assert "x.f32: " in str(error.value)


def test_rate_K_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        codec2_model.read_rate_K(tmp_path / "none.f32", 14)


@pytest.mark.parametrize("gain", [1, 10])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e10, -1e10])
def test_vectors_that_cannot_be_speech_are_refused(monkeypatch, gain, value):
    monkeypatch.setattr(codec2_model, "CHUNK", 7)
    vectors = np.full((20, 14), 4 * gain, np.float32)
    codec2_model.check_rate_K("x.f32", vectors, gain)
    vectors[17, 3] = value
    with pytest.raises(FormatError, match=r"^x\.f32: vector 17: "):
        codec2_model.check_rate_K("x.f32", vectors, gain)


def test_silence_in_dB_is_not_taken_for_log10():
    codec2_model.check_rate_K("x.f32", np.full((3, 20), -150, np.float32))


def test_dB_and_log10_are_told_apart():
    dB = np.random.default_rng(3).uniform(0, 60, (100, 14)).astype(np.float32)
    codec2_model.check_rate_K("x.f32", dB, gain=10)
    codec2_model.check_rate_K("x.f32", dB / 10, gain=1)
    with pytest.raises(FormatError, match=r"^x\.f32: vector 0: .* cannot be log10"):
        codec2_model.check_rate_K("x.f32", dB, gain=1)
    with pytest.raises(FormatError, match=r"^x\.f32: .* too low for speech in dB"):
        codec2_model.check_rate_K("x.f32", dB / 10, gain=10)


# ---------------------------------------------------------------- harmonics and bins


def test_harmonic_bins_by_hand():
    bins = codec2_model.harmonic_bins([np.pi / 40, np.pi / 80, 0], 128)
    assert bins.shape == (3, 161)
    assert bins[0, [0, 1, 2, 39, 40, 160]].tolist() == [0, 3, 6, 125, 127, 127]  # 3.2, 6.4, 124.8; then the last bin
    assert bins[1, [1, 2, 3, 79]].tolist() == [2, 3, 5, 126]  # 1.6, 3.2, 4.8, 126.4
    assert not bins[2].any()


def test_harmonic_mask_by_hand():
    mask = codec2_model.harmonic_mask([0, 2, 160])
    assert mask.sum(axis=1).tolist() == [0, 2, 160]
    assert np.flatnonzero(mask[1]).tolist() == [1, 2]
    assert not mask[:, 0].any()


def test_bins_hold_the_amplitudes_of_the_harmonics(monkeypatch):
    """There and back.  float16 leaves an error of up to 1/64 dB below 64 dB."""
    monkeypatch.setattr(codec2_model, "CHUNK", 7)
    rng = np.random.default_rng(4)
    L = rng.integers(10, 81, 20)
    Wo = (np.pi / (L + 0.5)).astype(np.float32)
    A = np.where(codec2_model.harmonic_mask(L), rng.uniform(2, 1500, (20, 161)), np.nan).astype(np.float32)
    target = codec2_model.to_bins(Wo, L, A, 128, cutoff_hz=4000)
    assert target.dtype == np.float16
    assert np.isfinite(target).sum(axis=1).tolist() == L.tolist()
    A_hat = codec2_model.from_bins(target, Wo, L)
    harmonic = codec2_model.harmonic_mask(L)
    np.testing.assert_allclose(20 * np.log10(A_hat[harmonic]), 20 * np.log10(A[harmonic]), rtol=0, atol=1 / 60)
    assert not A_hat[~harmonic].any()


def test_target_by_hand():
    """F0 = 100 Hz: bins 3, 6, 10 … 125.  100 is 40 dB; A = 0 and what is above the cutoff have no target."""
    frames = records(2)
    frames["A"][0, 2] = 0
    frames["A"][1] = 0
    frames["A"][:, 40:] = 1e4
    target = codec2_model.to_bins(frames["Wo"], frames["L"], frames["A"], 128, cutoff_hz=3650)
    expected = np.full((2, 128), np.nan)
    expected[0, [round(3.2 * m) for m in range(1, 37) if m != 2]] = 40
    np.testing.assert_array_equal(target, expected)
    np.testing.assert_array_equal(frames["L"], 39)


@pytest.mark.parametrize(("width", "filled"), [(128, 128 - 1), (256, 160)])
def test_lowest_pitch_fits(width, filled):
    """160 harmonics in 128 bins: two may meet in one; the first bin is below half of F0 in any case."""
    frames = records(1, Wo=np.pi / 161, L=160, A=10)
    target = codec2_model.to_bins(frames["Wo"], frames["L"], frames["A"], width, cutoff_hz=4000)
    assert np.count_nonzero(target == 20) == filled
    A_hat = codec2_model.from_bins(target, frames["Wo"], frames["L"])
    np.testing.assert_allclose(A_hat[0], np.r_[0, np.full(160, 10)], rtol=1e-6)


# ---------------------------------------------------------------- writing


def test_replacing_makes_a_file_whole(tmp_path):
    (tmp_path / "x.f32").write_text("old")
    with codec2_model.replacing(tmp_path / "x.f32") as new:
        new.write_text("new")
        assert (tmp_path / "x.f32").read_text() == "old"
        assert new.suffix == ".f32"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.f32", "new")]


@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_replacing_leaves_all_as_it_was_when_it_fails(tmp_path, old, error):
    if old:
        (tmp_path / "x.f32").write_text(old)
    with pytest.raises(error), codec2_model.replacing(tmp_path / "x.f32") as new:  # noqa: PT012
        new.write_text("half")
        raise error
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == ([("x.f32", old)] if old else [])


def test_replacing_follows_links(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/x.f32").write_text("old")
    (tmp_path / "link.f32").symlink_to("folder/x.f32")
    (tmp_path / "link.keras").symlink_to("folder/x.f32")
    with codec2_model.replacing(tmp_path / "link.keras") as new:
        assert new.suffix == ".keras"  # that of the name, which tells Keras what to write
        new.write_text("new")
    (tmp_path / "link.keras").unlink()
    (tmp_path / "folder/x.f32").write_text("old")
    with codec2_model.replacing(tmp_path / "link.f32") as new:
        new.write_text("new")
    assert (tmp_path / "link.f32").is_symlink()
    assert (tmp_path / "folder/x.f32").read_text() == "new"
    assert len(list(tmp_path.rglob("*"))) == 3


def test_devices_are_written_directly(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for device in (Path(os.devnull), tmp_path / "pipe"):
        with codec2_model.replacing(device) as new:
            assert new == device
        assert not device.is_file()


def test_folder_to_write_to_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError), codec2_model.replacing(tmp_path / "none/x.f32"):
        pass
    with pytest.raises(IsADirectoryError), codec2_model.replacing(tmp_path):
        pass


# ---------------------------------------------------------------- command line


@pytest.mark.parametrize("text", ["-1", "4294967296", "1.5", ""])
def test_seed_has_32_bits(text):
    assert codec2_model.seed("4294967295") == 2**32 - 1
    assert codec2_model.seed("0") == 0
    with pytest.raises(ValueError):  # noqa: PT011
        codec2_model.seed(text)


@pytest.fixture
def two_seconds(tmp_path):
    """One harmonic of A = 50, a sine of peak 100, in 50 voiced frames of 100 Hz and 150 unvoiced ones of 200 Hz."""
    frames = np.concatenate([records(50, A=0.0), records(150, Wo=np.pi / 20, L=19, A=0.0, voiced=0)])
    frames["A"][:, 1] = 50
    (tmp_path / "x.model").write_bytes(frames.tobytes())


def test_prints_what_is_in_a_file(run, two_seconds):
    result = run("codec2_model.py", "x.model", "--noplots")
    assert result.returncode == 0
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "frames: 200",
        "length: 2.00 s",
        "F0: 100.0 to 200.0 Hz",
        "harmonics: 19 to 39",
        "voiced: 25.0 %",
        "level: 37.0 dB re 1 LSB rms",  # 10 log10(100²/2)
    ]


def test_nb_samples_limits_what_is_printed(run, two_seconds):
    assert "F0: 100.0 to 100.0 Hz\n" in run("codec2_model.py", "x.model", "--noplots", "--nb_samples", 50).stdout


def test_plots_go_to_a_folder(run, tmp_path, two_seconds):
    assert run("codec2_model.py", "x.model", "--plot_dir", "plots", "--frame", 199).returncode == 0
    assert (tmp_path / "plots/codec2_model.png").read_bytes().startswith(PNG)


def test_silence_is_plotted_too_and_here_without_a_display(run, tmp_path):
    (tmp_path / "x.model").write_bytes(bytes(RECORD.itemsize))
    result = run("codec2_model.py", "x.model")
    assert result.returncode == 0
    assert result.stderr == ""
    assert "nan" not in result.stdout
    assert (tmp_path / "codec2_model.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("option", [("--frame", 200), ("--frame", -1), ("--nb_samples", 0), ("--nb_samples", -1)])
def test_frames_that_are_not_there_are_refused(run, tmp_path, two_seconds, option):
    result = run("codec2_model.py", "x.model", "--plot_dir", "plots", *option)
    assert_refused(result, option[0].lstrip("-"), status=result.returncode or 1)
    assert not (tmp_path / "plots").exists()


def test_closed_stdout_is_no_error(run, two_seconds):
    """As with `| head -1`, when head is gone before all is printed."""
    reader, writer = os.pipe()
    os.close(reader)
    result = run("codec2_model.py", "x.model", "--noplots", stdout=writer)
    os.close(writer)
    assert result.stderr == ""


def test_help_and_wrong_usage(run):
    result = run("codec2_model.py", "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("usage: codec2_model.py")
    assert_refused(run("codec2_model.py"), "FILE.model", status=2)


def test_a_full_disk_names_the_file_and_loses_none(run, two_seconds, tmp_path):
    """A file size limit stands for the full disk; the old output stays, whole."""
    (tmp_path / "old.model").write_bytes(b"a good file")
    before = set(tmp_path.iterdir())
    command = 'ulimit -f 20; exec "$0" "$@"'
    arguments = [sys.executable, ROOT / "c2sim.py", "--modelin", "x.model", "--modelout", "old.model"]
    result = subprocess.run(["bash", "-c", command, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "c2sim.py: error: old.model: File too large\n"
    assert (tmp_path / "old.model").read_bytes() == b"a good file"
    assert set(tmp_path.iterdir()) == before
