"""Tables of names and thresholds of classes."""

import pytest

from esc_jax.inference import class_table
from esc_jax.inference.class_table import ClassTableError

CLASSES = ("dog", "sea_waves", "rain")


def write(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_names_and_numbers(tmp_path, separator):
    path = write(tmp_path, f"class{separator}name\nrain{separator}Regen\ndog{separator}Hund\n")
    names = class_table.read_names(path, CLASSES)
    assert names == {"rain": "Regen", "dog": "Hund"}
    assert class_table.renamed(CLASSES, names) == ("Hund", "sea_waves", "Regen")
    path = write(tmp_path, f"class{separator}threshold\nrain{separator}0.25\ndog{separator}1\n")
    assert class_table.read_numbers(path, CLASSES) == {"rain": 0.25, "dog": 1.0}


def test_a_header_is_optional(tmp_path):
    path = write(tmp_path, "rain,Regen\ndog,dog\n")
    assert class_table.read_names(path, CLASSES) == {"rain": "Regen", "dog": "dog"}
    assert class_table.read_names(write(tmp_path, "dog,Hund"), CLASSES) == {"dog": "Hund"}
    path = write(tmp_path, "rain;0.25\ndog;1\n")
    assert class_table.read_numbers(path, CLASSES) == {"rain": 0.25, "dog": 1.0}
    # A number is no header, even beside a name that is no class.
    assert class_table.read_numbers(write(tmp_path, "rian,0.25\ndog,1\n"), CLASSES) == {"rian": 0.25, "dog": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,name\nrain,Regen\nrain,Schauer\n", "line 3: the class rain has two lines"),
        ("class,name\nrain,\n", "the class rain has no name"),
        ("class,name\nowl,Eule\n", "the model has no class 'owl'"),
        ("class,name\nrain,dog\n", "two classes would be called 'dog'"),
        ("rain,Regen\nrain,Schauer\n", "line 2: the class rain has two lines"),
        ("rain,Regen\ndog,Hund,x\n", "line 2: 3 values, but the first line has 2"),
        ("class,name\n", "has no rows below its header"),
        ("", "is empty: its first line names the columns, for example class,name"),
        ("class\nrain\n", "one column, 'class': a class and its name are separated by comma, semicolon or tab"),
    ],
)
def test_names_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(ClassTableError, match=message):
        class_table.renamed(["rain", "dog"], class_table.read_names(write(tmp_path, text), ["rain", "dog"]))


@pytest.mark.parametrize("value", ["much", "nan", "1.5", "-0.1", "inf"])
def test_thresholds_that_are_no_probabilities(tmp_path, value):
    with pytest.raises(ClassTableError, match=f"the threshold of rain, '{value}', is not a number from 0 to 1"):
        class_table.read_numbers(write(tmp_path, f"class,threshold\nrain,{value}\n"), CLASSES)


@pytest.mark.parametrize("header", ["", "class;threshold\n", "class\tthreshold\n"])
def test_a_decimal_comma_is_named(tmp_path, header):
    separator = "\t" if "\t" in header else ";"
    with pytest.raises(ClassTableError, match="the threshold of rain, '0,7', has a comma: use a decimal point"):
        class_table.read_numbers(write(tmp_path, f"{header}rain{separator}0,7\ndog{separator}0,2\n"), CLASSES)
    with pytest.raises(ClassTableError, match="a class and its threshold are separated by"):
        class_table.read_numbers(write(tmp_path, "rain 0.7\n"), CLASSES)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_that_a_spreadsheet_has_saved(tmp_path, encoding):
    path = tmp_path / "table.csv"
    path.write_text("dog;Hündin\n", encoding=encoding)
    assert class_table.read_names(path, CLASSES) == {"dog": "Hündin"}
    path.write_text("dog;0.5\n", encoding=encoding)
    assert class_table.read_numbers(path, CLASSES) == {"dog": 0.5}
