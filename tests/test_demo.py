"""make demo: names as data, a page that works in a browser, delays and quality, and no mixture after a failure."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import codec2_model

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

sys.path.insert(0, str(ROOT / "doc"))
import demo

NAMES = ["-dash.wav", "a 'b' \"c\".wav", "`touch x`$(touch y)$(shell touch z).wav", "$HOME $$ #;&|\\.wav"]

# What the test does on the page, as a listener: it clicks, presses keys, and looks.  The outcome becomes the title.
LISTENER = """
<script>
(async () => {
  const failed = [];
  const check = (what, good) => { if (!good) failed.push(what); };
  const all = (selector) => [...document.querySelectorAll(selector)];
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const until = async (what, good) => {
    for (let i = 0; i < 400 && !good(); i++) await new Promise((done) => setTimeout(done, 25));
    check(what, good());
  };
  const sounds = all("audio");
  const playing = () => sounds.map((sound) => !sound.paused);
  const names = () => all("#versions .name").map((name) => name.textContent);
  check("three versions, the original first", names().join() === "Original,K = 20,Codec 2 <700C>");
  check("rates", all("#versions .rate").map((rate) => rate.textContent)[1] === "1100 bit/s");
  check("figures", all("#versions .figures")[1].textContent === "SD 12.3 dB²PESQ 3.21STOI 0.88");
  for (const sound of sounds) await until("duration", () => Math.abs(sound.duration - 1.5) < 0.01);
  for (const image of all("#versions img")) await until("spectrogram", () => image.naturalWidth > 0);
  check("every picture has a description", all("img").every((image) => image.alt));
  await sounds[1].play().then(() => sounds[1].pause(), () => failed.push("play() refused"));
  press("2");
  await until("key 2 plays version 2", () => playing().join() === "false,true,false" && sounds[1].currentTime > 0.1);
  const moment = sounds[1].currentTime;
  press("ArrowDown");
  check("the next version plays", playing().join() === "false,false,true");
  check("from the same moment", Math.abs(sounds[2].currentTime - moment) < 0.1);
  await until("it plays", () => sounds[2].currentTime > moment);
  press(" ");
  check("space pauses", !playing().includes(true));
  const before = sounds[2].currentTime;
  press("ArrowLeft");
  check("arrow left goes back", sounds[2].currentTime < before);
  all("#versions button")[0].click();
  await until("a click plays", () => playing().join() === "true,false,false");
  document.querySelector("#blind").click();
  check("blind pauses", !playing().includes(true));
  check("blind names", names().join() === "Version A,Version B,Version C");
  check("blind figures", all(".rate, .figures, .strip img").every((element) => element.hidden));
  press("r");
  const revealed = names().join();
  check("reveal", /^A: .*,B: .*,C: .*$/.test(revealed) && revealed.includes("Original") && revealed.includes("K = 20"));
  check("revealed figures", all(".rate, .figures").every((element) => !element.hidden));
  press("b");
  check("back in order", names().join() === "Original,K = 20,Codec 2 <700C>");
  check("film", document.querySelector("#pictures img").getAttribute("src") === "film/training.gif");
  check("narrow", document.documentElement.scrollWidth <= innerWidth);
  document.title = failed.length ? `failed: ${failed.join("; ")}` : "works";
})().catch((error) => { document.title = `failed: ${error}`; });
</script>
"""


def speech_like(seconds=1.5, seed=1):
    """Noise that comes and goes, int16, at 8 kHz."""
    rng = np.random.default_rng(seed)
    n = int(seconds * 8000)
    return np.int16(3000 * rng.normal(size=n) * (np.sin(np.arange(n) / 700) > 0) * np.sin(np.arange(n) / 150))


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("as_variable", [True, False])
def test_name_of_the_speech_is_data(name, as_variable, tmp_path):
    """SPEECH=… after `make demo` and before it: the program gets the very bytes, and nothing is run."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    command = ["make", "-s", "-o", ".venv/demo", "PY=printenv SPEECH #", "demo"]
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "demo").touch()
    command += [f"SPEECH={name}"] if as_variable else []
    env = {**os.environ, "SPEECH": "other" if as_variable else name}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == (f"{name}\n", "")
    assert sorted(os.listdir(tmp_path)) == [".venv", "Makefile"]


@pytest.mark.parametrize("name", NAMES)
def test_speech_of_ones_own(name, tmp_path):
    speech = speech_like(70)
    demo.write_wav(tmp_path / name, speech)
    chosen, title, passages = demo.choose_speech(str(tmp_path / name))
    np.testing.assert_array_equal(chosen, speech[: 60 * 8000])
    assert title == name
    assert passages[0] == ("0–6 s", 0, 6)
    assert passages[-1] == ("54–60 s", 54, 60)


def test_public_speech(tmp_path, monkeypatch):
    """Clips that are not in the training speech, one passage each; without them the bundled sample."""
    assert not {"ve9qrp", "vk2tpm_004", "david4", "cross", "g3plx"} & set(demo.CLIPS)
    monkeypatch.setattr(demo, "EXAMPLES", tmp_path)
    assert demo.choose_speech("")[1] == "the bundled sample"
    for i, clip in enumerate(demo.CLIPS):
        np.full(4000 * (i + 1), i, np.int16).tofile(tmp_path / f"{clip}.raw")
    speech, title, passages = demo.choose_speech("")
    assert title == "7 recordings of Debian's codec2-examples"
    for i, (clip, start, end) in enumerate(passages):
        assert clip == demo.CLIPS[i]
        assert (speech[int(start * 8000) : int(end * 8000)] == i).sum() == 4000 * (i + 1)


def test_failure_leaves_the_old_demo(tmp_path, monkeypatch):
    """A network that is missing: its one line, the old folder untouched, nothing beside it."""
    monkeypatch.setattr(demo, "FOLDER", tmp_path / "demo")
    monkeypatch.setattr(demo, "NETWORKS", tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "index.html").write_text("old")
    demo.write_wav(tmp_path / "my.wav", speech_like(2))
    with pytest.raises(SystemExit) as exit:
        demo.main(str(tmp_path / "my.wav"))
    assert exit.value.code.startswith("vq_vae_ratek_conv1d.py: error: ")
    assert exit.value.code.endswith("vq_K20_1100.keras: No such file or directory")
    assert sorted(os.listdir(tmp_path)) == ["demo", "my.wav"]
    assert (tmp_path / "demo" / "index.html").read_text() == "old"
    demo.write_wav(tmp_path / "short.wav", speech_like(0.5))
    with pytest.raises(codec2_model.FormatError, match=r"0.5 s of speech, expected 2 s or more"):
        demo.main(str(tmp_path / "short.wav"))


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("samples", [0, 160, 320])
def test_delay_is_taken_out(samples):
    """Also where the waveform is another one: here it is upside down and has other noise."""
    speech = speech_like(3)
    late = np.pad(-speech, (samples, 0)) + speech_like(4, seed=2)[: samples + len(speech)] // 20
    assert demo.delay(speech, late) == samples
    assert len(demo.align(speech, late[:9000])) == len(speech)
    np.testing.assert_allclose(demo.align(speech, late), -speech, atol=1000)


def test_objective_quality(shared):
    """4.55 is the PESQ of a perfect copy; noise lowers both figures; silence has none."""
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    speech = np.fromfile(shared / "speech" / "test_8k.sw", "<i2", 80000)
    late = np.r_[np.zeros(160, np.int16), speech]
    assert demo.objective_quality(speech, late) == pytest.approx((4.55, 1), abs=0.01)
    pesq, stoi = demo.objective_quality(speech, late + speech_like(len(late) / 8000)[: len(late)] // 3)
    assert pesq < 3
    assert stoi < 0.95
    assert demo.objective_quality(np.zeros(16000, np.int16), np.zeros(16000, np.int16)) == (None, None)


def test_harmonic_sd(tmp_path):
    """Two loud frames with 1 dB and 3 dB too much: (1² + 3²) / 2 = 5 dB²; a quiet frame does not count."""
    L = np.full(3, 20, np.int32)
    A = np.ones((3, 161), np.float32)
    flags = np.zeros(3, np.int32)
    codec2_model.write(np.full(3, np.pi / 21, np.float32), L, A, 0 * A, flags, tmp_path / "a.model")
    codec2_model.write_rate_K(np.repeat([[20], [30], [5]], 14, axis=1), tmp_path / "a.f32")
    A_hat = A * 10 ** (np.array([[1], [3], [40]]) / 20)
    assert demo.harmonic_sd(tmp_path / "a.model", tmp_path / "a.f32", A_hat) == pytest.approx(5, abs=0.02)
    codec2_model.write_rate_K(np.tile([-7.0, 23], (3, 7)), tmp_path / "a.f32")  # means of 8 dB
    with pytest.raises(codec2_model.FormatError, match="the speech is silent"):
        demo.harmonic_sd(tmp_path / "a.model", tmp_path / "a.f32", A_hat)


def test_figures_have_headings_and_no_epochs(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text("print('epoch 1/2: loss 3\\nplot: a.png\\nSD: 4.5 dB²\\n4.5')")
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    demo.run(tmp_path, "script.py", "a b", heading="A heading")
    assert (tmp_path / "figures.txt").read_text() == "A heading\nscript.py a b\nSD: 4.5 dB²\n4.5\n\n"


# ---------------------------------------------------------------- page


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page of three versions of 1.5 s of noise, with a film; returns its folder."""
    monkeypatch.setattr(demo, "objective_quality", lambda *_: (3.21, 0.88))
    monkeypatch.setattr(demo, "PICTURES", (("film/training", "A film"), ("not/there", "Not there")))
    versions = (demo.VERSIONS[0], demo.VERSIONS[3], ("codec2_700C", "Codec 2 <700C>", 550, "550 of 700 bit/s"))
    monkeypatch.setattr(demo, "VERSIONS", (*versions, ("missing", "Missing", 1, "1 bit/s")))
    for i, (name, *_) in enumerate(versions):
        demo.write_wav(tmp_path / f"{name}.wav", np.roll(speech_like(), 8 * i))
    (tmp_path / "film").mkdir()
    for ending in ("png", "gif"):
        Image.new("P", (400, 200)).save(tmp_path / "film" / f"training.{ending}")
    passages = [("first", 0, 0.75), ("second", 0.75, 1.5)]
    demo.make_page(tmp_path, '</script> & "quotes".wav', passages, {"K20_1100": 12.34})
    return tmp_path


def test_page_has_its_data(page):
    text = (page / "index.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["title"] == '</script> & "quotes".wav'
    assert [version["sd"] for version in data["versions"]] == [None, 12.34, None]
    assert [version["pesq"] for version in data["versions"]] == [None, 3.21, 3.21]
    assert data["pictures"] == [{"file": "film/training", "film": True, "text": "A film"}]
    files = [f"{version['file']}.{ending}" for version in data["versions"] for ending in ("wav", "png")]
    assert all((page / file).stat().st_size > 1000 for file in files)
    assert not re.search(r"(src|href)=.?https?:|@import|url\(", text), "the page has to work offline"


def test_page_in_a_browser(page):
    """Players load and play, keys and clicks change version at the same moment, the blind order hides and reveals."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Debian's chromium")
    text = (page / "index.html").read_text(encoding="utf-8").replace("</body>", f"{LISTENER}</body>")
    (page / "test.html").write_text(text, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--mute-audio", "--remote-debugging-port=0"]
    options += ["--autoplay-policy=no-user-gesture-required", f"--user-data-dir={page / 'browser'}"]
    with open(page / "browser.log", "w+") as log:
        process = subprocess.Popen([browser, *options, (page / "test.html").as_uri()], stderr=log, stdout=log)
        try:
            assert title_of_page(page / "browser" / "DevToolsActivePort") == "works"
        finally:
            process.terminate()
            process.wait(timeout=30)


def title_of_page(port_file, patience_s=60):
    """The title of the page in the browser, as soon as it is an outcome; the browser tells it at a port of its own."""
    title, give_up = None, time.monotonic() + patience_s
    while not re.match("works|failed", title or "") and time.monotonic() < give_up:
        time.sleep(0.1)
        if port_file.exists() and (port := port_file.read_text().partition("\n")[0]):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                title = next((page["title"] for page in json.load(answer) if page["type"] == "page"), None)
    return title
