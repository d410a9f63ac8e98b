"""c2sim.py: golden values, the real c2sim's files for a minute of speech, any input."""

import itertools
import wave
from pathlib import Path

import numpy as np
import pytest

import c2sim
import codec2_model
import vq_out
import vq_vae_ratek
from codec2_model import RECORD
from common import spectra
from common.plumbing import FormatError
from conftest import call, sample_speech, shorten, snr_dB, sound_file

MODEL_FEATURES_SPEECH = "--bands bands.f32 --modelout x.model -o y.raw"
ALL_BUT_RATE_K_IN = (
    "--bands bands.f32 --rateK --rateKout K.f32 --modelout x.model --phase0 --postfilter -o y.raw"
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in an empty folder."""
    monkeypatch.chdir(tmp_path)


def simulate(*arguments):
    """Run the script here: simulate(path, "--options as in a shell", ...)."""
    words = (
        [argument] if isinstance(argument, Path) else argument.split() for argument in arguments
    )
    c2sim.main(c2sim.parse_args([str(word) for word in itertools.chain(*words)]))


def speech_file(samples, name="x.raw"):
    np.asarray(samples, "<i2").tofile(name)
    return Path(name)


def model(name="x.model"):
    return np.fromfile(name, RECORD)


def bands(name="bands.f32"):
    return np.fromfile(name, "<f4").reshape(-1, 14)


def rate_K(name="K.f32"):
    return np.fromfile(name, "<f4").reshape(-1, 20)


def speech(name="y.raw"):
    return np.fromfile(name, "<i2").astype(int)


def outputs():
    """Content of all files here but hidden ones and input."""
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.name != "x.raw"}


def random_numbers(count):
    state, numbers = 1, []
    for _ in range(count):
        state = (state * 1103515245 + 12345) % 2**32
        numbers.append(state >> 16 & 32767)
    return np.array(numbers)


def golden_speech(name):
    """8000 samples: a pulse train, noise, and weaker pulses that noise joins halfway."""
    n = np.arange(8000)
    noise = random_numbers(8000) - 16384
    if name == "G1":
        return np.where(n % 80 == 0, 20000, 0)
    if name == "G2":
        return noise // 16
    return np.where(n % 57 == 0, 5000, 0) + noise // 128 + np.where(n >= 4000, noise // 8, 0)


# voiced frames, sum of L, sum of |speech|, the same with phase model and post filter
GOLDEN_SUMS = {
    "G1": (99, 3870, 3820319, 4490196),
    "G2": (14, 3867, 3488840, 2959283),
    "G3": (53, 2833, 4376000, 4446088),
}
# frame, period, L, voiced; A[1…4]; phi[1…2]; bands 0, 5, 13; rate K 0, 10, 19; samples
GOLDEN_FRAMES = """
G1  0  20       9 0  165.533 168.814 168.815 165.537  -.3925 .1964  \
    41.562 41.190 47.388  44.228 44.432 44.308  0 -4
G1  1  80.0758 39 1  238.480 231.970 231.026 239.151  .1082 -.0540  \
    50.717 49.992 56.205  47.309 47.555 47.578  0 -322
G1 20  80      39 1  249.635 248.635 248.171 249.990  0 0  \
    51.472 50.435 56.623  47.911 47.953 47.911  0 -496
G2  1  160     79 1  31.213 55.881 49.218 25.210      -.9896 -2.3567  \
    37.918 34.541 41.585  28.037 17.384 24.473  7 -25
G2 20  90.2759 44 0  70.963 52.331 51.159 70.345      -1.6508 -.3854  \
    38.386 40.869 44.682  34.044 30.197 39.023  981 538
G2 60  103.65  50 1  46.932 53.233 63.756 50.374      2.3324 -1.6821  \
    39.413 39.933 43.806  35.884 39.825 29.166  -428 -535
G3 20  56.8889 27 1  86.512 90.163 92.052 83.908      -2.1147 2.0647  \
    41.405 39.581 46.452  38.914 38.678 38.209  -157 34
G3 60  56.9022 27 0  202.000 158.947 100.100 108.535  -1.2088 2.9487  \
    44.086 48.655 51.334  45.466 49.334 38.834  -1800 -1543
"""


@pytest.mark.parametrize("name", GOLDEN_SUMS)
def test_golden(name):
    voiced, sum_L, stored_phases, model_phases = GOLDEN_SUMS[name]
    source = speech_file(golden_speech(name))
    simulate(source, MODEL_FEATURES_SPEECH)
    simulate(source, "--rateK --rateKout K.f32")
    simulate(source, "--phase0 --postfilter -o yp.raw")
    assert np.count_nonzero(model()["voiced"]) == voiced
    assert model()["L"].sum() == sum_L
    assert len(speech()) == len(speech("yp.raw")) == 8000
    assert np.abs(speech()).sum() == pytest.approx(stored_phases, abs=40)
    assert np.abs(speech("yp.raw")).sum() == pytest.approx(model_phases, abs=40)
    for line in GOLDEN_FRAMES.strip().splitlines():
        of, *values = line.split()
        if of == name:
            check_frame(*map(float, values))


def check_frame(f, period, L, voiced, *values):
    A, phi, band, K, samples = np.split(values, [4, 6, 9, 12])
    f = int(f)
    frame = model()[f]
    assert 2 * np.pi / frame["Wo"] == pytest.approx(period, rel=1e-5)
    assert (frame["L"], frame["voiced"]) == (L, voiced)
    np.testing.assert_allclose(frame["A"][1:5], A, rtol=0, atol=2e-3)
    np.testing.assert_allclose(frame["phi"][1:3], phi, rtol=0, atol=2e-3)
    assert not frame["A"][[0, *range(int(L) + 1, 161)]].any()
    np.testing.assert_allclose(bands()[f, [0, 5, 13]], band, rtol=0, atol=2e-3)
    np.testing.assert_allclose(rate_K()[f, [0, 10, 19]], K, rtol=0, atol=2e-3)
    np.testing.assert_allclose(speech()[80 * f : 80 * f + 2], samples, rtol=0, atol=1)


@pytest.fixture
def real(shared):
    return shared / "c2sim"


@pytest.fixture
def held_out(shared):
    return shared / "speech/test_8k.sw"


def same_pitch(reference):
    """False in at most one of 6361 frames, where a decision is at its threshold."""
    same = (model()["L"] == reference["L"]) & (model()["Wo"] == reference["Wo"])
    assert np.count_nonzero(~same) <= 1
    return same


def test_analysis_is_that_of_c2sim(real, held_out):
    simulate(held_out, "--bands bands.f32 --modelout x.model")
    reference = model(real / "test.model")
    assert len(model()) == len(reference) == 6361
    same = same_pitch(reference)
    np.testing.assert_array_equal(model()["voiced"] != 0, reference["voiced"] != 0)
    np.testing.assert_allclose(bands(), bands(real / "test_bands_all.f32"), rtol=0, atol=5e-3)
    mask = spectra.harmonic_mask(reference["L"])
    largest = np.where(mask, reference["A"], 0).max(axis=1)[:, None]
    strong = mask & same[:, None] & (reference["A"] > largest * 10 ** (-50 / 20))
    A_dB, reference_dB = (20 * np.log10(A[strong]) for A in (model()["A"], reference["A"]))
    np.testing.assert_allclose(A_dB, reference_dB, rtol=0, atol=1e-3)


def test_bands_lower_drops_the_frames_that_c2sim_drops(real, held_out):
    simulate(held_out, "--bands bands.f32 --bands_lower 10 --modelout x.model")
    reference = model(real / "test_bands.model")
    assert len(model()) == len(reference) < 6361
    same_pitch(reference)
    np.testing.assert_allclose(bands(), bands(real / "test_bands.f32"), rtol=0, atol=5e-3)


def test_rate_K_is_that_of_c2sim(real, held_out):
    """Vectors, and the amplitudes after the way back."""
    simulate(held_out, "--rateK --rateKout K.f32 --modelout x.model")
    reference = model(real / "test_rateK.model")
    same = same_pitch(reference)
    expected = rate_K(real / "test_rateK.f32")
    np.testing.assert_allclose(rate_K()[same], expected[same], rtol=0, atol=5e-3)
    harmonic = spectra.harmonic_mask(reference["L"]) & same[:, None]
    A_dB, reference_dB = (20 * np.log10(A[harmonic]) for A in (model()["A"], reference["A"]))
    np.testing.assert_allclose(A_dB, reference_dB, rtol=0, atol=1e-2)


def test_synthesis_is_that_of_c2sim(real):
    simulate("--modelin", real / "test.model", "-o y.raw")
    reference = speech(real / "test_modelin.sw")
    assert np.abs(speech() - reference).max() <= 1
    assert snr_dB(reference, speech()) > 95


def test_phase_model_and_post_filter_are_those_of_c2sim(real):
    simulate("--modelin", real / "test.model", "--phase0 --postfilter -o y.raw")
    assert snr_dB(speech(real / "test_modelin_phase0_postfilter.sw"), speech()) > 85


def test_vectors_from_a_file_sound_as_with_c2sim(real, held_out):
    simulate(held_out, "--rateK --rateKin", real / "test_rateK.f32", "-o y.raw")
    assert snr_dB(speech(real / "test_rateKin.sw"), speech()) > 85


def test_result_does_not_depend_on_the_block(monkeypatch):
    """Same bytes, but for the bands, whose sums BLAS may group by size."""
    source = speech_file(sample_speech(4)[:-33])
    results = []
    for size in (512, 7):
        monkeypatch.setattr(c2sim, "AT_ONCE", size)
        monkeypatch.setattr(codec2_model, "AT_ONCE", size)
        simulate(source, ALL_BUT_RATE_K_IN, "--bands_lower 10")
        simulate(source, "--bands_lower 10 --rateK --rateKin K.f32 -o in.raw")
        simulate("--modelin x.model --phase0 -o model.raw")
        results.append((bands(), outputs()))
    (bands_512, files_512), (bands_7, files_7) = results
    np.testing.assert_allclose(bands_7, bands_512, rtol=0, atol=1e-4)
    assert len(model()) < 400
    del files_512["bands.f32"], files_7["bands.f32"]
    assert files_512 == files_7


def test_model_file_goes_through_unchanged():
    """Flags other than 0 and 1 and what is above L included."""
    simulate(speech_file(sample_speech(2)), "--modelout x.model")
    frames = model()
    frames["voiced"] *= 7
    frames["A"][:, 0] = frames["A"][:, 100:] = np.nan
    frames.tofile("leftovers.model")
    simulate("--modelin leftovers.model --modelout copy.model -o y.raw")
    assert Path("copy.model").read_bytes() == frames.tobytes()
    simulate("--modelin x.model -o clean.raw")
    assert Path("y.raw").read_bytes() == Path("clean.raw").read_bytes()


@pytest.mark.parametrize("options", ["", "--phase0 --postfilter"])
def test_receiver_gives_what_the_sender_hears(options):
    """Pitch, voicing and vectors are enough, and phases without --phase0."""
    source = speech_file(sample_speech(3))
    simulate(source, "--rateK --rateKout K.f32")
    vectors = rate_K() + np.random.default_rng(1).normal(0, 3, rate_K().shape)
    vectors.astype("<f4").tofile("quantised.f32")
    simulate(source, "--modelout x.model")
    sent = model()
    sent["A"] = 0
    if options:
        sent["phi"] = 0
    sent.tofile("sent.model")
    simulate("--modelin sent.model --rateK --rateKin quantised.f32 -o receiver.raw", options)
    Path("K.f32").unlink()
    simulate(source, "--rateK --rateKin quantised.f32 -o sender.raw", options)
    assert speech("sender.raw").any()
    assert Path("receiver.raw").read_bytes() == Path("sender.raw").read_bytes()


def test_several_files_are_joined():
    """Outputs of one call are those of a call for each, joined; a folder is its speech files."""
    Path("folder/deeper").mkdir(parents=True)
    samples = sample_speech(3)
    Path("folder/notes.txt").write_text("not speech")
    sound_file("folder/a.flac", samples[:8100])
    speech_file(samples[8100:16000], "folder/deeper/b.SW")
    speech_file(samples[16000:], "c.raw")
    names = ("bands.f32", "K.f32", "x.model", "y.raw")
    calls = []
    for speech_names in ("folder/a.flac", "folder/deeper/b.SW", "c.raw", "folder c.raw"):
        simulate(speech_names, "--bands_lower 10", ALL_BUT_RATE_K_IN)
        calls.append([Path(name).read_bytes() for name in names])
    *single, together = calls
    assert together == [b"".join(parts) for parts in zip(*single, strict=True)]
    Path("empty").mkdir()
    with pytest.raises(FormatError, match=r"^empty: no speech in this folder"):
        simulate("empty -o y.raw")


def test_frames_are_left_out_of_all_outputs(capsys):
    """And counted; what is heard and resampled is what the model file holds then."""
    source = speech_file(np.r_[np.zeros(8000), sample_speech(3), np.zeros(800)])
    simulate(source, "--bands_lower 10 --bands bands.f32 --modelout x.model -o y.raw")
    n = len(bands())
    assert 200 < n < 300
    counted = capsys.readouterr().out.splitlines()[-1]
    reason = "mean band energy not above 10 dB"
    assert counted == f"frames: {n} written, {410 - n} left out ({reason})"
    simulate(source, "--bands_lower 10 --rateK --rateKout K.f32")
    assert len(model()) == len(rate_K()) == len(speech()) // 80 == n
    simulate("--modelin x.model -o again.raw")
    simulate("--modelin x.model --rateK --rateKout again.f32")
    assert Path("again.raw").read_bytes() == Path("y.raw").read_bytes()
    assert Path("again.f32").read_bytes() == Path("K.f32").read_bytes()


def test_a_third_kind_of_vectors(monkeypatch, eager):
    """24 mel values: a row in the table of kinds is enough to write, quantise and hear them."""
    kind = spectra.Kind("mel", spectra.mel_grid(150, 3800, 24), is_energy=False, range_db=60)
    monkeypatch.setitem(spectra.KINDS, (24, 8000), kind)
    monkeypatch.setattr(c2sim, "SAMPLED", [20, 24])
    source = speech_file(sample_speech(2))
    simulate(source, "--modelout x.model")
    simulate(source, "--rateK --K 24 --rateKout mel.f32 --modelout again.model")
    vectors = np.fromfile("mel.f32", "<f4").reshape(-1, 24)
    assert len(vectors) == 200
    harmonic = spectra.harmonic_mask(model()["L"]) & (model()["A"] > 10)
    difference_dB = 20 * np.log10(model("again.model")["A"][harmonic] / model()["A"][harmonic])
    assert np.mean(difference_dB**2) < 40
    options = "--eband_K 24 --num_embedding 64 --epochs 60 --noplots"
    shorten(monkeypatch, vq_vae_ratek)
    call(vq_vae_ratek, "mel.f32", *options.split())
    sent = "--indexout mel.npy --testout q.f32 --noplots"
    call(vq_out, "vq_vae_ratek.keras", "mel.f32", *sent.split())
    decoded = np.fromfile("q.f32", "<f4").reshape(-1, 24)
    counted = spectra.is_counted(vectors, 10)
    assert np.mean((decoded - vectors)[counted] ** 2) < 0.3 * vectors[counted].var(axis=0).mean()
    simulate(source, "--rateK --K 24 --rateKin q.f32 -o y.raw")
    parts = np.abs([speech("x.raw"), speech("y.raw")]).reshape(2, -1, 400)
    assert np.corrcoef(np.log(1 + parts.mean(axis=2)))[0, 1] > 0.9


def test_band_matrix_by_hand():
    matrix = c2sim.BANDS.astype(np.float64)
    assert matrix.shape == (257, 14)
    # the outer bands are doubled
    np.testing.assert_allclose(matrix[6, :3], [2 * 6 / 12, 6 / 12, 0])
    np.testing.assert_allclose(matrix[35, 1:5], [0, 2 / 12, 10 / 12, 0])
    # bins of 15.6 Hz where a band is at its peak
    starts = np.array([0, 12, 25, 38, 51, 64, 76, 89, 102, 128, 153, 179, 204])
    np.testing.assert_array_equal(matrix[starts, range(13)], [2] + [1] * 12)
    # a triangle that rises in a and falls in b bins sums to (a − 1)/2 + (b + 1)/2
    sums = [13, *[12] * 7, 18.5, 25, 25, 25, 38, 50]
    np.testing.assert_allclose(matrix.sum(axis=0), sums, rtol=1e-6)


def test_rate_K_by_hand():
    """All amplitudes 60 dB; silence; one harmonic above others, which get 50 dB below it."""
    Wo, L = np.full(3, np.pi / 40, np.float32), np.full(3, 39)
    A = np.zeros((3, 161), np.float32)
    A[0, 1:40] = 1000
    A[2, 1:40] = 1e-3
    A[2, 2] = 1000
    vectors = c2sim.rate_L_to_K(Wo, L, A)
    np.testing.assert_allclose(vectors[0], 60, atol=1e-4)
    np.testing.assert_array_equal(vectors[1], -150)
    assert vectors[2, 0] == pytest.approx(60, abs=0.1)  # at 199.8 Hz
    np.testing.assert_allclose(vectors[2, 3:], 10, atol=1e-4)


TIME = np.arange(8000) / 8000
SIGNALS = {
    "silence": np.zeros(7990),
    "a click": np.eye(1, 8000, 2000)[0] * 32767,
    "square wave": np.where(np.arange(8000) % 80 < 40, 32767, -32768),
    "a sweep": np.rint(32767 * np.sin(2 * np.pi * (50 * TIME + 1900 * TIME**2))),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("signal", SIGNALS)
def test_any_signal_gives_numbers(signal, capsys):
    source = speech_file(SIGNALS[signal])
    simulate(source, "--modelout x.model -o y.raw")
    assert ("warning: silence" in capsys.readouterr().err) == (signal == "silence")
    options = "--phase0 --postfilter --modelout rate_K.model -o K.raw"
    simulate(source, "--rateK --rateKout K.f32", options)
    assert codec2_model.read_rate_K("K.f32", 20).shape == (100, 20)
    assert len(speech()) == len(speech("K.raw")) == 8000
    for name in ("x.model", "rate_K.model"):
        codec2_model.read(name)  # checks every record
        assert np.isfinite(model(name)["A"]).all()
        assert ((model(name)["L"] >= 9) & (model(name)["L"] <= 79)).all()


def test_wav_and_raw_are_the_same():
    samples = sample_speech(2)
    simulate(speech_file(samples), "--bands bands.f32 -o y.raw")
    from_raw = outputs()
    simulate(sound_file("in.wav", samples), "--bands bands.f32 -o y.raw")
    Path("in.wav").unlink()
    assert outputs() == from_raw
    simulate(speech_file(samples), "-o y.wav")
    with wave.open("y.wav") as file:
        assert file.getparams()[:4] == (1, 2, 8000, len(samples))
        assert file.readframes(len(samples)) == Path("y.raw").read_bytes()


def test_stdin_and_stdout(run):
    """What its header says; the lines about it are on stderr then."""
    samples = sample_speech(1)
    simulate(speech_file(samples), "--modelout x.model")
    wav = sound_file(None, samples, kind="WAV")
    result = run("c2sim.py", "-", "--modelout", "-", input=wav, text=False)
    assert result.returncode == 0
    assert result.stdout == Path("x.model").read_bytes()
    assert result.stderr.splitlines()[-1] == b"frames: 100 written, 0 left out"


def test_bands_of_silence_are_refused():
    """Nothing is left to write, and what has been written goes, while a good file stays."""
    source = speech_file(np.zeros(8000))
    Path("x.model").write_text("a good file")
    with pytest.raises(FormatError, match=r"^x\.raw: no frame has a mean band energy above 10 dB"):
        simulate(source, "--bands_lower 10", MODEL_FEATURES_SPEECH)
    assert outputs() == {"x.model": b"a good file"}
