"""IFBench's `custom:` family: tables and lists of dates in a prescribed format."""

import csv
import datetime
import io
import re

from mgsrl.constraints.spec import constraint


def _cells(text: str) -> list[list[str]]:
    """The comma-separated cells of a table, stripped; no rows when it cannot be read."""
    try:
        lines = io.StringIO(text.strip(), newline="")
        rows = list(csv.reader(lines, skipinitialspace=True))
    except csv.Error:  # a cell of more than 128 KiB
        return []
    return [[cell.strip() for cell in row] for row in rows]


def _is_table(rows: list[list[str]], header: list[str], count: int) -> bool:
    return (
        rows[:1] == [header]
        and len(rows) == count + 1
        and all(len(row) == len(header) for row in rows)
    )


@constraint(
    "custom:csv_city",
    "Comma-separated: the header ID, Country, City, Year, Count and 7 rows of 5 cells.",
    statement=(
        'Generate CSV data: The column names are ["ID", "Country", "City", "Year", "Count"], the '
        "data should be comma delimited. Please generate 7 rows."
    ),
)
def csv_city(text: str) -> bool:
    return _is_table(_cells(text), ["ID", "Country", "City", "Year", "Count"], 7)


_QUOTED_SPECIAL = re.compile(r'(?:^|,)[ \t]*"[^"\n]*[^\w\s"][^"\n]*"[ \t]*(?=,|$)', re.MULTILINE)


@constraint(
    "custom:csv_special_character",
    "Comma-separated: header and 14 rows of 5 cells; a quoted cell has a special character.",
    statement=(
        'Generate CSV data: The column names are ["ProductID", "Category", "Brand", "Price", '
        '"Stock"], the data should be comma delimited. Please generate 14 rows. Add one field '
        "which contains a special character and enclose it in double quotes."
    ),
)
def csv_special_character(text: str) -> bool:
    header = ["ProductID", "Category", "Brand", "Price", "Stock"]
    body = text.strip().partition("\n")[2]
    return _is_table(_cells(text), header, 14) and _QUOTED_SPECIAL.search(body) is not None


_ALL_QUOTED = re.compile(r' *"(?:[^"]|"")*" *(?:\t *"(?:[^"]|"")*" *)*')


@constraint(
    "custom:csv_quotes",
    "Tab-separated: header and 3 rows of 5 cells, every cell (the header's too) in double quotes.",
    statement=(
        'Generate CSV data: The column names are ["StudentID", "Subject", "Grade", "Semester", '
        '"Score"], the data should be tab delimited. Please generate 3 rows and enclose each '
        "single field in double quotes."
    ),
)
def csv_quotes(text: str) -> bool:
    header = ["StudentID", "Subject", "Grade", "Semester", "Score"]
    lines = [line.rstrip("\r") for line in text.strip().split("\n")]
    rows = [[cell.strip().strip('"') for cell in line.split("\t")] for line in lines]
    return _is_table(rows, header, 3) and all(map(_ALL_QUOTED.fullmatch, lines))


@constraint(
    "custom:date_format_list",
    "Dates of Napoleon's life (1769 to 1821) as YYYY-MM-DD, separated by commas; nothing else.",
    statement=(
        "List the start dates of all the battles Napoleon fought separated by commas, use the "
        "following date format: YYYY-MM-DD. Do not provide an explanation."
    ),
)
def date_format_list(text: str) -> bool:
    return all(_is_date_of_napoleon(date.strip()) for date in text.split(","))


def _is_date_of_napoleon(text: str) -> bool:
    if not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return False
    try:
        return 1769 <= datetime.date.fromisoformat(text).year <= 1821
    except ValueError:
        return False
