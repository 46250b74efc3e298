import numpy as np
import pandas as pd
import pytest

from pipeline.ham10000.taxonomy import DX, DX_IS_MALIGNANT


def make_predictions(n: int = 400, seed: int = 0, *, seven: bool = True) -> pd.DataFrame:
    """Synthetic predictions with HAM10000's class shares, several images a lesion, and ties."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.08, 0.08, 0.11, 0.02, 0.11, 0.58, 0.02])
    lesion = np.sort(rng.integers(0, max(int(n * 0.75), 1), n))
    dx_of_lesion = rng.choice(len(DX), lesion.max() + 1, p=shares)
    dx = dx_of_lesion[lesion]
    label = np.array(DX_IS_MALIGNANT)[dx]
    logit = rng.normal(size=n) + 1.8 * label - 1.4
    prob = np.round(1 / (1 + np.exp(-logit)), 2)  # two decimals: many ties
    frame = pd.DataFrame(
        {
            "image_id": [f"ISIC_{i:07d}" for i in rng.permutation(n)],
            "lesion_id": [f"HAM_{i:07d}" for i in lesion],
            "dx": np.array(DX)[dx],
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
        scores = rng.dirichlet(np.ones(len(DX)), n)
        scores[np.arange(n), dx] += 0.4
        scores /= scores.sum(axis=1, keepdims=True)
        frame[[f"prob_{d}" for d in DX]] = scores
        frame["predicted_dx"] = np.array(DX)[scores.argmax(axis=1)]
    return frame


@pytest.fixture(scope="session")
def unchanged() -> pd.DataFrame:
    """What ``predictions`` copies. Read only."""
    return make_predictions()


@pytest.fixture
def predictions(unchanged) -> pd.DataFrame:
    return unchanged.copy()
