"""Made-up predictions, and a browser to look at what is written of them."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest

from pipeline.ham10000.taxonomy import HAM10000


def make_predictions(n: int = 400, seed: int = 0, *, seven: bool = True) -> pd.DataFrame:
    """Synthetic predictions with HAM10000's class shares, several images a lesion, and ties."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.08, 0.08, 0.11, 0.02, 0.11, 0.58, 0.02])
    lesion = np.sort(rng.integers(0, max(int(n * 0.75), 1), n))
    dx_of_lesion = rng.choice(len(HAM10000.classes), lesion.max() + 1, p=shares)
    dx = dx_of_lesion[lesion]
    label = np.array(HAM10000.is_malignant)[dx]
    logit = rng.normal(size=n) + 1.8 * label - 1.4
    prob = np.round(1 / (1 + np.exp(-logit)), 2)  # two decimals: many ties
    frame = pd.DataFrame(
        {
            "image_id": [f"ISIC_{i:07d}" for i in rng.permutation(n)],
            "lesion_id": [f"HAM_{i:07d}" for i in lesion],
            "dx": np.array(HAM10000.classes)[dx],
            "label": label,
            "prob_malignant": prob,
            "predicted": (prob >= 0.4).astype(int),
            "prob_uncalibrated": 1 / (1 + np.exp(-2 * logit)),
            "group": [f"HAM_{i - (i % 40 == 1):07d}" for i in lesion],  # some lesions joined
            "age": rng.choice([15.0, 30.0, 45.0, 50.0, 65.0, 85.0, np.nan], n),
            "sex": rng.choice(["male", "female", "unknown"], n, p=[0.5, 0.48, 0.02]),
            "localization": rng.choice(
                ["back", "face", "trunk", "ear"], n, p=[0.4, 0.3, 0.27, 0.03]
            ),
            "dx_type": rng.choice(["histo", "follow_up", "consensus"], n),
            "sharpness": rng.gamma(2.0, 100.0, n),
            "brightness": rng.normal(150, 20, n),
        }
    )
    if seven:
        scores = rng.dirichlet(np.ones(len(HAM10000.classes)), n)
        scores[np.arange(n), dx] += 0.4
        scores /= scores.sum(axis=1, keepdims=True)
        frame[[f"prob_{d}" for d in HAM10000.classes]] = scores
        frame["predicted_dx"] = np.array(HAM10000.classes)[scores.argmax(axis=1)]
    return frame


@pytest.fixture(scope="session")
def unchanged() -> pd.DataFrame:
    """What ``predictions`` copies. Read only."""
    return make_predictions()


@pytest.fixture
def predictions(unchanged) -> pd.DataFrame:
    return unchanged.copy()


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


class Browser:
    """One tab of headless Chromium, spoken to by its DevTools pipe: no package, no port.

    browser.open(page, width=390, media={"prefers-color-scheme": "dark"})
    browser.ask("document.documentElement.scrollWidth")
    """

    def __enter__(self) -> Self:
        assert CHROMIUM
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs, self.out = os.pipe()
        self.into, back = os.pipe()
        words = ("--headless", "--no-sandbox", "--hide-scrollbars", "--remote-debugging-pipe")
        redirected = f'exec "$@" 3<&{theirs} 4>&{back}'  # Chromium reads 3 and writes 4
        self.process = subprocess.Popen(
            ["bash", "-c", redirected, "", CHROMIUM, *words, f"--user-data-dir={self.home.name}"],
            pass_fds=(theirs, back),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(back)
        self.heard, self.number, self.session = b"", 0, ""
        pages = self.call("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        self.call("Page.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.into)
        self.home.cleanup()

    def hear(self) -> dict[str, Any]:
        """Return the next message."""
        while b"\0" not in self.heard:
            data = os.read(self.into, 1 << 20)
            assert data, "Chromium has ended"
            self.heard += data
        message, _, self.heard = self.heard.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return what a method of the DevTools protocol gives."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (answer := self.hear()).get("id") != self.number:
            pass
        assert "result" in answer, answer
        return answer["result"]

    def open(
        self, page: Path, *, width: int, kind: str = "", media: dict[str, str] | None = None
    ) -> None:
        """Load a page and its images at a width, as if on "print" if so, with media features."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": name, "value": value} for name, value in (media or {}).items()]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)
        self.call("Page.setBypassCSP", enabled=True)
        self.call("Page.navigate", url=page.resolve().as_uri())
        while self.hear().get("method") != "Page.loadEventFired":
            pass
        self.ask(
            "document.querySelectorAll('img').forEach(i => i.loading = 'eager');"
            "Promise.all(Array.from(document.images, i => i.decode())).then(() => 0)"
        )

    def ask(self, script: str) -> Any:
        """Return the value of an expression, awaited."""
        how = {"returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", expression=script, **how)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """Return the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def pdf(self) -> bytes:
        """Return the page as it prints."""
        answer = self.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        return base64.b64decode(answer["data"])


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no Chromium (apt-get install chromium)")
    with Browser() as opened:
        yield opened
