"""Units of measure: their names and sizes."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

Unit = tuple[Fraction, tuple[tuple[str, int], ...]]
"""Size in base units, and the base units with their exponents. An unknown word is its own base unit."""

_TABLE = {
    "length": "m=1 meter metre|mm=1/1000 millimeter millimetre|cm=1/100 centimeter centimetre|dm=1/10 decimeter|"
    "km=1000 kilometer kilometre kms|in=127/5000 inch|ft=381/1250 foot|yd=1143/1250 yard|mi=201168/125 mile|"
    "um=1/1000000 micrometer micron|nm=1/1000000000 nanometer|ly=9460730472580800 lightyear",
    "time": "s=1 sec second secs|ms=1/1000 millisecond|min=60 minute mins|h=3600 hr hour hrs|day=86400|week=604800 wk|"
    "fortnight=1209600",
    "month": "month=1 mo|year=12 yr yrs|decade=120|century=1200",
    "mass": "g=1 gram gm gms gramme|mg=1/1000 milligram|kg=1000 kilogram kgs kilo|tonne=1000000 ton|"
    "lb=45359237/100000 pound lbs|oz=45359237/1600000 ounce",
    "volume": "l=1 liter litre L|ml=1/1000 milliliter millilitre mL|cl=1/100 centiliter centilitre|dl=1/10 deciliter|"
    "gal=473176473/125000000 gallon|qt=473176473/500000000 quart|pt=473176473/1000000000 pint",
    "dollar": "dollar=1 usd buck|cent=1/100 c ¢ penny",
    "euro": "euro=1 eur €",
    "sterling": "£=1 gbp pence=1/100 quid",
    "yuan": "yuan=1 rmb cny 元|yen=1 jpy 円 ¥",
    "rupee": "rupee=1 rs inr ₹|paisa=1/100 paise",
    "angle": "deg=1 degree °|arcmin=1/60",
    "radian": "rad=1 radian",
    "celsius": "celsius=1 °C degC centigrade",
    "fahrenheit": "fahrenheit=1 °F degF",
    "kelvin": "K=1 kelvin",
    "energy": "J=1 joule|kJ=1000 kilojoule|cal=4184/1000 calorie|kcal=4184 kilocalorie|kWh=3600000|"
    "eV=1/6241509074460762607 electronvolt",
    "force": "N=1 newton|kN=1000 kilonewton",
    "power": "W=1 watt|kW=1000 kilowatt|MW=1000000 megawatt|hp=746 horsepower",
    "pressure": "Pa=1 pascal|kPa=1000 kilopascal|atm=101325|bar=100000",
    "voltage": "V=1 volt|mV=1/1000 millivolt|kV=1000 kilovolt",
    "current": "A=1 amp ampere|mA=1/1000 milliamp",
    "resistance": "ohm=1 Ω|kohm=1000",
    "frequency": "Hz=1 hertz|kHz=1000 kilohertz|MHz=1000000 megahertz|rpm=1/60",
    "amount": "mol=1 mole|mmol=1/1000 millimole",
    "data": "bit=1|byte=8 B|KB=8000 kilobyte|MB=8000000 megabyte|GB=8000000000 gigabyte",
    "plane": "acre=1|hectare=247105/100000 ha",
    "": "unit=1|point=1",
}
_COMPOUND = {
    "mph": "mi/h",
    "kmph": "km/h",
    "kph": "km/h",
    "mps": "m/s",
    "sqm": "m^2",
    "sqft": "ft^2",
    "cc": "cm^3",
    "fps": "ft/s",
}
SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "万": 10**4,
    "亿": 10**8,
}
CURRENCIES = {
    "$": "dollar",
    "€": "euro",
    "£": "£",
    "¥": "yuan",
    "₹": "rupee",
    "usd": "dollar",
    "eur": "euro",
    "gbp": "£",
    "rs": "rupee",
    "inr": "rupee",
    "rmb": "yuan",
    "cny": "yuan",
    "jpy": "yen",
    "us$": "dollar",
    "₽": "ruble",
    "₩": "won",
    "cad": "dollar",
    "aud": "dollar",
}
_CJK = {
    "米": "m",
    "厘米": "cm",
    "毫米": "mm",
    "千米": "km",
    "公里": "km",
    "克": "g",
    "千克": "kg",
    "公斤": "kg",
    "吨": "tonne",
    "升": "l",
    "毫升": "ml",
    "秒": "s",
    "分钟": "min",
    "分": "min",
    "小时": "h",
    "天": "day",
    "日": "day",
    "周": "week",
    "月": "month",
    "年": "year",
    "时間": "h",
    "時間": "h",
    "度": "deg",
    "平方米": "m^2",
    "平方厘米": "cm^2",
    "立方米": "m^3",
    "立方厘米": "cm^3",
    "メートル": "m",
    "キロ": "km",
    "美元": "dollar",
    "块": "yuan",
    "角": "jiao",
}


def _read_table() -> dict[str, Unit]:
    known: dict[str, Unit] = {}
    for dimension, rows in _TABLE.items():
        for row in rows.split("|"):
            size = None
            for word in row.split():
                name, _, number = word.partition("=")
                size = Fraction(number) if number else size
                base = ((dimension, 1),) if dimension else ()
                known[name] = (size, base)
    return known


_KNOWN = _read_table()
_LOWER = {name.lower(): unit for name, unit in reversed(_KNOWN.items()) if len(name) > 1}
_TOKEN = re.compile(
    r"\s*(?:(\^\s*\{?\s*(-?\d)\s*\}?)|(/|\bper\b|\ba\b(?=\s+[a-z]))|(\\cdot|\*|-|\.(?!\s*$))|(square|sq\.?|cubic|cu\.?)(?![A-Za-z])|(\^\\circ\s*[CFK]?(?![A-Za-z])|°\s*[CFK]?(?![A-Za-z]))|([A-Za-zΩ¢€£¥₹$]+|[\u3040-\u30ff\u3400-\u9fff]+)\.?(?:\s+(squared|cubed)\b)?|([()]))"
)
_DEGREES = re.compile(r"\bdegrees?\s+(celsius|centigrade|fahrenheit|kelvin)\b", re.IGNORECASE)
_NO_UNIT = re.compile(r"\b(?:than|times|not|never|plus|minus)\b", re.IGNORECASE)  # `5 more than x`
_IGNORED = {
    "of",
    "the",
    "each",
    "total",
    "in",
    "and",
    "about",
    "approximately",
    "are",
    "there",
    "long",
    "old",
    "away",
    "left",
    "only",
    "exactly",
}


def known(word: str) -> bool:
    """Whether the word is a known unit."""
    return _lookup(word) is not None


def read(text: str, strict: bool = False) -> Unit | None:
    """Parses a text as a unit: `cm`, `m/s`, `kg m^2`, `square meters`, `dollars per hour`; None if it is not one.

    Args:
        strict: accept only known units; else any words.
    """
    text = _DEGREES.sub(r"\1", text)
    if _NO_UNIT.search(text):
        return None
    size, base, where, sign, raised, found = Fraction(1), Counter(), 0, 1, 1, 0
    while where < len(text):
        match = _TOKEN.match(text, where)
        if not match:
            return None if text[where:].strip() else _done(size, base, found)
        where = match.end()
        if match[1]:
            return None
        if match[3]:
            sign = -1
            continue
        if match[5]:
            raised = 2 if match[5].startswith("s") else 3
            continue
        if match[4] or match[9]:
            continue
        word = match[6].replace(" ", "").replace("^\\circ", "°") if match[6] else match[7]
        power = 1
        if (exponent := _TOKEN.match(text, where)) and exponent[1]:
            power, where = int(exponent[2]), exponent.end()
        power *= {"squared": 2, "cubed": 3}.get(match[8] or "", 1) * raised * sign
        raised = 1
        scale = SCALES.get(word.lower().rstrip("s") if word.lower() not in SCALES else word.lower())
        if scale:
            size *= scale
            found += 1
            continue
        unit = _lookup(word)
        if unit is None:
            if strict:
                return None
            if word.lower() in _IGNORED:
                continue
            unit = (Fraction(1), ((f"word:{_singular(word.lower())}", 1),))
        found += 1
        size *= unit[0] ** power
        for name, exponent in unit[1]:
            base[name] += exponent * power
    return _done(size, base, found)


def _done(size: Fraction, base: Counter[str], found: int) -> Unit | None:
    if not found:
        return None
    if base.get("volume"):  # a liter is a cubic decimeter
        size *= Fraction(1, 1000) ** base["volume"]
        base["length"] += 3 * base.pop("volume")
    return size, tuple(sorted((name, power) for name, power in base.items() if power))


def _lookup(word: str) -> Unit | None:
    if word in _KNOWN:
        return _KNOWN[word]
    if word in _CJK:
        return read(_CJK[word], strict=True)
    low = word.lower()
    for name in (low, _singular(low)):
        if name in _COMPOUND:
            return read(_COMPOUND[name], strict=True)
        if name in _LOWER:
            return _LOWER[name]
    return _KNOWN["ft"] if low == "feet" else None


def _singular(word: str) -> str:
    for ending, put in (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("sses", "ss"), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 1 and not word.endswith("ss"):
            return word[: -len(ending)] + put
    return {
        "feet": "foot",
        "children": "child",
        "people": "person",
        "men": "man",
        "women": "woman",
        "pence": "penny",
    }.get(word, word)
