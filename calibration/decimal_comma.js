// A field of numbers ignores a comma, and "0,5" would be 5: what is typed or pasted with one is meant
// as a decimal point, on any keyboard.
document.addEventListener("beforeinput", (event) => {
  if (event.target.type !== "number" || !event.data?.includes(",")) return;
  event.preventDefault();
  document.execCommand("insertText", false, event.data.replaceAll(",", "."));
});
