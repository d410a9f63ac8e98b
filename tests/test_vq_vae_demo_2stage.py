"""vq_vae_demo_2stage.py: what the second stage gains."""

import numpy as np
import pytest
from PIL import Image

import vq_vae_demo_2stage as script
from conftest import call, figures


def test_better_than_stage_by_stage(tmp_path):
    options = ("--epochs", 2, "--nb_samples", 30000, "--plot_dir", tmp_path)
    printed = call(script, *options)
    values = figures(printed)
    assert values["bits"] == 8
    assert float(values["last"]) == values["held-out variance after"]
    assert values["Shannon bound"] < values["held-out variance after"] <= 0.013
    assert values["k-means, stage by stage"] > 0.013
    lines = [line for line in printed.splitlines() if line.startswith("use of")]
    for stage, line in enumerate(lines, 1):
        counts = np.array(line.partition(": ")[2].split()[:-1], int)
        assert len(counts) == values[f"codewords of stage {stage} in use"] == 16
        assert counts.sum() == script.HELD_OUT  # every vector is counted
        assert (counts > 0).all()
    with Image.open(tmp_path / "vq_vae_demo_2stage.gif") as film:
        assert film.n_frames >= 3  # the start as well


def test_k_means_quantises_the_residual(capsys):
    """Sums of a far and a near step: codebook 1 finds the far ones, codebook 2 the near ones."""
    rng = np.random.default_rng(1)
    x = np.float32(rng.choice([-10, 10], (1000, 1)) + rng.choice([-1, 1], (1000, 1)))
    options = ["--num_embedding", "2", "--embedding_dim", "1", "--epochs", "1", "--noplots"]
    script.main(script.parse_args(options), {"train": x, "held-out": x})
    values = figures(capsys.readouterr().out)
    assert values["held-out variance before"] == pytest.approx(101, rel=0.01)
    assert values["k-means, stage by stage"] == pytest.approx(0, abs=0.02)
    assert values["held-out variance after"] == pytest.approx(0, abs=0.02)
