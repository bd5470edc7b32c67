// A field of numbers ignores a comma, and "0,5" would be 5: in a field that takes decimals a comma is
// meant as a decimal point, on any keyboard; not where it parts thousands, as another one or a point says.
document.addEventListener("beforeinput", (event) => {
  if (event.target.inputMode !== "decimal" || event.target.type !== "number") return;
  const data = event.data ?? "";
  if (data.split(",").length !== 2 || (event.target.value + data).includes(".")) return;
  event.preventDefault();
  document.execCommand("insertText", false, data.replace(",", "."));
});
