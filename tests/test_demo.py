"""make demo: names as data, no mixture after a failure, figures, a page that works in a browser."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

import codec2_model
from conftest import ROOT

sys.path.insert(0, str(ROOT / "doc"))
import demo

# a listener's clicks and keys, and what has to be seen; the outcome becomes the title
LISTENER = """
<script>
(async () => {
  const failed = [];
  const check = (what, good) => { if (!good) failed.push(what); };
  const all = (selector) => [...document.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const press = (key) =>
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const until = async (what, good) => {
    for (let i = 0; i < 400 && !good(); i++) await new Promise((done) => setTimeout(done, 25));
    check(what, good());
  };
  const sounds = all("audio"); // those of the four versions, and the original once more
  const playing = () => sounds.slice(0, 4).map((sound) => !sound.paused);
  const names = () => all("#codecs .name").map((name) => name.textContent);

  check("whole codecs", names().join() === "Original,vq_codec.py 700,Codec 2 <700C>");
  check("sizes", all("#codecs .figures")[1].textContent === "1,234 bytesPESQ 3.21STOI 0.88");
  for (const sound of sounds) await until("duration", () => Math.abs(sound.duration - 1.5) < 0.01);
  for (const image of all(".strip img")) await until("spectrogram", () => image.naturalWidth > 0);
  press("p");
  check("the next passage", one("#place").min === "0.75" && one("#place").value === "0.75");
  press("2");
  await until("key 2 plays version 2", () => playing().join() === "false,true,false,false"
    && sounds[1].currentTime > 0.85);
  const moment = sounds[1].currentTime;
  press("ArrowDown");
  check("the next version plays", playing().join() === "false,false,true,false");
  check("from the same moment", Math.abs(sounds[2].currentTime - moment) < 0.1);
  press(" ");
  all("#codecs button.version")[0].click();
  await until("a click plays", () => playing().join() === "true,false,false,false");

  one("#blind").click();
  check("blind names", names().join() === "Version A,Version B,Version C");
  check("blind figures", all("#codecs :is(.rate, .figures, .strip img)").every((e) => e.hidden));
  press("4"); // the first version
  press("ArrowDown");
  press("3");
  press("o");
  await until("the original plays by its name", () => !sounds[4].paused);
  all("#codecs li")[2].querySelectorAll(".marks button")[4].click();
  check("no text before it is revealed", one("#text").value === "" && one("#marks").hidden);
  press("r");
  const revealed = names();
  check("reveal", /^A: .*,B: .*,C: .*$/.test(revealed.join()));
  const lines = one("#text").value.trim().split("\\n");
  check("text: title", lines[0] === '<' + '/script> & "quotes".wav, second; 5 excellent to 1 bad');
  check("text: marks, the best first", lines.slice(1).map((line) => line.slice(0, 3)).join() ===
    "5\\tC,4\\tA,3\\tB");
  press("b");
  check("back in order", names().join() === "Original,vq_codec.py 700,Codec 2 <700C>");
  check("narrow", document.documentElement.scrollWidth <= innerWidth);
  document.title = failed.length ? `failed: ${failed.join("; ")}` : "works";
})().catch((error) => { document.title = `failed: ${error}`; });
</script>
"""


def speech_like(seconds=1.5, seed=1):
    """Noise that comes and goes, int16, at 8 kHz."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 8000))
    envelope = (np.sin(time / 700) > 0) * np.sin(time / 150)
    return np.int16(3000 * rng.normal(size=len(time)) * envelope)


def test_name_of_the_speech_is_data(tmp_path):
    """SPEECH=… after `make demo` and before it: the program gets the very bytes, nothing is run."""
    name = "`touch x`$(touch y)$(shell touch z) $HOME 'a' \"b\" $$ #;.wav"
    shutil.copy(ROOT / "Makefile", tmp_path)
    command = ["make", "-s", "-o", ".venv/pesq", "PY=printenv SPEECH #", "demo"]
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "pesq").touch()
    for more, variable in (([f"SPEECH={name}"], "other"), ([], name)):
        env = os.environ | {"SPEECH": variable}
        told = subprocess.check_output([*command, *more], cwd=tmp_path, env=env, text=True)
        assert told == f"{name}\n"
    assert sorted(os.listdir(tmp_path)) == [".venv", "Makefile"]


def test_speech_of_ones_own(tmp_path):
    speech = speech_like(70)
    demo.write_wav(tmp_path / "my.wav", speech)
    chosen, title, passages = demo.choose_speech(str(tmp_path / "my.wav"))
    np.testing.assert_array_equal(chosen, speech[: 60 * 8000])
    assert title == "my.wav"
    assert passages[0] == ("0–6 s", 0, 6)
    assert passages[-1] == ("54–60 s", 54, 60)


def test_failure_leaves_the_old_demo(tmp_path, monkeypatch):
    """A script that is missing: its one line, the old folder untouched, nothing beside it."""
    monkeypatch.setattr(demo, "FOLDER", tmp_path / "demo")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "index.html").write_text("old")
    demo.write_wav(tmp_path / "my.wav", speech_like(2))

    def fail(folder, program, *options, heading=None):
        raise demo.Failed("vq_out.py: error: x.keras: No such file or directory")

    monkeypatch.setattr(demo, "run", fail)
    with pytest.raises(SystemExit) as exit:
        demo.main(demo.parse_args([str(tmp_path / "my.wav")]))
    assert exit.value.code == "vq_out.py: error: x.keras: No such file or directory"
    assert sorted(os.listdir(tmp_path)) == ["demo", "my.wav"]
    assert (tmp_path / "demo" / "index.html").read_text() == "old"


@pytest.mark.parametrize("samples", [0, 2880])
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
    noise = speech_like(len(late) / 8000)[: len(late)] // 3
    pesq, stoi = demo.objective_quality(speech, late + noise)
    assert pesq < 3
    assert stoi < 0.95
    silence = np.zeros(16000, np.int16)
    assert demo.objective_quality(silence, silence) == (None, None)


def test_harmonic_sd(tmp_path):
    """Loud frames with 1 dB and 3 dB too much: (1² + 3²) / 2 = 5; a quiet one does not count, nor
    does what is above 3600 Hz.
    """
    model, bands = tmp_path / "a.model", tmp_path / "a.f32"
    L = np.full(3, 20, np.int32)
    A = np.ones((3, 161), np.float32)
    Wo = np.full(3, np.pi / 21, np.float32)
    codec2_model.write(Wo, L, A, 0 * A, np.zeros(3, np.int32), model)
    codec2_model.write_rate_K(np.repeat([[20], [30], [5]], 14, axis=1), bands)
    A_hat = A * 10 ** (np.array([[1], [3], [40]]) / 20)
    A_hat[:, 19:] *= 100  # from 19 · 190 Hz on
    assert demo.harmonic_sd(model, bands, A_hat) == pytest.approx(5, abs=0.02)
    codec2_model.write_rate_K(np.tile([-7.0, 23], (3, 7)), bands)  # means of 8 dB
    assert demo.harmonic_sd(model, bands, A_hat) is None


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page of four versions of 1.5 s of noise, with a film; returns its folder."""
    monkeypatch.setattr(demo, "objective_quality", lambda *_: (3.21, 0.88))
    monkeypatch.setattr(demo, "PICTURES", (("film/training", "A film"), ("not/there", "Not there")))
    names = ("original", "vq_codec_700")
    versions = [version for version in demo.VERSIONS if version.name in names]
    versions.append(demo.Version("codec2_700C", "Codec 2 <700C>", "700 bit/s", 700))
    versions.append(demo.Version("K20_1100", "K = 20", "1100 bit/s", 1100, True))
    missing = demo.Version("missing", "Missing", "1 bit/s", 1)
    monkeypatch.setattr(demo, "VERSIONS", (*versions, missing))
    for i, version in enumerate(versions):
        demo.write_wav(tmp_path / f"{version.name}.wav", np.roll(speech_like(), 8 * i))
    (tmp_path / "vq_codec_700.bit").write_bytes(bytes(1234))
    (tmp_path / "film").mkdir()
    for ending in ("png", "gif"):
        Image.new("P", (400, 200)).save(tmp_path / "film" / f"training.{ending}")
    passages = [("first", 0, 0.75), ("second", 0.75, 1.5)]
    demo.make_page(tmp_path, '</script> & "quotes".wav', passages, {"K20_1100": 12.34})
    return tmp_path


def test_page_has_its_data(page):
    text = (page / "index.html").read_text(encoding="utf-8")
    blob = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(blob[1])
    assert data["title"] == '</script> & "quotes".wav'
    assert [version["bytes"] for version in data["versions"]] == [24000, 1234, None, None]
    assert [version["step"] for version in data["versions"]] == [False, False, False, True]
    assert [version["sd"] for version in data["versions"]] == [None, None, None, 12.34]
    assert [version["pesq"] for version in data["versions"]] == [None, 3.21, 3.21, 3.21]
    assert data["pictures"] == [{"file": "film/training", "film": True, "text": "A film"}]
    for version in data["versions"]:
        for ending in ("wav", "png"):
            assert (page / f"{version['file']}.{ending}").stat().st_size > 1000
    assert not re.search(r"(src|href)=.?https?:|@import|url\(", text), "has to work offline"


def test_page_in_a_browser(page):
    """Keys and clicks change the version at the same moment; the blind test hides, takes marks,
    reveals and tells them as text; on a phone.
    """
    browsers = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, browsers)), None)
    if browser is None:
        pytest.skip("needs Debian's chromium")
    text = (page / "index.html").read_text(encoding="utf-8")
    test_page = page / "test.html"
    test_page.write_text(text.replace("</body>", f"{LISTENER}</body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--mute-audio"]
    options += ["--remote-debugging-port=0", "--window-size=500,800"]
    options += ["--autoplay-policy=no-user-gesture-required", f"--user-data-dir={page / 'browser'}"]
    with open(page / "browser.log", "w+") as log:
        command = [browser, *options, test_page.as_uri()]
        process = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            assert title_of_page(page / "browser" / "DevToolsActivePort") == "works"
        finally:
            process.terminate()
            process.wait(timeout=30)


def title_of_page(port_file, patience_s=60):
    """The title of the page in the browser, as soon as it is an outcome; the browser tells it at a
    port of its own.
    """
    title, give_up = None, time.monotonic() + patience_s
    while not re.match("works|failed", title or "") and time.monotonic() < give_up:
        time.sleep(0.1)
        if port_file.exists() and (port := port_file.read_text().partition("\n")[0]):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [page["title"] for page in json.load(answer) if page["type"] == "page"]
            title = next(iter(pages), None)
    return title
