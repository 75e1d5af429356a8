"""Texts to print: words of signs, codes, prices, times and random characters, 1 to 12 long."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
PUNCTUATION = ".,!?-:/&+#%()$@"
CHARACTERS = LETTERS + DIGITS + PUNCTUATION + " "
MAX_LENGTH = 12

_WORDS = """
OPEN CLOSED EXIT ENTRY STOP GO PUSH PULL TAXI BUS TRAIN HOTEL CAFE BAR BAKERY BOOKS FLOWERS SALE
FREE NEW HOT COLD WATER MILK BREAD COFFEE TEA SUGAR SALT RICE FISH MEAT FRUIT APPLE LEMON ORANGE
CHERRY PEACH GRAPE MELON ROOM FLOOR GATE DOOR DESK TABLE OFFICE LOBBY TOILET LIFT STAIRS PARKING
NORTH SOUTH EAST WEST LEFT RIGHT UP DOWN CITY PARK LAKE RIVER BEACH BRIDGE TOWER MUSEUM SCHOOL
LIBRARY BANK POST POLICE DOCTOR MARKET STATION AIRPORT HARBOUR MONDAY TUESDAY FRIDAY SUNDAY JUNE
JULY MARCH APRIL MAY SUMMER WINTER SPRING AUTUMN RED BLUE GREEN YELLOW BLACK WHITE HELLO WELCOME
THANKS PLEASE SORRY YES NO DANGER WARNING CAUTION PRIVATE PUBLIC QUIET SLOW FAST HIGH LOW FIRE
WOOD STONE GLASS PAPER METAL SILVER GOLD HORSE TIGER ZEBRA RABBIT MOUSE EAGLE ROBIN JAZZ MUSIC
PIANO GUITAR DANCE VIDEO RADIO PHONE EMAIL WIFI USB PIXEL QUARTZ OXYGEN KIWI VIOLET JUNGLE PUZZLE
""".split()


def random_text(rng: np.random.Generator, max_length: int = MAX_LENGTH) -> str:
    """A text of 1 to `max_length` characters of `CHARACTERS`, no space at its ends."""
    while True:
        makers = (_random_characters, _words, _structured)
        text = makers[rng.choice(3, p=[0.2, 0.5, 0.3])](rng)
        if 1 <= len(text) <= max_length:
            return text


def _pick(rng: np.random.Generator, characters: str, count: int) -> str:
    return "".join(characters[n] for n in rng.integers(len(characters), size=count))


def _random_characters(rng: np.random.Generator) -> str:
    length = int(rng.integers(1, MAX_LENGTH + 1))
    alphabet = (LETTERS, LETTERS + DIGITS, DIGITS, LETTERS + DIGITS + PUNCTUATION)
    return _pick(rng, alphabet[rng.choice(4, p=[0.3, 0.3, 0.15, 0.25])], length)


def _words(rng: np.random.Generator) -> str:
    first, second = (_WORDS[n] for n in rng.integers(len(_WORDS), size=2))
    number = str(rng.integers(1, 1000))
    mark = PUNCTUATION[rng.integers(4)]
    forms = (first, f"{first} {second}", f"{first} {number}", f"{first}{mark}", f"{number} {first}")
    return forms[rng.choice(5, p=[0.35, 0.2, 0.2, 0.15, 0.1])]


def _structured(rng: np.random.Generator) -> str:
    n = rng.integers(0, 100, size=4)
    letters = _pick(rng, LETTERS, 3)
    forms: tuple[Callable[[], str], ...] = (
        lambda: f"${n[0]}.{n[1]:02d}",
        lambda: f"{n[0] % 24:02d}:{n[1] % 60:02d}",
        lambda: f"{n[0]}%",
        lambda: f"{letters}-{n[0]}{n[1]}",
        lambda: f"{n[0] % 31 + 1}/{n[1] % 12 + 1}/{n[2]:02d}",
        lambda: f"({n[0]}) {n[1]}{n[2]}",
        lambda: f"#{n[0]}{n[1]}",
        lambda: f"{letters[0]}+{letters[1]}",
        lambda: f"{letters[:2]} {n[0]}{n[1]}",
        lambda: f"{letters[0]}&{letters[1]}",
        lambda: f"@{letters}{n[0]}",
        lambda: f"{n[0]},{n[1]:02d}{n[2] % 10}",
        lambda: f"+{n[0]} {n[1]}{n[2]}",
    )
    return forms[rng.integers(len(forms))]()
