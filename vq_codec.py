#!/usr/bin/env python3
"""A whole codec: speech to 700 or 1300 bit/s, spectrum, pitch and voicing together, and back.

Usage:
    ./vq_codec.py enc 700 speech.wav speech.bit; ls -l speech.bit    # 28 bits every 40 ms
    ./vq_codec.py dec speech.bit decoded.wav
    # live: both take seconds to start, and what is recorded meanwhile makes all that follows late
    (sleep 10; arecord -f S16_LE -r 8000) | ./vq_codec.py enc 1300 - - | ./vq_codec.py dec - - \
        | aplay -f S16_LE -r 8000

The sender tracks the pitch (common/pitch.py), analyses the harmonics at this pitch every 10 ms
(c2sim.py), and describes their amplitudes by K = 20 values in dB.  A trained quantiser turns
four of these vectors into 2 or 4 indices of 11 bits (common/search.py); the pitches of their four
frames, each of which may be "no voice", become one index of 6 or 8 bits.  The receiver decodes
both, a network (newamp1_train.py) makes the amplitudes of harmonics of the 20 values, phases are
modelled, and the harmonics are added up.  Frames without a voice get harmonics of a low pitch with
random phases.

`-` is stdin or stdout, as a live stream: each block of 40 ms is worked on when it is there; Ctrl-C
ends it, and what has come is kept.  From the microphone to the loudspeaker it takes 460 ms at 700
bit/s, 300 ms at 1300 bit/s, and what the sound card adds.  With `--net
networks/vq_K20_550_low.keras` at both ends 700 bit/s take 300 ms as well, for 0.06 of PESQ.  One
core does both 5 to 8 times as fast as real time (`make bench`).

Bit file: 8 bytes (magic, version, rate / 100, fingerprint of the quantiser), then for every 40 ms
the indices of the spectrum and that of the pitch, first bit first, without gaps between blocks.

Units: speech 16 bit at 8 kHz, Wo rad/sample, A linear, K = 20 vectors in dB.
"""

import argparse
import contextlib
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import c2sim
from codec2_model import RECORD
from common import networks, pitch, plumbing, sound, spectra
from common.plumbing import FormatError
from common.spectra import FS_HZ

NETWORKS = Path(__file__).resolve().parent / "networks"
DECODER = NETWORKS / "newamp1.keras"  # vectors to harmonics; as good in PESQ as parabolas, and
# 0.04 better in STOI


class Rate(NamedTuple):
    """What 40 ms consist of, in bits; the quantiser; the delay, sample in to sample out."""

    spectrum: int
    pitch: int
    network: str
    delay_ms: int


# at 700 bit/s 280 ms of the quantiser's layers and 40 of its search; at 1300 bit/s the pitch takes
# longer: 120 ms of its search and 40 of its receiver.  At both 40 of the pitch tracker, 40 for a
# block of samples, 40 as a byte may hold bits of two vectors, 20 of the synthesis
RATES = {
    700: Rate(22, 6, "vq_K20_550.keras", 460),
    1300: Rate(44, 8, "vq_K20_1100_low.keras", 300),  # the long one: PESQ + 0.01
}
K = 20
BLOCK = pitch.BLOCK * c2sim.N  # samples that one vector stands for
HEADER = struct.Struct("<2sBBI")
MAGIC, VERSION = b"vq", 1
ANALYSED_HZ = 80  # pitch of frames without a voice at the sender, and
NOISE_HZ = (70, 90)  # at the receiver, where one that changes sounds less like a voice
SHARPNESS = 1.15  # peaks up and valleys down: PESQ + 0.1, STOI − 0.007; 1.3 gives no more
LOWER_DB = 10  # frames whose mean level is not above it do not count in the search
PATHS, TRIED, M_BEST = 4, 6, 32  # of the search; fewer than usual: a third quicker for 2 % of SD
AT_ONCE = 16  # vectors that become amplitudes at once, always: rounding depends on their number
WARM_UP = 16  # blocks, after which all networks have been run
MAX_A_DB = 110  # 16 bit speech has no louder harmonic


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="A whole codec: speech to 700 or 1300 bit/s and back.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    enc = commands.add_parser("enc", help="the sender: speech to bits")
    enc.add_argument("rate", type=int, choices=RATES, metavar="RATE", help="700 or 1300 bit/s")
    speech = f"speech; {' '.join(sound.RAW)} are raw, - is raw or WAV from stdin"
    enc.add_argument("input", metavar="IN", help=speech)
    enc.add_argument("output", metavar="OUT.bit", help="bits; - for stdout")
    dec = commands.add_parser("dec", help="the receiver: bits to speech")
    dec.add_argument("input", metavar="IN.bit", help="bits; - for stdin")
    dec.add_argument("output", metavar="OUT", help="speech, .wav or raw; - for stdout")
    lost = "share of the vectors that get lost on the way, for trials (default: 0)"
    dec.add_argument("--lost", type=plumbing.probability, default=0, metavar="P", help=lost)
    seed = "which ones get lost (default: 1)"
    dec.add_argument("--seed", type=plumbing.natural, default=1, help=seed)
    for command in (enc, dec):
        net = "a quantiser of your own, of as many bits (default: that of the rate in networks/)"
        command.add_argument("--net", metavar="NET", help=net)
    args = parser.parse_args(argv)
    endings = (".wav", *sound.RAW)
    if args.command == "dec" and args.output != "-" and not args.output.lower().endswith(endings):
        parser.error(f"{args.output}: speech is written as .wav, or raw as {' '.join(sound.RAW)}")
    return args


def load(args):
    """enc: {"network": file of the quantiser, "blocks": iterator of int16 [blocks][320]}.

    dec: {"file": open bit file, "header": what read_header() makes of it, None for stdin}.
    """
    plumbing.check_outputs([args.output], [args.input, args.net])
    if args.command == "enc":
        network = choose_network(args.net, args.rate)
        blocks = sound.read_blocks(args.input, BLOCK)
        return {"network": network, "blocks": blocks}
    if args.input == "-":  # the header comes when the sender is ready: Keras is loaded meanwhile
        return {"file": sys.stdin.buffer, "header": None}
    file = open(args.input, "rb")  # noqa: SIM115
    return {"file": file, "header": read_header(file, args)}


def read_header(file, args):
    """{"rate", "network", "fingerprint"} of an open bit file."""
    header = file.read(HEADER.size)
    foreign = f"{args.input}: not a bit file, expected one that vq_codec.py enc has written"
    if len(header) < HEADER.size:
        raise FormatError(foreign)
    magic, version, rate, fingerprint = HEADER.unpack(header)
    if magic != MAGIC or version != VERSION or rate * 100 not in RATES:
        raise FormatError(foreign)
    network = choose_network(args.net, rate * 100)
    return {"rate": rate * 100, "network": network, "fingerprint": fingerprint}


def choose_network(filename, rate):
    """The file of the quantiser, that of the rate if None.  FormatError if not for this rate."""
    filename = filename or NETWORKS / RATES[rate].network
    options = networks.read_quantiser_options(filename)
    bits = options["vq_stages"] * np.log2(options["num_embedding"])
    if (options["eband_K"], options["dec"], bits) != (K, pitch.BLOCK, RATES[rate].spectrum):
        found = f"K = {options['eband_K']}, {options['dec']} frames and {bits:g} bits per vector"
        expected = f"K = {K}, {pitch.BLOCK} frames and {RATES[rate].spectrum} bits per vector"
        raise FormatError(f"{filename}: a network with {found}, expected {expected}")
    return filename


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.start()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras
from common import search

# ------------------------------------------------------------------------------- bits


class BitWriter:
    """Groups of numbers of always the same widths in bits to bytes, without gaps between them.

    With widths 3 and 6, push([[5, 3]]) gives 101 00001 = 0xa1, and flush() 1000 0000 = 0x80.
    """

    def __init__(self, widths):
        self.widths = widths
        self.bits = ""  # that fill no byte yet, such as "101"

    def push(self, groups):
        """The bytes that are full after these groups."""
        for group in groups:
            for number, width in zip(group, self.widths, strict=True):
                self.bits += f"{number:0{width}b}"
        whole = len(self.bits) // 8 * 8
        data = bytes(int(self.bits[i : i + 8], 2) for i in range(0, whole, 8))
        self.bits = self.bits[whole:]
        return data

    def flush(self):
        """The last byte, filled up with zeros, if there is one."""
        return bytes([int(self.bits.ljust(8, "0"), 2)]) if self.bits else b""


class BitReader:
    """The inverse of BitWriter."""

    def __init__(self, widths):
        self.widths = widths
        self.bits = ""  # that fill no group yet

    def push(self, data):
        """List of the groups of numbers that are complete after these bytes."""
        self.bits += "".join(f"{byte:08b}" for byte in data)
        groups = []
        while len(self.bits) >= sum(self.widths):
            groups.append([])
            for width in self.widths:
                groups[-1].append(int(self.bits[:width], 2))
                self.bits = self.bits[width:]
        return groups


def widths(quantiser, rate):
    """Widths in bits of the indices of a vector: those of the stages, then the pitch."""
    stages = quantiser.options["vq_stages"]
    return [RATES[rate].spectrum // stages] * stages + [RATES[rate].pitch]


# ------------------------------------------------------------------------------- sender


class Encoder:
    """Turns samples into groups of indices, those of the quantiser's stages and that of the pitch,
    one group for four frames.  Any number of samples at once gives the same groups; many take less
    time.
    """

    def __init__(self, quantiser, pitch_bits):
        self.past = np.ones(c2sim.HISTORY)  # samples before the next ones
        self.levels = []  # dB, of the frames so far: 1.4 Mbyte per hour
        self.S, self.P = [], []  # spectra of the frames whose pitch is not decided
        self.tracker = pitch.Tracker()
        coder = search.coder_of(quantiser)
        self.vectors = search.Sender(coder, lower=LOWER_DB, paths=PATHS, tried=TRIED, m_best=M_BEST)
        self.pitches, self.pitch = [], pitch.Sender(pitch_bits)
        self.vector_indices, self.pitch_indices = [], []  # those that wait for the others

    def push(self, samples):
        """List of the groups that are decided once these samples [80 n] are known."""
        x = np.concatenate([self.past, samples])
        self.past = x[-c2sim.HISTORY :]
        S, P = c2sim.transform(x)
        self.levels.append(np.float32(spectra.frame_levels(c2sim.band_energies(P))))
        self.S, self.P = [*self.S, *S], [*self.P, *P]
        self.add(self.tracker.push(samples))
        return self.groups()

    def flush(self):
        """List of the groups that are left."""
        self.add(self.tracker.flush())
        self.vector_indices += list(self.vectors.flush())
        self.pitch_indices += self.pitch.flush()
        return self.groups()

    def add(self, pitches):
        """Analyse the next frames at these pitches [n]."""
        n = len(pitches)
        if n == 0:
            return
        Wo = radians(np.where(np.isnan(pitches), np.log2(ANALYSED_HZ), pitches))
        records = c2sim.model_records(Wo, np.array(self.S[:n]), np.array(self.P[:n]))
        self.S, self.P = self.S[n:], self.P[n:]
        vectors = c2sim.rate_L_to_K(Wo, records["L"], records["A"])
        self.vector_indices += list(self.vectors.push(vectors))
        self.pitches += list(pitches)
        while len(self.pitches) >= pitch.BLOCK:
            self.pitch_indices += self.pitch.push(np.array(self.pitches[: pitch.BLOCK]))
            self.pitches = self.pitches[pitch.BLOCK :]

    def groups(self):
        n = min(len(self.vector_indices), len(self.pitch_indices))
        groups = [
            [*stages, index]
            for stages, index in zip(self.vector_indices[:n], self.pitch_indices[:n], strict=True)
        ]
        self.vector_indices = self.vector_indices[n:]
        self.pitch_indices = self.pitch_indices[n:]
        return groups


def radians(pitches):
    """Wo float32 [n] of pitches [n] in octaves: log2(100) at 8 kHz is 2 pi / 80."""
    return np.float32(2 * np.pi / FS_HZ * 2**pitches)


# ------------------------------------------------------------------------------- receiver


class Decoder:
    """Turns groups of indices into samples int16; a lost group is all −1."""

    def __init__(self, quantiser, pitch_bits, amplitudes):
        self.amplitudes = amplitudes  # function: vectors [n][20] → spectra on bins in dB
        self.receiver = search.Receiver(search.coder_of(quantiser))
        self.pitch = pitch.Receiver(pitch_bits)
        self.vectors, self.pitches = [], []  # of frames that wait for the others
        self.rng = np.random.default_rng(1)
        self.phases = c2sim.Phases(phase0=True, postfilter=True)
        self.tail = np.zeros((1, c2sim.N))  # what the last frame leaves for the next one

    def push(self, groups):
        """Samples that are decided once these groups are received."""
        for group in groups:
            self.vectors += list(self.receiver.push(np.array([group[:-1]])))
            self.pitches += [p for block in self.pitch.push(group[-1]) for p in block]
        return self.samples()

    def flush(self):
        """The samples that are left."""
        self.vectors += list(self.receiver.flush())
        self.pitches += [p for block in self.pitch.flush() for p in block]
        return self.samples()

    def samples(self):
        n = min(len(self.vectors), len(self.pitches))
        if n == 0:
            return np.zeros(0, np.int16)
        pitches, vectors = np.array(self.pitches[:n]), np.array(self.vectors[:n])
        self.pitches, self.vectors = self.pitches[n:], self.vectors[n:]
        voiced = ~np.isnan(pitches)
        noise = np.log2(self.rng.uniform(*NOISE_HZ, n))
        Wo = radians(np.where(voiced, pitches, noise))
        L = c2sim.count_harmonics(Wo)
        vectors = np.float32(c2sim.sharpened(vectors, spectra.NEWAMP1_HZ, SHARPNESS))
        A_dB = self.amplitudes(vectors)
        A = spectra.from_bins(np.minimum(A_dB, MAX_A_DB), Wo, L)
        fields = [Wo, L, A, np.zeros_like(A), np.int32(voiced)]
        records = np.rec.fromarrays(fields, RECORD)
        self.phases.apply(records)
        samples, self.tail = c2sim.synthesise(records, self.tail)
        return samples.ravel()


def load_amplitudes(filename):
    """Function that makes spectra of vectors: the network of newamp1_train.py."""
    network = networks.load(filename)
    model = keras.Model(network.inputs, network.outputs[0])
    width = model.outputs[0].shape[-1]
    networks.check_run(model, [(1, K)], [(1, width)], filename)
    run = networks.runner(model)

    def amplitudes(vectors):
        n = len(vectors)
        vectors = np.pad(vectors, ((0, -n % AT_ONCE), (0, 0)))
        parts = np.split(vectors, len(vectors) // AT_ONCE)
        return np.concatenate([run(part) for part in parts])[:n]

    return amplitudes


# ------------------------------------------------------------------------------- main


def encode(args, data, write):
    rate = RATES[args.rate]
    quantiser = networks.load_quantiser(data["network"])
    write(HEADER.pack(MAGIC, VERSION, args.rate // 100, quantiser.fingerprint))
    # the first blocks compile networks, which takes 0.2 s: not those of a live stream
    Encoder(quantiser, rate.pitch).push(np.zeros(WARM_UP * BLOCK))
    encoder, bits = Encoder(quantiser, rate.pitch), BitWriter(widths(quantiser, args.rate))
    try:
        for blocks in data["blocks"]:
            write(bits.push(encoder.push(blocks.ravel())))
        write(bits.push(encoder.flush()))
    except KeyboardInterrupt:
        if args.input != "-":  # Ctrl-C is how a live stream ends; what has come is kept
            raise
    write(bits.flush())
    if not encoder.levels:
        raise FormatError(f"{args.input}: no samples, expected speech")
    spectra.print_level(args.input, np.concatenate(encoder.levels), sys.stderr)


def decode(args, data, write):
    amplitudes = load_amplitudes(DECODER)
    header = data["header"] or read_header(data["file"], args)
    rate, filename = header["rate"], header["network"]
    quantiser = networks.load_quantiser(filename)
    if quantiser.fingerprint != header["fingerprint"]:
        raise FormatError(f"{args.input}: written with another network than {filename}: use --net")
    bits, rng = BitReader(widths(quantiser, rate)), np.random.default_rng(args.seed)
    Decoder(quantiser, RATES[rate].pitch, amplitudes).push([[0] * len(bits.widths)] * WARM_UP)
    decoder = Decoder(quantiser, RATES[rate].pitch, amplitudes)
    try:
        while received := data["file"].read1(64):
            groups = bits.push(received)
            for group in groups:
                if rng.random() < args.lost:
                    group[:] = [pitch.LOST] * len(group)
            write(decoder.push(groups).tobytes())
        write(decoder.flush().tobytes())
    except KeyboardInterrupt:
        if args.input != "-":
            raise
    if decoder.receiver.received == 0:
        raise FormatError(f"{args.input}: no bits after the header")
    if len(bits.bits) >= 8 or "1" in bits.bits:  # more than what fills up the last byte
        print(f"{args.input}: cut off in the middle of a vector", file=sys.stderr)


def main(args, data):
    """Stream from input to output; a file appears whole or not at all."""
    with contextlib.ExitStack() as stack:
        if args.output == "-":
            file = sys.stdout.buffer
        else:
            new = stack.enter_context(plumbing.replacing(args.output))
            file = stack.enter_context(open(new, "wb"))
        is_wav = args.command == "dec" and args.output.lower().endswith(".wav")
        put = sound.start_wav(file, stack) if is_wav else file.write

        def write(piece):
            put(piece)
            file.flush()

        (encode if args.command == "enc" else decode)(args, data, write)


if __name__ == "__main__":
    main(ARGS, DATA)
