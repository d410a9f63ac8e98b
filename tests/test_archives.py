"""Network archives: what is saved comes back; what is broken or hostile is refused in one line."""

import json
import os
import zipfile

import keras
import numpy as np
import pytest

from common import networks
from common.plumbing import FormatError

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture
def network():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])


def save_quantiser(filename, **changed):
    """A quantiser of K = 4, dec 2, two stages of 5 codewords of dimension 3."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    frames = keras.Input((None, 4))
    x = layers.Conv1D(3, 2, strides=2)(frames)
    encoder = keras.Model(frames, x, name="encoder")
    z = keras.Input((None, 3))
    x = layers.Conv1D(4, 1)(layers.UpSampling1D(2)(z))
    decoder = keras.Model(z, x, name="decoder")
    codebooks = np.random.default_rng(1).normal(size=(2, 5, 3))
    predictor = np.eye(3) / 2
    options = {"eband_K": 4, "dec": 2, "vq_stages": 2, "num_embedding": 5, "embedding_dim": 3}
    options |= {"Fs": 8000, "lower": 10} | changed
    networks.save_quantiser(
        encoder, decoder, codebooks, predictor, options, filename, means=np.ones(4)
    )
    return encoder, decoder, codebooks


# ---------------------------------------------------------------- there and back


def test_a_network_comes_back_with_options_and_arrays(network, tmp_path):
    net, values = tmp_path / "n.keras", np.arange(6, dtype=np.float16).reshape(2, 3)
    networks.save(network, {"script": "x", "dec": 3, "Wo": True}, net, codebook=values)
    expected = {"script": ("x", "y"), "dec": range(1, 5), "Wo": (True,)}
    assert networks.read_options(net, expected)["dec"] == 3
    np.testing.assert_array_equal(networks.read_arrays(net)["codebook"], values)
    x = np.ones((1, 3))
    np.testing.assert_array_equal(networks.load(net)(x), network(x))


def test_a_network_file_is_half_as_large_as_its_weights(tmp_path):
    """They are rounded to 11 bits, in the network that is saved as well: both give the same."""
    layer = keras.layers.Dense(300)
    network = keras.Sequential([keras.Input((300,)), layer])
    before = np.array(layer.kernel)
    networks.save(network, {}, tmp_path / "n.keras")
    np.testing.assert_allclose(layer.kernel, before, rtol=2**-11, atol=1e-7)
    saved = networks.load(tmp_path / "n.keras").get_weights()[0]
    np.testing.assert_array_equal(saved, layer.kernel)
    assert os.path.getsize(tmp_path / "n.keras") < 0.55 * before.nbytes


def test_a_quantiser_comes_back(tmp_path):
    encoder, decoder, codebooks = save_quantiser(tmp_path / "q.keras")
    quantiser = networks.load_quantiser(tmp_path / "q.keras")
    frames, z = np.ones((1, 6, 4), np.float32), np.ones((1, 3, 3), np.float32)
    np.testing.assert_array_equal(quantiser.encoder(frames), encoder(frames))
    np.testing.assert_array_equal(quantiser.decoder(z), decoder(z))
    np.testing.assert_allclose(quantiser.codebooks, codebooks, rtol=1e-3)
    np.testing.assert_array_equal(quantiser.predictor, np.eye(3) / 2)
    np.testing.assert_array_equal(quantiser.baseline["means"], np.ones(4))
    assert quantiser.fingerprint == networks.load_quantiser(tmp_path / "q.keras").fingerprint


def test_fingerprints_differ(tmp_path):
    """By anything that the receiver needs: here one weight of the decoder."""
    _, decoder, _ = save_quantiser(tmp_path / "a.keras")
    weights = decoder.get_weights()
    weights[0][0, 0, 0] += 1
    encoder = keras.models.clone_model(networks.load_quantiser(tmp_path / "a.keras").encoder)
    decoder.set_weights(weights)
    first = networks.load_quantiser(tmp_path / "a.keras")
    arguments = (first.codebooks, first.predictor, first.options, tmp_path / "b.keras")
    networks.save_quantiser(encoder, decoder, *arguments)
    assert networks.load_quantiser(tmp_path / "b.keras").fingerprint != first.fingerprint


# ---------------------------------------------------------------- diverged


@pytest.mark.parametrize("value", [np.nan, 1e5])
def test_weights_of_a_diverged_training_are_neither_saved_nor_run(network, tmp_path, value):
    net = tmp_path / "n.keras"
    net.write_text("a good network")
    weights = network.get_weights()
    weights[0][1, 1] = value
    network.set_weights(weights)
    with pytest.raises(FormatError, match=f"^{net}: .*diverged"):
        networks.save(network, {}, net)
    assert net.read_text() == "a good network"
    network.save(net)
    with pytest.raises(FormatError, match=f"^{net}: .*diverged"):
        networks.load(net)


@pytest.mark.parametrize("value", [np.nan, 1e30, 1j])
def test_arrays_of_unusual_numbers_are_refused(network, tmp_path, value):
    networks.save(network, {}, tmp_path / "n.keras", codebook=np.array([value, value]))
    with pytest.raises(FormatError, match=r"codebook\.npy in this network holds unusual numbers"):
        networks.read_arrays(tmp_path / "n.keras")


# ---------------------------------------------------------------- archives of strangers

EXPECTED = {"script": ("vq",), "K": range(2, 161), "Wo": (False, True)}
GOOD = {"script": "vq", "K": 14, "Wo": False}
BAD_OPTIONS = [
    *({name: value for name, value in GOOD.items() if name != left_out} for left_out in GOOD),
    *(GOOD | {"K": K} for K in (1, 161, 14.0, "14", True, None, [14], 10**400, float("nan"))),
    *(GOOD | {"script": script} for script in ("vq2", None, 0, ["vq"], {"vq": 1})),
    *(GOOD | {"Wo": Wo} for Wo in (0, "False", None, [False])),
    *([], [GOOD], None, 14, "vq", [["script", "vq"], 1]),
]
BAD_MEMBERS = [b"", b"{", b"\xff\xfe{}", b"[" * 100_000]


def bad_archives(folder):
    """Fill a folder with files that are not networks of these scripts; returns their names."""
    members = [*(json.dumps(options).encode() for options in BAD_OPTIONS), *BAD_MEMBERS]
    for i, text in enumerate(members):
        with zipfile.ZipFile(folder / f"options {i}", "w") as archive:
            archive.writestr("options.json", text)
    with zipfile.ZipFile(folder / "no options", "w") as archive:
        archive.writestr("option.json", json.dumps(GOOD))
    with zipfile.ZipFile(folder / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("options.json", json.dumps(GOOD))
        archive.writestr("model.weights.h5", bytes(2**27))
    data = bytearray((folder / "options 1").read_bytes())
    (folder / "cut").write_bytes(data[:-30])
    data[45] ^= 255  # within the text
    (folder / "flipped").write_bytes(data)
    (folder / "empty").touch()
    (folder / "png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(999))
    return [*folder.iterdir(), folder]


def refusal(function, *arguments):
    """The message for a file that is refused, else None."""
    try:
        function(*arguments)
    except FormatError as error:
        return str(error)


def test_every_bad_archive_is_refused_in_one_line(tmp_path):
    archives = bad_archives(tmp_path)
    messages = {name: refusal(networks.read_options, name, EXPECTED) for name in archives}
    assert [filename for filename, message in messages.items() if message is None] == []
    for filename, message in messages.items():
        assert message.startswith(f"{filename}: ")
        assert "\n" not in message
    assert f"{tmp_path}/options 4: a network with K 161, expected 2 to 160" in messages.values()


def test_nothing_of_a_network_is_executed(network, tmp_path):
    """Neither what its configuration names, nor Python code, which safe mode refuses."""
    net = tmp_path / "n.keras"
    networks.save(network, GOOD, net)
    config = {"command": f"touch {tmp_path}/it_ran"}
    layer = {"module": "os", "class_name": "system", "config": config, "registered_name": None}
    change_member(net, "config.json", lambda text: with_layer(text, layer))
    assert networks.read_options(net, EXPECTED) == GOOD
    assert "not a network that can be run" in refusal(networks.load, net)
    it_ran = str(tmp_path / "it_ran")
    attack = keras.layers.Lambda(lambda x: (open(it_ran, "w").close(), x)[1])
    inputs = keras.Input((3,))
    networks.save(keras.Model(inputs, attack(inputs)), GOOD, net)
    (tmp_path / "it_ran").unlink()
    assert "Lambda" in refusal(networks.load, net)
    assert not (tmp_path / "it_ran").exists()


def change_member(filename, name, change):
    """Replace a member of an archive by change(its bytes)."""
    with zipfile.ZipFile(filename) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    members[name] = change(members[name])
    with zipfile.ZipFile(filename, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)


def with_layer(text, layer):
    config = json.loads(text)
    config["config"]["layers"][1] = layer
    return json.dumps(config).encode()


BROKEN = {
    "config.json": lambda data: b"{}",
    "model.weights.h5": lambda data: data[: len(data) // 2],
    "codebooks.npy": lambda data: data[:-1],
    "predictor.npy": lambda data: data.replace(b"(3, 3)", b"(9999999, 9999999)"),
    "options.json": lambda data: data.replace(b'"dec": 2', b'"dec": 3'),
}
OTHER_SIZES = {"num_embedding": 6, "embedding_dim": 2, "eband_K": 5}


@pytest.mark.parametrize("name", [*BROKEN, *OTHER_SIZES])
def test_a_quantiser_that_is_not_what_it_tells_is_refused(name, tmp_path):
    net = tmp_path / "q.keras"
    if name in BROKEN:
        save_quantiser(net)
        change_member(net, name, BROKEN[name])
    else:
        save_quantiser(net, **{name: OTHER_SIZES[name]})
    message = refusal(networks.load_quantiser, net)
    assert message.startswith(f"{net}: ")
    assert "\n" not in message


def test_a_network_of_old_is_refused(network, tmp_path):
    """One whose codebooks were weights of a layer."""
    options = {"eband_K": 4, "dec": 2, "vq_stages": 2, "num_embedding": 5, "embedding_dim": 3}
    networks.save(network, options, tmp_path / "old.keras")
    assert "an old network?" in refusal(networks.load_quantiser, tmp_path / "old.keras")


def test_a_network_is_run_once(network, tmp_path):
    shapes = [(2, 3)], [(2, 2)]
    networks.check_run(network, *shapes, "n.keras")
    bad_shape = refusal(networks.check_run, network, [(2, 3)], [(2, 4)], "n.keras")
    assert bad_shape == "n.keras: a network that makes [(2, 2)], expected [(2, 4)]"
    message = refusal(networks.check_run, network, [(2, 7)], [(2, 2)], "n.keras")
    assert message.startswith("n.keras: a network that cannot be run: ")
    assert "\n" not in message
    weights = network.get_weights()
    network.set_weights([weights[0], np.array([np.inf, 0])])
    assert "not finite" in refusal(networks.check_run, network, *shapes, "n.keras")


def test_a_network_with_changed_bytes_is_refused_or_the_same(tmp_path):
    """Single bits: whatever can be loaded gives what the good one gives."""
    net = tmp_path / "q.keras"
    save_quantiser(net)
    good, x = net.read_bytes(), np.ones((1, 4, 4), np.float32)
    expected = np.array(networks.load_quantiser(net).encoder(x))
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(30):
        data = bytearray(good)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        net.write_bytes(data)
        message = refusal(networks.load_quantiser, net)
        if message is None:
            encoder = networks.load_quantiser(net).encoder
            np.testing.assert_array_equal(encoder(x), expected)
        else:
            assert message.startswith(f"{net}: ")
            refused += 1
    assert 5 < refused < 30
