"""A calculator: the text of an expression in, its exact value as text out.

Numbers are fractions of whole numbers, so nothing is rounded on the way. The text is parsed by
Python's grammar of expressions and walked; it is never run.
"""
from __future__ import annotations

import ast
import re
from decimal import Context, Decimal
from fractions import Fraction

LONGEST = 1000                  # characters of an expression
DIGITS = 1000                   # of a number on the way, above or below its fraction's line
SHOWN = 12                      # significant digits of a value that no decimals write exactly
SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "**"})
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def calculate(expression: str) -> str:
    """The value of + - * / // % ** and brackets over whole and decimal numbers: a whole number, or
    decimals that are exact ("0.125"), or SHOWN digits of them ("0.333333333333"). Thousands
    may be set off by commas; × ÷ − and ^ are understood; a number behind % that nothing follows is
    a percentage. A ValueError says why there is no value."""
    text = expression.strip()
    if not text:
        raise ValueError("the expression is empty")
    if len(text) > LONGEST:
        raise ValueError(f"the expression has {len(text):,} characters, wanted at most {LONGEST:,}")
    text = THOUSANDS.sub(lambda found: found[0].replace(",", ""), text.translate(SIGNS))
    text = re.sub(r"(\d)\s*%(?=\s*(?:$|[-+*/)]))", r"\1/100", text)
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text)     # 007, which Python refuses
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{expression[:60]!r} is no expression of numbers") from None
    try:
        return written(_value(tree.body, text))
    except RecursionError:
        raise ValueError("the expression is nested too deeply") from None


def written(value: Fraction) -> str:
    """As people write it."""
    below, twos, fives = value.denominator, 0, 0
    while below % 2 == 0:
        below, twos = below // 2, twos + 1
    while below % 5 == 0:
        below, fives = below // 5, fives + 1
    places = max(twos, fives)
    if below == 1 and places <= SHOWN:
        digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
        whole, rest = digits[:len(digits) - places], digits[len(digits) - places:]
        return "-" * (value < 0) + whole + f".{rest}" * bool(rest)
    rounding = Context(prec=SHOWN)
    return str(rounding.divide(Decimal(value.numerator), Decimal(value.denominator)))


def _value(node: ast.expr, text: str) -> Fraction:
    """Of a part of the expression."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        source = text.encode()[node.col_offset:node.end_col_offset].decode().replace("_", "")
        return _small(Fraction(node.value if type(node.value) is int else _decimal(source)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        value = _value(node.operand, text)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, text), _value(node.right, text)
        return _small(_combined(node.op, left, right))
    raise ValueError(f"{(ast.get_source_segment(text, node) or text)[:40]!r} is no number; wanted "
                     "numbers, + - * / // % ** and brackets")


def _decimal(source: str) -> str:
    """A decimal number's text, if it is not too long when it is written out."""
    if abs(Decimal(source).adjusted()) > DIGITS:
        raise ValueError(f"the number {source[:20]} is too large or too small")
    return source


def _combined(op: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    if isinstance(op, (ast.Div, ast.FloorDiv, ast.Mod)) and right == 0:
        raise ValueError("division by zero")
    if isinstance(op, ast.Pow):
        return _power(left, right)
    for kind, combine in ((ast.Add, Fraction.__add__), (ast.Sub, Fraction.__sub__),
                          (ast.Mult, Fraction.__mul__), (ast.Div, Fraction.__truediv__),
                          (ast.FloorDiv, Fraction.__floordiv__), (ast.Mod, Fraction.__mod__)):
        if isinstance(op, kind):
            return Fraction(combine(left, right))
    raise ValueError("wanted numbers, + - * / // % ** and brackets")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ValueError(f"the exponent {written(exponent)} is no whole number")
    if base == 0 and exponent < 0:
        raise ValueError("division by zero")
    longest = max(abs(base.numerator), base.denominator)
    if longest > 1 and abs(exponent) * longest.bit_length() > 8 * DIGITS:
        raise ValueError("the power is too large")
    return base**int(exponent % 2 if longest == 1 else exponent)


def _small(value: Fraction) -> Fraction:
    """The value, unless it has too many digits to be of use."""
    if max(abs(value.numerator), value.denominator) >= 10**DIGITS:
        raise ValueError(f"a number on the way has more than {DIGITS:,} digits")
    return value
