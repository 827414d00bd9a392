"""Quantities are added and multiplied exactly, and written as Kubernetes writes them."""

from fractions import Fraction

import pytest

from socadapter_api.errors import SpecError
from socadapter_operator.builders import quantities


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("8Gi", 8 * 2**30, id="binary"),
        pytest.param("1.5Gi", 1.5 * 2**30, id="fraction"),
        pytest.param("64G", 64 * 10**9, id="decimal"),
        pytest.param("500m", Fraction(1, 2), id="thousandths"),
        pytest.param("3k", 3000, id="small k"),
        pytest.param("3Ki", 3072, id="large K"),
        pytest.param("7", 7, id="plain"),
    ],
)
def test_parse(text: str, expected: float | Fraction) -> None:
    """Every form that the contract takes is read."""
    assert expected == quantities.parse(text)


@pytest.mark.parametrize("text", ["8GB", "", "-1", "Gi", "1e3", "3K"])
def test_no_quantity(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(SpecError, match="no quantity"):
        quantities.parse(text)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        pytest.param(Fraction(8 * 2**30), "8Gi", id="whole"),
        pytest.param(Fraction(3 * 2**29), "1536Mi", id="next unit"),
        pytest.param(Fraction(64 * 10**9), "62500000Ki", id="decimal"),
        pytest.param(Fraction(1, 3), "1", id="rounded up"),
    ],
)
def test_memory(amount: Fraction, expected: str) -> None:
    """Bytes are written in the largest binary unit that loses nothing."""
    assert expected == quantities.memory(amount)


@pytest.mark.parametrize(
    ("cores", "expected"), [(Fraction(2), "2"), (1.5, "1500m"), (0.1, "100m"), (Fraction(1, 3), "334m")]
)
def test_cores(cores: float | Fraction, expected: str) -> None:
    """Cores are written in thousandths where they are not whole."""
    assert expected == quantities.cores(cores)
