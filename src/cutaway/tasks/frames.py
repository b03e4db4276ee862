"""Whole sentences with slots, which stories, biographies and passages are made of."""

from __future__ import annotations

FEMALE = {"She": "She", "she": "she", "her": "her", "Her": "Her", "own": "her", "child": "girl", "adult": "woman"}
MALE = {"She": "He", "she": "he", "her": "him", "Her": "His", "own": "his", "child": "boy", "adult": "man"}
"""What agrees with a name: frames keep their pronouns in slots, so the same sentences serve women and men."""

JOBS = ("teacher", "doctor", "nurse", "farmer", "singer", "painter", "writer", "baker", "driver", "lawyer")
QUALITIES = ("kind", "clever", "quiet", "happy", "rich", "tall")

LIFE_OPENINGS = {
    "born": "{name} was born in {country}.",
    "grew-up": "{name} grew up in {city}.",
    "from": "{name} comes from {country}.",
    "job": "{name} is a {job} in {city}.",
}
LIFE = (
    "{She} lives in {city} and works as a {job}.",
    "{She} works at the {place}.",
    "{Her} mother was a {job}.",
    "{Her} father worked at the {place}.",
    "As a {child}, {she} wanted to be a {job}.",
    "{She} loves {own} work.",
    "The neighbors like {her} because {she} is {quality}.",
    "{She} is a {quality} {adult}.",
    "{She} and {own} brother live near the {place}.",
    "A friend taught {her} to sing.",
    "Everybody knows {her} and {own} dog.",
    "When {she} was young, {own} family moved to {country}.",
)

ABOUT_ONE = (
    "{name} was tired.",
    "{name} looked at the {object}.",
    "{name} was happy to be there.",
    "The {object} belonged to {name}.",
    "Everybody could hear {name}.",
    "{name} talked about the {object} for a while.",
    "It was the first time {name} saw the {place}.",
)
ABOUT_NOBODY = (
    "It was raining.",
    "The {place} was quiet.",
    "There was a {object} on the table.",
    "The day was long and warm.",
    "Music came from the {place}.",
)
