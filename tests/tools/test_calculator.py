"""llmc.tools.calculator: exact, by Python's own fractions; whatever else is written is refused in a sentence."""
from __future__ import annotations

import random
import time
from decimal import Decimal
from fractions import Fraction

import pytest
from llmc.tools.calculator import calculate


@pytest.mark.parametrize("expression, value", [
    ("48/2", "24"), ("1234+8766", "10000"), ("1,234 + 1", "1235"), ("2**10", "1024"), ("2^10", "1024"), ("7//2", "3"),
    ("-7 % 3", "2"), ("+30+46", "76"), ("71+-3", "68"), ("3*+6", "18"), (".5*4", "2"), ("0.1+0.2", "0.3"), ("1/8", "0.125"),
    ("1/3", "0.333333333333"), ("-1/8", "-0.125"), ("9.11 - 9.9", "-0.79"), ("6 × 7", "42"), ("9 ÷ 2", "4.5"), ("5 − 8", "-3"),
    ("(1 + 2) * 3", "9"), ("007 + 1", "8"), ("50%", "0.5"), ("20% * 50", "10"), ("10 % 4", "2"), ("2**-2", "0.25"),
    ("0", "0"), ("1e3", "1000"), ("10**12", "1000000000000"), ("(-1)**99999999", "-1"), ("100/7", "14.2857142857"), ("0.10", "0.1")])
def test_values(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize("expression, why", [
    ("", "is empty"), ("1/0", "division by zero"), ("0**-1", "division by zero"), ("1 % 0", "division by zero"),
    ("2 +", "no expression"), ("x + 1", "'x' is no number"), ("__import__('os')", "is no number"), ("9**9**9", "too large"),
    ("2**0.5", "no whole number"), ("1e999999999", "too large"), ("1" * 2000, "2,000 characters"), ("(" * 500 + ")" * 500, "no expression"),
    ("1 if 1 else 2", "is no number"), ("True", "is no number"), ("1j", "is no number"), ("1 < 2", "is no number"),
    ("9" * 600 + "*" + "9" * 390 + "**2", "digits"), ("[1]", "is no number"), ("1 & 1", "wanted numbers"), ("~1", "is no number")])
def test_refusals(expression, why):
    with pytest.raises(ValueError, match=why.replace("(", r"\(")):
        calculate(expression)


def test_random_expressions_have_the_value_of_fractions():
    draw = random.Random(3)
    for _ in range(3000):
        text = str(draw.randrange(1000))
        for _ in range(draw.randrange(1, 5)):
            number = draw.choice([str(draw.randrange(1, 10**4)), f"{draw.randrange(1000)}.{draw.randrange(1, 100):02}"])
            text = f"({text})" * (draw.random() < 0.3) or text
            text += f" {draw.choice(['+', '-', '*', '/', '//'])} {number}"
        plain = [f"Fraction('{part}')" if part[0].isdigit() else part
                 for part in text.replace("(", "( ").replace(")", " )").split()]
        try:
            expected = Fraction(eval(" ".join(plain)))     # of numbers that this test wrote
        except ZeroDivisionError:
            continue
        found = Fraction(Decimal(calculate(text)))
        assert found == expected or abs(found - expected) <= abs(expected) / 10**11 and 10**12 % expected.denominator


def test_nonsense_is_refused_quickly():
    draw = random.Random(4)
    begun = time.monotonic()
    for _ in range(5000):
        text = "".join(draw.choices("0123456789+-*/%.()e^_ ,x'[]\x00é×", k=draw.randrange(1, 60)))
        try:
            assert calculate(text)
        except ValueError as error:
            assert str(error)
    assert time.monotonic() - begun < 60
