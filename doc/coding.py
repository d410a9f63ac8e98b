"""What `make results` measures: features, decoded vectors and speech of every quantiser.

Each function keeps what it finds in a file of results/, whose name changes with the networks, the
search and the speech; what is there is not made again.  work() spreads them over two processes.

Units: speech int16 at 8 kHz, vectors in dB, errors in dB², delays in ms.
"""

import concurrent.futures
import functools
import multiprocessing
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
os.environ.update(ONE_THREAD)  # before NumPy is imported: one process works on each core

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import codec2_model
import demo
import measure
from common import plumbing, search, spectra

WORK = ROOT / "results"
NETWORKS = ROOT / "networks"
PROCESSES = 2
LOWER_DB = 10  # frames with a larger mean count
ANALYSIS_MS = 20  # of speech after the middle of a frame that c2sim.py looks at
LOOKAHEADS_MS = (0, 40, 80, 160)  # of the curve over delay; of the classical quantiser also
LONG_MS = 240  # with which its delay is that of the networks
EVERY = 5  # every so many speakers for the curve, and for other conditions
CURVE = ("vq_K20_1100", "vq_K20_550")
ROBUST = "vq_K20_1100"  # the network that other conditions are tried on
CONDITIONS = (
    "telephone band, 300 to 3400 Hz",
    "white noise, 20 dB below the speech",
    "20 dB quieter",
    "6 dB louder, clipped where it must",
)
ERRORS = (  # what goes wrong, and in which share of the bits or vectors
    ("bit errors", 0.001),
    ("bit errors", 0.01),
    ("bit errors", 0.03),
    ("lost vectors", 0.05),
)

# ---------------------------------------------------------------- features


def folder_of(speech):
    """Folder that keeps what is measured on this speech, as c2sim.py analyses it."""
    folder = WORK / measure.key(speech.samples.tobytes(), ROOT / "c2sim.py")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_features(folder, samples):
    """Files of a piece of speech in `folder`: speech.wav, speech.model, K14.f32, K20.f32."""
    if (folder / "K20.f32").exists():
        return
    folder.mkdir(exist_ok=True)
    demo.write_wav(folder / "speech.wav", samples)
    files = ("--bands", "K14.f32", "--modelout", "speech.model")
    demo.run(folder, "c2sim.py", "speech.wav", *files)
    demo.run(folder, "c2sim.py", "speech.wav", "--rateK", "--rateKout", "K20.f32")


def vectors(folder, K):
    return codec2_model.read_rate_K(folder / f"K{K}.f32", K)


def prepare(speech, is_public):
    """Features of the speech, of a part of its speakers, and of this part in other conditions.

    Returns the part and {condition: folder}; of the public recordings, all of them and none.
    """
    make_features(folder_of(speech), speech.samples)
    if is_public:
        return speech, {}
    part = measure.some_speakers(speech, EVERY)
    make_features(folder_of(part), part.samples)
    conditions = {}
    for i, words in enumerate(CONDITIONS):
        conditions[words] = folder_of(part) / f"condition_{i}"
        make_features(conditions[words], measure.degrade(part.samples, words))
    return part, conditions


# ---------------------------------------------------------------- quantisers


def kind_of(name):
    """K of the vectors of vq_K20_1100: 20."""
    return int(name.split("_")[1][1:])


@functools.cache
def coders(name):
    """The Coder of a network of networks/, and that of the classical quantiser in its archive."""
    from common import networks

    quantiser = networks.load_quantiser(NETWORKS / f"{name}.keras")
    return {"network": search.coder_of(quantiser), "classical": search.baseline_of(quantiser)}


def network_names():
    """Names of the quantisers in networks/."""
    return sorted(file.stem for file in NETWORKS.glob("vq_*.keras"))


def bits_of(coder):
    """Bits per stage."""
    return round(np.log2(coder.codebooks.shape[1]))


def bit_rate(coder):
    """In bit/s."""
    return len(coder.codebooks) * bits_of(coder) / (coder.dec * spectra.FRAME_S)


def usual_lookahead_ms(name, which):
    """That of vq_out.py: the classical quantiser has as much delay as the network."""
    network = coders(name)["network"]
    lookahead_ms = search.usual_lookahead_ms(network)
    if which == "network":
        return lookahead_ms
    own_ms = search.delay_ms(coders(name)["classical"], 0)
    return max(search.delay_ms(network, lookahead_ms) - own_ms, 0)


def code(folder, name, which, lookahead_ms=None):
    """Indices and decoded vectors of the features in `folder`; kept in a file.

    {"indices": [v][stages], "x_hat": [n][K], "delay_ms", "bit_rate"}; lookahead_ms of the search,
    None: the usual one.
    """
    if lookahead_ms is None:
        lookahead_ms = usual_lookahead_ms(name, which)

    def make():
        coder, x = coders(name)[which], vectors(folder, kind_of(name))
        indices = search.send(coder, x, lookahead_ms=lookahead_ms, lower=LOWER_DB)
        return {
            "indices": indices,
            "x_hat": search.receive(coder, indices, len(x)),
            "delay_ms": search.delay_ms(coder, lookahead_ms) + ANALYSIS_MS,
            "bit_rate": bit_rate(coder),
        }

    sources = (ROOT / "common" / file for file in ("search.py", "classical.py"))
    digits = measure.key(NETWORKS / f"{name}.keras", *filter(Path.exists, sources))
    return measure.kept(folder / f"{name}_{which}_{lookahead_ms:g}ms_{digits}.npz", make)


def receive_wrong(folder, name, which, errors, rate):
    """x_hat [n][K] of indices with flipped bits or lost vectors; kept in a file."""
    sent = code(folder, name, which)

    def make():
        coder = coders(name)[which]
        indices = sent["indices"]
        if errors == "bit errors":
            indices = measure.flip_bits(indices, bits_of(coder), rate)
        else:
            indices = measure.lose_vectors(indices, rate)
        return {"x_hat": search.receive(coder, indices, len(sent["x_hat"]))}

    digits = measure.key(sent["x_hat"].tobytes())
    file = f"{name}_{which}_{errors.replace(' ', '_')}_{rate:g}_{digits}.npz"
    return measure.kept(folder / file, make)


# ---------------------------------------------------------------- speech


def speech_quality(folder, name):
    """PESQ and STOI of NAME.wav for each piece of 8 s: {"quality": [pieces][2]}, NaN where silent.

    Kept in a file, as it takes a third of a second for each piece.
    """

    def make():
        original = demo.read_wav(folder / "speech.wav")
        degraded = demo.align(original, demo.read_wav(folder / f"{name}.wav"))
        scores = np.full((len(original) // measure.PIECE, 2), np.nan)
        for i in range(len(scores)):
            piece = slice(i * measure.PIECE, (i + 1) * measure.PIECE)
            found = demo.piece_quality(original[piece], degraded[piece])
            scores[i] = np.nan if found is None else found
        return {"quality": scores}

    digits = measure.key(folder / f"{name}.wav")
    return measure.kept(folder / f"{name}_quality_{digits}.npz", make)


def make_speech(folder, name, x_hat, decoder):
    """NAME.wav and NAME.model of vectors x_hat [n][K], or of the harmonics themselves when None."""
    if (folder / f"{name}.wav").exists():
        return
    model = "speech.model" if x_hat is None else f"{name}.model"
    if x_hat is not None:
        codec2_model.write_rate_K(x_hat, folder / f"{name}.f32")
        if decoder == "conventional":
            Wo, L, _, phi, voiced = codec2_model.read(folder / "speech.model")
            A = spectra.rate_K_to_L(x_hat, Wo, L)
            codec2_model.write(Wo, L, A, phi, voiced, folder / model)
        else:
            network = NETWORKS / f"{decoder}.keras"
            files = (network, f"{name}.f32", "speech.model", "--modelout", model, "--noplots")
            demo.run(folder, "eband_out.py", *files)
    if decoder == "conventional" and x_hat is not None:
        source = ("--modelin", "speech.model", "--rateK", "--rateKin", f"{name}.f32")
    else:
        source = ("--modelin", model)
    demo.run(folder, "c2sim.py", *source, *demo.RECEIVER, "-o", f"{name}.wav")


def harmonic_figures(folder, name):
    """SD of harmonics of NAME.model: {"sd": [u] dB², "frame": [u]}, of the frames that count."""

    def make():
        Wo, L, A, _, _ = codec2_model.read(folder / "speech.model")
        loud = spectra.is_counted(vectors(folder, 14), LOWER_DB)
        A_hat = codec2_model.read(folder / f"{name}.model")[2]
        target, estimate = (
            spectra.to_bins(Wo[loud], L[loud], x[loud], demo.WIDTH, demo.CUTOFF_HZ)
            for x in (A, A_hat)
        )
        used = ~np.isnan(target).all(axis=1)
        sd = spectra.measure(target, np.nan_to_num(estimate)).sd
        return {"sd": sd, "frame": np.flatnonzero(loud)[used]}

    digits = measure.key(folder / f"{name}.model")
    return measure.kept(folder / f"{name}_harmonics_{digits}.npz", make)


class Chain(NamedTuple):
    """From speech to speech: vectors, perhaps a quantiser, and a decoder to harmonics."""

    name: str  # of the files
    words: str  # what is quantised
    network: str | None
    which: str | None  # network, or the classical quantiser of its archive
    decoder: str | None  # conventional, or a network

    @property
    def bit_rate(self):
        return int(self.network.split("_")[2]) if self.network else None


CHAINS = (
    Chain("harmonics", "none, all harmonics", None, None, None),
    Chain("K20", "none, K = 20", None, None, "conventional"),
    Chain("K20_newamp1", "none, K = 20", None, None, "newamp1"),
    Chain("K20_1100", "network, K = 20", "vq_K20_1100", "network", "newamp1"),
    Chain("K20_1100_classical", "classical, K = 20", "vq_K20_1100", "classical", "newamp1"),
    Chain("K20_550", "network, K = 20", "vq_K20_550", "network", "newamp1"),
    Chain("K20_550_classical", "classical, K = 20", "vq_K20_550", "classical", "newamp1"),
    Chain("K14", "none, K = 14", None, None, "bands_Wo"),
    Chain("K14_1100", "network, K = 14", "vq_K14_1100", "network", "bands_Wo"),
    Chain("K14_1100_classical", "classical, K = 14", "vq_K14_1100", "classical", "bands_Wo"),
)


def make_chain(folder, chain):
    """Speech of one of CHAINS, its PESQ and STOI, and its SD of harmonics."""
    x_hat, digits = None, []
    if chain.network:
        x_hat = code(folder, chain.network, chain.which)["x_hat"]
        digits.append(x_hat.tobytes())
    elif chain.decoder:
        x_hat = vectors(folder, int(chain.name[1:3]))
    if chain.decoder not in (None, "conventional"):
        digits.append(NETWORKS / f"{chain.decoder}.keras")
    file = f"{chain.name}_{measure.key(*digits)}"
    make_speech(folder, file, x_hat, chain.decoder)
    found = speech_quality(folder, file)
    return found if x_hat is None else {**found, **harmonic_figures(folder, file)}


def make_bout(folder):
    """The same vectors by 700C's quantiser and by ours, both heard through c2dec; kept in files.

    --loadratek replaces the shapes (vectors without their mean) that c2dec decodes.  Interpolation,
    energy, pitch, phases and post filter are its own for both, so that only the quantiser differs.
    """
    x = vectors(folder, 20)
    demo.read_wav(folder / "speech.wav").tofile(folder / "speech.raw")
    files = ("700C.bit", "--mlfeat", "700C.f32", "700C.model")
    demo.run(folder, "c2enc", "700C", "speech.raw", *files)
    sent = codec2_model.read_floats(folder / "700C.f32", codec2_model.MLFEAT)
    mean, shapes = sent[:, :1], sent[:, 21:41]
    ours = code(folder, "vq_K20_550", "network")["x_hat"]
    our_shapes = ours[3::4][: len(shapes)]  # c2enc leaves out a last part of 40 ms
    our_shapes = our_shapes - our_shapes.mean(axis=1, keepdims=True)
    found = {}
    for name, heard in (("700C", shapes), ("ours", our_shapes)):
        file = f"bout_{name}_{measure.key(heard.tobytes())}"
        if not (folder / f"{file}.wav").exists():
            codec2_model.write_rate_K(heard, folder / f"{file}.f32")
            load = ("--loadratek", f"{file}.f32")
            demo.run(folder, "c2dec", "700C", "700C.bit", f"{file}.raw", *load)
            demo.write_wav(folder / f"{file}.wav", np.fromfile(folder / f"{file}.raw", "<i2"))
        found[name] = speech_quality(folder, file)["quality"]
    found["x_hat_700C"] = interpolate_700C(mean + shapes, len(x))
    found["x_hat_ours"] = ours
    return found


def interpolate_700C(sent, n):
    """Vectors [n][K] of 10 ms frames: 700C sends frames 3, 7, 11 …, here sent [v][K], with straight
    lines between.

    [[0], [4]], n = 9: 0 0 0 0 1 2 3 4 4.
    """
    return measure.interpolate(sent, 4 * np.arange(len(sent)) + 3, n)


# ---------------------------------------------------------------- whole codecs


class Codec(NamedTuple):
    """A whole codec: pitch, voicing, energy and spectrum are sent."""

    name: str  # of the files; vq_codec_RATE or codec2_MODE
    words: str
    bit_rate: int
    frame_ms: int  # speech that a group of bits stands for
    errors: float = 0  # probability that a bit is wrong


CODECS = (
    Codec("vq_codec_700", "vq_codec.py 700", 700, 40),
    Codec("codec2_700C", "Codec 2 700C", 700, 40),
    Codec("codec2_1200", "Codec 2 1200", 1200, 40),
    Codec("vq_codec_1300", "vq_codec.py 1300", 1300, 40),
    Codec("codec2_1300", "Codec 2 1300", 1300, 40),
    Codec("codec2_1600", "Codec 2 1600", 1600, 40),
    Codec("codec2_2400", "Codec 2 2400", 2400, 20),
    Codec("codec2_3200", "Codec 2 3200", 3200, 20),
    Codec("vq_codec_700", "vq_codec.py 700, 1 % bit errors", 700, 40, 0.01),
    Codec("codec2_700C", "Codec 2 700C, 1 % bit errors", 700, 40, 0.01),
    Codec("vq_codec_1300", "vq_codec.py 1300, 1 % bit errors", 1300, 40, 0.01),
)
HEADER = 8  # bytes of a bit file of vq_codec.py, which errors leave alone


def codecs():
    """Those of CODECS that are on this machine."""
    has_codec2 = shutil.which("c2enc") and shutil.which("c2dec")
    return [codec for codec in CODECS if has_codec2 or codec.name.startswith("vq_codec")]


def make_codec(folder, codec):
    """Speech of one of CODECS, its PESQ and STOI and its delay.

    {"quality": [pieces][2], "delay_ms"}.  Codec 2's delay is that of its output behind its input,
    and a frame that has to be there before it is coded.
    """
    is_ours = codec.name.startswith("vq_codec")
    rate = codec.name.split("_")[-1]
    sources = []
    if is_ours:
        import vq_codec

        files = ("vq_codec.py", "c2sim.py", "common/pitch.py", "common/search.py")
        networks = (vq_codec.NETWORKS / vq_codec.RATES[int(rate)].network, vq_codec.DECODER)
        sources = [*(ROOT / file for file in files), *networks]
    name = f"{codec.name}_{measure.key(*sources)}"
    bits, out = folder / f"{name}.bit", f"{name}_{codec.errors:g}"
    if not bits.exists() and is_ours:
        demo.run(folder, "vq_codec.py", "enc", rate, "speech.wav", f"{name}.bit")
    elif not bits.exists():
        demo.read_wav(folder / "speech.wav").tofile(folder / f"{name}.raw")
        demo.run(folder, "c2enc", rate, f"{name}.raw", f"{name}.bit")
    if not (folder / f"{out}.wav").exists():
        sent = np.fromfile(bits, np.uint8)
        header = HEADER if is_ours else 0
        sent[header:] = measure.flip_bits(sent[header:, None], 8, codec.errors)[:, 0]
        sent.tofile(folder / f"{out}.bit")
        if is_ours:
            demo.run(folder, "vq_codec.py", "dec", f"{out}.bit", f"{out}.wav")
        else:
            demo.run(folder, "c2dec", rate, f"{out}.bit", f"{out}.raw")
            demo.write_wav(folder / f"{out}.wav", np.fromfile(folder / f"{out}.raw", "<i2"))
    found = speech_quality(folder, out)
    if is_ours:
        return {**found, "delay_ms": vq_codec.RATES[int(rate)].delay_ms}
    speech = [demo.read_wav(folder / f"{file}.wav") for file in ("speech", out)]
    return {**found, "delay_ms": round(demo.delay(*speech) * 1000 / measure.FS) + codec.frame_ms}


# ---------------------------------------------------------------- work for two processes


def do(job):
    """Run one of the functions above in a process of its own; what it finds is kept in a file."""
    function, arguments = job
    globals()[function](*arguments)


def curve_jobs():
    """(network, which, look-ahead in ms) of the points of the curve over delay.

    A network of low delay brings along the classical quantiser of the other one.
    """
    names = [name for name in network_names() if name.startswith(CURVE)]
    curves = [(name, "network") for name in names] + [(name, "classical") for name in CURVE]
    points = [(*curve, lookahead_ms) for curve in curves for lookahead_ms in LOOKAHEADS_MS]
    return points + [(name, "classical", LONG_MS) for name in CURVE]


def jobs_of(speech, part, conditions):
    """Lists of jobs, each of which needs what the one before has made."""
    both = ("network", "classical")
    folder, part_folder = folder_of(speech), folder_of(part)
    coded = [("code", (folder, name, which)) for name in network_names() for which in both]
    chains = [("make_chain", (folder, chain)) for chain in CHAINS] if demo.can_score() else []
    whole = [("make_codec", (folder, codec)) for codec in codecs()] if demo.can_score() else []
    clean = [job for job in whole if not job[1][1].errors]
    chains += [job for job in whole if job[1][1].errors]  # they need the bits of the clean ones
    errors = [
        ("receive_wrong", (folder, name, which, *error))
        for name in network_names()
        for which in both
        for error in ERRORS
    ]
    if not conditions:
        return [coded + clean, chains]
    coded += [("code", (part_folder, *job)) for job in curve_jobs()]
    places = [part_folder, *conditions.values()]
    coded += [("code", (place, ROBUST, which)) for place in places for which in both]
    return [list(dict.fromkeys(coded)) + clean, errors + chains]


def work(lists):
    """Do lists of jobs with two processes, one list after the other."""
    context = multiprocessing.get_context("spawn")  # a copy of a process with Keras hangs
    with concurrent.futures.ProcessPoolExecutor(PROCESSES, context) as pool:
        for jobs in lists:
            progress = plumbing.Progress(len(jobs), "job")
            waiting = {pool.submit(do, job): job for job in jobs}
            for done, future in enumerate(concurrent.futures.as_completed(waiting), 1):
                future.result()  # raises what the job has raised
                function, arguments = waiting[future]
                words = " ".join(str(x) for x in arguments[1:])
                progress.show(done, f"{function} {words}")
