import pytest

from llmbench.stats.student import cumulative, quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 6, 8, 9, 24, 101])
def test_agrees_with_scipy(degrees):
    stats = pytest.importorskip("scipy.stats")
    for t in (-3.0, -0.2, 0.0, 0.7, 2.5, 12.0):
        assert cumulative(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), abs=1e-12)
    for probability in (0.6, 0.8, 0.975, 0.9999):
        assert quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-10)


def test_known_values():
    """Abramowitz and Stegun 1964, table 26.10."""
    found = [round(quantile(0.975, degrees), 3) for degrees in (1, 2, 6, 30)]
    assert found == [12.706, 4.303, 2.447, 2.042]
