from appliance.registers import REGISTERS
from tools.plc_doc import DOCUMENT, document


def test_the_register_document_is_what_the_code_says() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run: python -m tools.plc_doc"


def test_every_register_is_in_it() -> None:
    text = document()
    assert all(f"| {name} |" in text for name in REGISTERS)
    assert "| 16#A5C3 | OK |" in text
    assert "| b7 | result valid |" in text
