"""vq_vae_demo_2stage.py: what the second stage gains, from the command line."""

import numpy as np
import pytest
from PIL import Image

import vq_vae_demo_2stage


def figures(stdout):
    """{name: values} of the lines `name: value … unit`."""
    lines = (
        line.split(": ") for line in stdout.splitlines() if ": " in line and not line.startswith(("epoch", "plot"))
    )
    return {name: [float(v) for v in values.split()[:-1] if v != "of" and v != "per"] for name, values in lines}


def test_better_than_stage_by_stage(run, tmp_path):
    result = run("vq_vae_demo_2stage.py", "--epochs", 4, "--nb_samples", 20000, "--plot_dir", "plots")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    values = figures(result.stdout)
    assert values["bits"] == [8]
    figure = float(result.stdout.splitlines()[-1])
    assert [figure] == values["held-out variance after"]
    assert values["Shannon bound"][0] < figure <= 0.0125 < values["k-means, stage by stage"][0]
    for stage in (1, 2):
        counts = np.array(values[f"use of stage {stage}"])
        assert len(counts) == 16
        assert counts.sum() == 50_000  # every vector is counted
        assert (counts > 0).all()
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "vq_vae_demo_2stage.gif",
        "vq_vae_demo_2stage.png",
    }
    with Image.open(tmp_path / "plots" / "vq_vae_demo_2stage.gif") as film:
        assert film.n_frames == 5  # the start as well


@pytest.mark.parametrize(
    "options",
    [
        ("--embedding_dim", 1, "--num_embedding", 3, "--mbest", 1, "--train_decoder"),
        ("--embedding_dim", 4, "--num_embedding", 5, "--test", "qpsk", "--mbest", 9, "--decay", 0.99),
    ],
)
def test_other_sizes(options, tmp_path, capsys):
    """In this process, so that Keras is imported once."""
    options = list(map(str, (*options, "--epochs", 1, "--nb_samples", 5000, "--plot_dir", tmp_path)))
    vq_vae_demo_2stage.main(vq_vae_demo_2stage.parse_args(options))
    values = figures(capsys.readouterr().out)
    assert values["bits"] == [pytest.approx(2 * np.log2(int(options[3])), abs=0.01)]
    assert values["held-out variance after"][0] < values["held-out variance before"][0]
    assert {path.name for path in tmp_path.iterdir()} == {"vq_vae_demo_2stage.gif", "vq_vae_demo_2stage.png"}
