"use strict";

// Text of models as it is: never as markup, and with nothing in it that the eye would miss.

// Controls, formats (bidirectional overrides, zero width), surrogates, private and unassigned characters, separators,
// whatever else is not drawn, and spaces other than the usual one.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]|(?! )\p{Zs}/gu;

/** How a character that `HIDDEN` matches is written. */
function spelled(character) {
  if (character === "\n") return "↵";
  if (character === "\t") return "⇥";
  const code = character.codePointAt(0);
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`;
}

/** `text` in one line. */
function oneLine(text) {
  return text.replace(HIDDEN, spelled);
}

/** Append `text` to `element`, with line breaks, and with hidden characters set apart. */
function appendText(element, text) {
  let at = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (match.index > at) element.append(text.slice(at, match.index));
    element.append(make("span", "hidden-character", spelled(match[0])));
    if (match[0] === "\n") element.append("\n");
    at = match.index + match[0].length;
  }
  if (at < text.length) element.append(text.slice(at));
}

/** A new element with a class and a text. */
function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== "") element.textContent = text;
  return element;
}

/** A number in few characters, with a real minus sign. */
function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const plain = size === 0 || (size >= 0.0005 && size < 1e6);
  const text = plain ? String(Number(value.toPrecision(size < 1000 ? 3 : 6))) : Number(value.toPrecision(2)).toExponential();
  return text.replaceAll("-", "−").replace("e+", "e");
}

/** The same with its sign. */
function signed(value) {
  return value > 0 ? `+${short(value)}` : short(value);
}
