"""Network archives: what is saved comes back; what is broken or hostile is refused in one line."""

import json
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


def save_quantiser(filename):
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
    options |= {"Fs": 8000, "lower": 10}
    means = np.ones(4)
    networks.save_quantiser(encoder, decoder, codebooks, predictor, options, filename, means=means)
    return encoder, decoder, codebooks


def test_a_network_comes_back_with_options_and_arrays(network, tmp_path):
    net, values = tmp_path / "n.keras", np.arange(6, dtype=np.float16).reshape(2, 3)
    networks.save(network, {"script": "x", "dec": 3, "Wo": True}, net, codebook=values)
    expected = {"script": ("x", "y"), "dec": range(1, 5), "Wo": (True,)}
    assert networks.read_options(net, expected)["dec"] == 3
    np.testing.assert_array_equal(networks.read_arrays(net)["codebook"], values)
    x = np.ones((1, 3))
    np.testing.assert_array_equal(networks.load(net)(x), network(x))


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


EXPECTED = {"script": ("vq",), "K": range(2, 161), "Wo": (False, True)}
GOOD = {"script": "vq", "K": 14, "Wo": False}


def refusal(function, *arguments):
    """The message for a file that is refused, a single line that begins with its name."""
    with pytest.raises(FormatError) as error:
        function(*arguments)
    message = str(error.value)
    assert message.startswith(f"{arguments[0]}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "options",
    [
        *({name: value for name, value in GOOD.items() if name != left_out} for left_out in GOOD),
        *(GOOD | {"K": K} for K in (1, 161, 14.0, "14", True, None, [14], 10**400, float("nan"))),
        *(GOOD | {"script": script} for script in ("vq2", None, {"vq": 1})),
        *(GOOD | {"Wo": Wo} for Wo in (0, "False", None)),
        *([], [GOOD], None, "vq", [["script", "vq"], 1]),
    ],
)
def test_bad_options_are_refused(options, tmp_path):
    with zipfile.ZipFile(tmp_path / "n", "w") as archive:
        archive.writestr("options.json", json.dumps(options))
    refusal(networks.read_options, tmp_path / "n", EXPECTED)


def test_bad_archives_are_refused(tmp_path):
    for name, member in (("no options", "option.json"), ("good", "options.json")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, json.dumps(GOOD))
    networks.read_options(tmp_path / "good", EXPECTED)
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("options.json", json.dumps(GOOD))
        archive.writestr("model.weights.h5", bytes(2**27))
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:-30])
    (tmp_path / "empty").touch()
    for name in ("no options", "bomb", "cut", "empty", "."):
        refusal(networks.read_options, tmp_path / name, EXPECTED)


def test_nothing_of_a_network_is_executed(network, tmp_path):
    """Neither what its configuration names, nor Python code, which safe mode refuses."""
    net, it_ran = tmp_path / "n.keras", str(tmp_path / "it_ran")
    networks.save(network, GOOD, net)
    config = {"command": f"touch {it_ran}"}
    layer = {"module": "os", "class_name": "system", "config": config, "registered_name": None}

    def with_layer(text):
        config = json.loads(text)
        config["config"]["layers"][1] = layer
        return json.dumps(config).encode()

    change_member(net, "config.json", with_layer)
    assert networks.read_options(net, EXPECTED) == GOOD
    assert "not a network that can be run" in refusal(networks.load, net)
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


BROKEN = {
    "config.json": lambda data: b"{}",
    "model.weights.h5": lambda data: data[: len(data) // 2],
    "codebooks.npy": lambda data: data[:-1],
    "predictor.npy": lambda data: data.replace(b"(3, 3)", b"(9999999, 9999999)"),
    "options.json": lambda data: data.replace(b'"num_embedding": 5', b'"num_embedding": 6'),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_quantiser_that_is_not_what_it_tells_is_refused(name, tmp_path):
    save_quantiser(tmp_path / "q.keras")
    change_member(tmp_path / "q.keras", name, BROKEN[name])
    refusal(networks.load_quantiser, tmp_path / "q.keras")


def test_a_network_of_old_is_refused(network, tmp_path):
    """One whose codebooks were weights of a layer."""
    options = {"eband_K": 4, "dec": 2, "vq_stages": 2, "num_embedding": 5, "embedding_dim": 3}
    networks.save(network, options, tmp_path / "old.keras")
    assert "an old network?" in refusal(networks.load_quantiser, tmp_path / "old.keras")


def test_a_network_is_run_once(network):
    def told(inputs, outputs):
        with pytest.raises(FormatError) as error:
            networks.check_run(network, [inputs], [outputs], "n.keras")
        return str(error.value)

    networks.check_run(network, [(2, 3)], [(2, 2)], "n.keras")
    assert told((2, 3), (2, 4)) == "n.keras: a network that makes [(2, 2)], expected [(2, 4)]"
    assert told((2, 7), (2, 2)).startswith("n.keras: a network that cannot be run: ")
    network.set_weights([network.get_weights()[0], np.array([np.inf, 0])])
    assert "not finite" in told((2, 3), (2, 2))
